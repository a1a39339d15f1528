"""The daemon: it runs policies at their hours, one cycle at a time, for as long as it is let.

Three threads have a part in it. The scheduler's says when a policy is due. One worker goes
through the cycles that are due, one after the other, so that there are never two at once. The main
thread listens to signals and tells the service manager that all three are alive. A fourth serves
API and metrics, from what the others put up for it; without it everything goes on as well. A
fifth keeps finding out whether this daemon leads: one that stands by for another looks at nothing.
A sixth looks, while the end of a migration is in doubt, whether its VM runs twice.

    SIGHUP          settings and policies are read anew; if they are bad the old ones stay
    SIGTERM, SIGINT nothing new is started, and after a moment's grace the process leaves;
                    transfers are peer to peer and go on, and the next start adopts them

No error in a cycle ends the loop: it becomes that cycle's verdict.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rebalancer.collect.remembered_use import UseMemory
from rebalancer.errors import ExitCode, LockHeldError, RebalancerError
from rebalancer.rollout.events import Event
from rebalancer.rollout.leaders import Leaders
from rebalancer.rollout.steps import StopRequest
from rebalancer.service import api_daemon
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.api_notices import Noticeboard, Notices, Seen
from rebalancer.service.approved import carry_out_approved, keep_if_recommended
from rebalancer.service.change_access import open_for_change
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, journal_url
from rebalancer.service.duty import Considered, Duty, Reach, Report
from rebalancer.service.leading import Leadership, Role, Standing, fenced
from rebalancer.service.logs import set_up_logs
from rebalancer.service.memory import give_back, keep_small
from rebalancer.service.notify import Notifier, watchdog_seconds
from rebalancer.service.pulse import Pulse
from rebalancer.service.setup import Load, Setup, load_setup
from rebalancer.service.split_watch import Means, SplitWatch
from rebalancer.service.stability import PastCycle
from rebalancer.service.timetable import Timetable
from rebalancer.service.touring import remember, tour
from rebalancer.service.wording import in_one_line

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""After being told to stop, migrations that are nearly done may end for so long."""
LEAVE_SECONDS = 10.0
"""… and whatever does not heed that by then is left behind."""
LISTEN_SECONDS = 5.0
LEAST_STUCK_SECONDS = 300.0


class LeavingError(Exception):
    """The daemon leaves while transfers are under way; the journal says which."""


def run(config: Path | None, policy: Path | None, *, auto: bool) -> ExitCode:
    """Run until a signal ends it."""
    keep_small()

    def load() -> Setup:
        return load_setup(config, policy, auto=auto)

    setup = load()
    set_up_logs(setup.settings.daemon.log)
    daemon = Daemon(load, setup, Notifier(os.environ))
    return daemon.serve(watchdog_seconds(os.environ))


class Daemon:
    """The loop. `serve` runs it; `run_due` runs one cycle, with whatever time and cluster."""

    def __init__(
        self,
        load: Load,
        setup: Setup,
        notifier: Notifier,
        reach: Callable[[Settings], Reach] | None = None,
    ) -> None:
        """Begin with `setup`; `load` reads it anew, `reach` is how the cluster is got at."""
        self._load = load
        self._setup = setup
        self._notifier = notifier
        self._reach = reach or self._configured
        self._due: queue.Queue[str] = queue.Queue()
        self._queued: set[str] = set()
        self._pulse = Pulse()
        self._told_to_stop_at: float | None = None
        self._board = Noticeboard()
        self._api = api_daemon.Api(self._board, lambda: self._setup.session, self._is_due)
        self._timetable = Timetable(self._is_due)
        self._leadership: Leadership | None = None
        self._split_watch = SplitWatch(self._means_to_watch)
        self._use = UseMemory()

    @property
    def notices(self) -> Notices:
        """What it last came to, policy by policy."""
        return self._board.read()

    @property
    def due(self) -> tuple[str, ...]:
        """The policies whose turn it is, besides the one that is looked after."""
        return tuple(sorted(self._queued))

    # Cycles ------------------------------------------------------------------------------------

    def run_due(self, name: str) -> str:
        """Go through one cycle of a policy and return its verdict; no error gets out."""
        setup = self._setup
        duty = setup.duties.get(name)
        if duty is None:
            return ""
        if (standing := self._standing) is not None and standing.role is Role.STANDS_BY:
            self._put_up(setup, duty, standing.text, seconds=0.0)
            return standing.text
        began = time.monotonic()
        self._board.begin(name, _now())
        level = logging.INFO
        report: Report | None = None
        try:
            reach = self._reach_for(setup.settings)
            report = carry_out_approved(setup.session, duty, reach)
            report = report or tour(setup.session, duty, reach)
            verdict = report.verdict
        except LeavingError as error:
            verdict = str(error)
        except LockHeldError as error:
            verdict = f"waiting: {error}"
        except RebalancerError as error:
            verdict, level = f"blocked: {error}", logging.ERROR
        except Exception as error:
            # A bug must not end a loop that nobody watches; its trace goes to the log.
            log.exception("cycle_failed", extra={"policy": name})
            verdict, level = f"failed: {type(error).__name__}: {error}", logging.ERROR
        verdict = in_one_line(verdict)  # errors may have several lines, a verdict has one
        if report is None:
            self._remember_trouble(setup, name, verdict)
        seconds = time.monotonic() - began
        self._put_up(setup, duty, verdict, seconds)
        self._tell(setup, duty, report, verdict, level, seconds)
        if report is not None and report.woke:
            self._is_due(name)  # no load should wait for an interval once there is a host for it
        return verdict

    def _put_up(self, setup: Setup, duty: Duty, verdict: str, seconds: float) -> None:
        self._board.end(
            duty.name,
            duty.mode,
            verdict,
            at=_now(),
            took_seconds=seconds,
            next_at=self._timetable.next_of(duty, setup.settings),
        )

    def _on_considered(self, duty: Duty, considered: Considered) -> None:
        self._board.saw(duty.name, duty.mode, Seen.of(considered.cycle))
        keep_if_recommended(self._setup.settings, duty, considered)

    def _remember_trouble(self, setup: Setup, name: str, verdict: str) -> None:
        past = PastCycle(at=_now(), wanted=False, acted=False)
        try:
            remember(setup.settings, name, setup.settings.cluster, verdict, past)
        except RebalancerError as error:
            log.error("verdict_not_kept", extra={"policy": name, "error": str(error)})  # noqa: TRY400  the sentence says it all

    def _tell(
        self,
        setup: Setup,
        duty: Duty,
        report: Report | None,
        verdict: str,
        level: int,
        seconds: float,
    ) -> None:
        """Write the one line of the cycle, which ends in its verdict."""
        migrations = report.migrations if report else 0
        log.log(
            level,
            "cycle",
            extra={
                "cluster": setup.settings.cluster,
                "policy": duty.name,
                "mode": str(duty.mode),
                "plan": report.plan if report and migrations else "",
                "migrations": migrations,
                "took_seconds": round(seconds, 1),
                "verdict": verdict,
            },
        )
        self._notifier.status(f"{duty.name}: {verdict}")

    def _reach_for(self, settings: Settings) -> Reach:
        reach = replace(self._reach(settings), on_considered=self._on_considered)
        if (leadership := self._leadership) is None:
            return reach
        open_it = reach.for_change
        return replace(reach, for_change=lambda: fenced(open_it(), leadership.confirm))

    def _configured(self, settings: Settings) -> Reach:
        return Reach(
            for_reading=lambda: open_for_reading(settings, Where(), self._use),
            for_change=lambda: open_for_change(settings, Where(), self._use),
            on_event=self.on_event,
            should_stop=self.should_stop,
        )

    def on_event(self, event: Event) -> None:
        """Take any sign of a rollout for a sign of life."""
        del event
        self._pulse.beat()

    def should_stop(self) -> StopRequest:
        """Tell a rollout to start nothing new, and after a moment's grace leave it."""
        self._pulse.beat()
        if self._told_to_stop_at is None:
            return StopRequest.NO
        if time.monotonic() - self._told_to_stop_at > GRACE_SECONDS:
            raise LeavingError(
                "stopped while VMs were being moved: their transfers go on, the next start "
                "looks after them"
            )
        return StopRequest.FINISH

    def _means_to_watch(self) -> Means | None:
        """What it takes to look for VMs that run twice; `None` unless this daemon leads."""
        if (standing := self._standing) is not None and standing.role is not Role.LEADS:
            return None
        setup = self._setup
        duty = next(iter(setup.duties.values()))
        return Means(session=setup.session, duty=duty, reach=self._reach_for(setup.settings))

    def _work(self) -> None:
        while True:
            name = self._due.get()
            self._queued.discard(name)
            if self._told_to_stop_at is not None:
                return
            self._pulse.beat()
            self._pulse.busy = True
            try:
                self.run_due(name)
            finally:
                self._pulse.busy = False
            give_back()

    def _is_due(self, name: str) -> None:
        """Hand a policy to the worker; one that still waits for its turn does not queue twice."""
        if name not in self._queued:
            self._queued.add(name)
            self._due.put(name)

    # Who acts ----------------------------------------------------------------------------------

    @property
    def _standing(self) -> Standing | None:
        """Where this daemon stands; `None`: there is no other that it would have to mind."""
        return self._leadership.standing if self._leadership is not None else None

    def _take_part(self) -> None:
        """Lead the cluster, or stand by for whoever does."""
        settings = self._setup.settings
        url = journal_url(settings)
        self._leadership = Leadership(
            lambda: Leaders.open(url, SystemClock()), settings.cluster, self._on_standing
        )
        self._leadership.start()

    def _take_part_elsewhere(self, before: Settings) -> None:
        """After a reload: another journal or cluster has a leader of its own."""
        now = self._setup.settings
        if (journal_url(before), before.cluster) == (journal_url(now), now.cluster):
            return
        if self._leadership is not None:
            self._leadership.stop()
        self._take_part()

    def _on_standing(self, standing: Standing) -> None:
        """Put up where this daemon stands; who begins to lead looks at everything at once."""
        self._board.stand(standing.role, standing.text)
        self._notifier.status(standing.text)
        # At the start the timetable does that.
        if standing.role is not Role.UNSURE and self._timetable.is_alive:
            for name in self._setup.duties:
                self._is_due(name)

    # The main thread ---------------------------------------------------------------------------

    def serve(self, watchdog: float | None) -> ExitCode:
        """Run until SIGTERM or SIGINT; `watchdog` is how often a sign of life is wanted."""
        # Putting into this queue is safe inside a signal handler, setting an Event is not.
        signals: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda got, _: signals.put(signal.Signals(got)))
        worker = threading.Thread(target=self._work, name="cycles", daemon=True)
        worker.start()
        self._take_part()
        self._split_watch.start()
        self._timetable.plan(self._setup.duties, self._setup.settings)
        self._timetable.start()
        self._open_api()
        self._notifier.ready(self._introduction)
        log.info("started", extra={"summary": self._setup.summary})
        every = min(LISTEN_SECONDS, watchdog / 3) if watchdog else LISTEN_SECONDS
        while True:
            if self._is_alive(worker):
                self._notifier.alive()
            try:
                got = signals.get(timeout=every)
            except queue.Empty:
                self._timetable.mend_after_a_clock_jump()
                continue
            if got is signal.SIGHUP:
                self.reload()
            else:
                return self._leave(got, every)

    def _open_api(self) -> None:
        """Put a notice up for each policy, and serve what is put up."""
        settings = self._setup.settings
        self._board.expect(
            {
                name: (duty.mode, self._timetable.next_of(duty, settings))
                for name, duty in self._setup.duties.items()
            }
        )
        self._api.open(settings, os.environ)

    def _is_alive(self, worker: threading.Thread) -> bool:
        settings = self._setup.settings
        patience = LEAST_STUCK_SECONDS + 2 * settings.placement.time_limit_seconds
        patience += settings.collect.sampling_seconds + settings.collect.timeout_seconds
        is_stuck = self._pulse.is_stuck(patience)
        return worker.is_alive() and self._timetable.is_alive and not is_stuck

    def reload(self) -> bool:
        """Read settings and policies anew; keep the old ones if the new are bad."""
        self._notifier.reloading()
        try:
            setup = self._load()
        except (RebalancerError, OSError) as error:
            log.error("reload_failed", extra={"kept": "the old settings", "error": str(error)})  # noqa: TRY400  the sentence says it all
            first = str(error).splitlines()[0]
            self._notifier.ready(f"kept the old settings, the new ones are bad: {first}")
            return False
        before, self._setup = self._setup.settings, setup
        set_up_logs(setup.settings.daemon.log)
        self._take_part_elsewhere(before)
        self._timetable.plan(setup.duties, setup.settings)
        self._open_api()
        log.info("reloaded", extra={"summary": self._setup.summary})
        self._notifier.ready(self._introduction)
        return True

    @property
    def _introduction(self) -> str:
        standing = self._standing
        stands_by = standing is not None and standing.role is Role.STANDS_BY
        return standing.text if standing and stands_by else self._setup.summary

    def _leave(self, got: signal.Signals, every: float) -> ExitCode:
        """Let what runs come to an end for a moment, then go."""
        self._notifier.stopping(f"{got.name}: nothing new is started")
        log.info("stopping", extra={"signal": got.name})
        now = time.monotonic()
        self._told_to_stop_at = now
        self._timetable.stop()
        self._split_watch.stop()
        while self._pulse.busy and time.monotonic() - now < GRACE_SECONDS + LEAVE_SECONDS:
            self._notifier.alive()
            threading.Event().wait(min(every, 0.2))
        if self._leadership is not None:
            self._leadership.stop()
        self._api.close()
        log.info("stopped", extra={"left_behind": self._pulse.busy})
        return ExitCode.INTERRUPTED if got is signal.SIGINT else ExitCode.TERMINATED


def _now() -> datetime:
    return datetime.now(UTC)
