"""The daemon: it runs policies at their hours, one cycle at a time, for as long as it is let.

Three threads have a part in it. The scheduler's says when a policy is due. One worker goes
through the cycles that are due, one after the other, so that there are never two at once. The main
thread listens to signals and tells the service manager that all three are alive. A fourth serves
API and metrics, from what the others put up for it; without it everything goes on as well.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from rebalancer.errors import ExitCode, LockHeldError, RebalancerError, UsageError
from rebalancer.rollout.events import Event
from rebalancer.rollout.steps import StopRequest
from rebalancer.service import api_daemon
from rebalancer.service.access import Where, open_for_change, open_for_reading
from rebalancer.service.api_notices import Noticeboard, Notices, Seen
from rebalancer.service.approved import carry_out_approved, keep_if_recommended
from rebalancer.service.config import RunMode, Settings
from rebalancer.service.duty import (
    Considered,
    Duty,
    Reach,
    Report,
    duty_of,
    remember,
    tour,
)
from rebalancer.service.logs import set_up_logs
from rebalancer.service.notify import Notifier, watchdog_seconds
from rebalancer.service.policy_file import parse_policy, read_policy
from rebalancer.service.session import Session, open_session
from rebalancer.service.stability import PastCycle

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""After being told to stop, migrations that are nearly done may end for so long."""
LEAVE_SECONDS = 10.0
"""… and whatever does not heed that by then is left behind."""
LISTEN_SECONDS = 5.0
LEAST_STUCK_SECONDS = 300.0


class LeavingError(Exception):
    """The daemon leaves while transfers are under way; the journal says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a daemon does, as its files have it."""

    session: Session
    duties: Mapping[str, Duty]

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.session.settings


type Load = Callable[[], Setup]


def load_setup(config: Path | None, policy: Path | None = None, *, auto: bool = False) -> Setup:
    """Read settings and policies; raise what is wrong with them."""
    session = open_session(config)
    settings = session.settings
    if not settings.hosts:
        raise UsageError(
            "no hosts are configured: list them in a file and name it with --config "
            "(config/rebalancer.yaml explains every key)"
        )
    mode = RunMode.AUTO if auto else settings.mode
    duties = list(_duties(settings, policy, mode))
    names = [duty.name for duty in duties]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two policies are called {', '.join(twice)}: rename one of them")
    return Setup(session=session, duties={duty.name: duty for duty in duties})


def _duties(settings: Settings, named: Path | None, mode: RunMode) -> list[Duty]:
    main = named or settings.policy
    found = [(read_policy(main), mode)] if main is not None else []
    if named is None:
        found += [(read_policy(entry.file), entry.mode or mode) for entry in settings.policies]
    if not found:
        default = {"schema_version": 1, "name": "default"}
        found = [(parse_policy(default, origin="the default policy"), mode)]
    return [duty_of(settings, policy, own) for policy, own in found]


def run(config: Path | None, policy: Path | None, *, auto: bool) -> ExitCode:
    """Run until a signal ends it."""

    def load() -> Setup:
        return load_setup(config, policy, auto=auto)

    setup = load()
    set_up_logs(setup.settings.daemon.log)
    daemon = Daemon(load, setup, Notifier(os.environ))
    return daemon.serve(watchdog_seconds(os.environ))


class Pulse:
    """Whether the worker gets on: it beats whenever it has done something."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Measure time by `monotonic`."""
        self._monotonic = monotonic
        self._last = monotonic()
        self.busy = False

    def beat(self) -> None:
        """Show that something was done."""
        self._last = self._monotonic()

    def is_stuck(self, patience_seconds: float) -> bool:
        """Whether the worker is in the middle of something and nothing has happened for long."""
        return self.busy and self._monotonic() - self._last > patience_seconds


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
        self._scheduler = BackgroundScheduler(
            timezone=None, job_defaults={"coalesce": True, "max_instances": 1}
        )

    @property
    def notices(self) -> Notices:
        """What it last came to, policy by policy."""
        return self._board.read()

    # Cycles ------------------------------------------------------------------------------------

    def run_due(self, name: str) -> str:
        """Go through one cycle of a policy and return its verdict; no error gets out."""
        setup = self._setup
        duty = setup.duties.get(name)
        if duty is None:
            return ""
        began = time.monotonic()
        self._board.begin(name, _now())
        level = logging.INFO
        report: Report | None = None
        try:
            reach = replace(self._reach(setup.settings), on_considered=self._on_considered)
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
        verdict = " ".join(verdict.split())  # errors may have several lines, a verdict has one
        if report is None:
            self._remember_trouble(setup, name, verdict)
        seconds = time.monotonic() - began
        self._board.end(
            name,
            duty.mode,
            verdict,
            at=_now(),
            took_seconds=seconds,
            next_at=_next_cycle(duty, setup.settings),
        )
        self._tell(setup, duty, report, verdict, level, seconds)
        return verdict

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

    def _configured(self, settings: Settings) -> Reach:
        return Reach(
            for_reading=lambda: open_for_reading(settings, Where()),
            for_change=lambda: open_for_change(settings, Where()),
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

    def _is_due(self, name: str) -> None:
        """Hand a policy to the worker; one that still waits for its turn does not queue twice."""
        if name not in self._queued:
            self._queued.add(name)
            self._due.put(name)

    # Time --------------------------------------------------------------------------------------

    def _schedule(self, *, first: bool) -> None:
        """Give every policy its hours; one that is kept keeps the instant of its next cycle."""
        settings = self._setup.settings.daemon
        known = {job.id: job.next_run_time for job in self._scheduler.get_jobs()}
        for name in known.keys() - self._setup.duties.keys():
            self._scheduler.remove_job(name)
        for name, duty in self._setup.duties.items():
            options = {}
            if duty.policy.active.cron is None:
                latest = _now() + timedelta(seconds=settings.interval_seconds)
                options["next_run_time"] = (
                    _now() if first or name not in known else min(known[name], latest)
                )
            self._scheduler.add_job(
                self._is_due,
                trigger_of(duty, settings.interval_seconds, settings.jitter_share),
                args=[name],
                id=name,
                replace_existing=True,
                misfire_grace_time=None,
                **options,
            )

    def _mend_after_a_clock_jump(self) -> None:
        """Put off no cycle for hours because the machine's clock was set back."""
        settings = self._setup.settings.daemon
        latest = _now() + timedelta(seconds=settings.interval_seconds * 2 + 60)
        for job in self._scheduler.get_jobs():
            duty = self._setup.duties.get(job.id)
            is_paced = duty is not None and duty.policy.active.cron is None
            if is_paced and job.next_run_time > latest:
                log.warning("clock_jumped", extra={"policy": job.id})
                job.modify(next_run_time=_now())

    # The main thread ---------------------------------------------------------------------------

    def serve(self, watchdog: float | None) -> ExitCode:
        """Run until SIGTERM or SIGINT; `watchdog` is how often a sign of life is wanted."""
        # Putting into this queue is safe inside a signal handler, setting an Event is not.
        signals: queue.SimpleQueue[signal.Signals] = queue.SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda got, _: signals.put(signal.Signals(got)))
        worker = threading.Thread(target=self._work, name="cycles", daemon=True)
        worker.start()
        self._schedule(first=True)
        self._scheduler.start()
        self._open_api()
        self._notifier.ready(self._summary())
        log.info("started", extra={"summary": self._summary()})
        every = min(LISTEN_SECONDS, watchdog / 3) if watchdog else LISTEN_SECONDS
        while True:
            if self._is_alive(worker):
                self._notifier.alive()
            try:
                got = signals.get(timeout=every)
            except queue.Empty:
                self._mend_after_a_clock_jump()
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
                name: (duty.mode, _next_cycle(duty, settings))
                for name, duty in self._setup.duties.items()
            }
        )
        self._api.open(settings, os.environ)

    def _is_alive(self, worker: threading.Thread) -> bool:
        settings = self._setup.settings
        patience = LEAST_STUCK_SECONDS + 2 * settings.placement.time_limit_seconds
        patience += settings.collect.sampling_seconds + settings.collect.timeout_seconds
        scheduler = getattr(self._scheduler, "_thread", None)
        is_scheduling = scheduler is not None and scheduler.is_alive()
        return worker.is_alive() and is_scheduling and not self._pulse.is_stuck(patience)

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
        self._setup = setup
        set_up_logs(setup.settings.daemon.log)
        self._schedule(first=False)
        self._open_api()
        log.info("reloaded", extra={"summary": self._summary()})
        self._notifier.ready(self._summary())
        return True

    def _summary(self) -> str:
        duties = ", ".join(f"{duty.name} ({duty.mode})" for duty in self._setup.duties.values())
        settings = self._setup.settings
        return f"cluster {settings.cluster}, {len(settings.hosts)} hosts, policies: {duties}"

    def _leave(self, got: signal.Signals, every: float) -> ExitCode:
        """Let what runs come to an end for a moment, then go."""
        self._notifier.stopping(f"{got.name}: nothing new is started")
        log.info("stopping", extra={"signal": got.name})
        now = time.monotonic()
        self._told_to_stop_at = now
        self._scheduler.shutdown(wait=False)
        while self._pulse.busy and time.monotonic() - now < GRACE_SECONDS + LEAVE_SECONDS:
            self._notifier.alive()
            threading.Event().wait(min(every, 0.2))
        self._api.close()
        log.info("stopped", extra={"left_behind": self._pulse.busy})
        return ExitCode.INTERRUPTED if got is signal.SIGINT else ExitCode.TERMINATED


def trigger_of(duty: Duty, interval_seconds: float, jitter_share: float) -> BaseTrigger:
    """When a policy is due: at its hours, else every so often, not always at the same second."""
    if duty.policy.active.cron is not None:
        return CronTrigger.from_crontab(duty.policy.active.cron)
    jitter = int(interval_seconds * jitter_share)
    return IntervalTrigger(seconds=interval_seconds, jitter=jitter or None)


def _next_cycle(duty: Duty, settings: Settings) -> datetime | None:
    """Say when a policy is due again if nothing gets in its way."""
    daemon = settings.daemon
    trigger = trigger_of(duty, daemon.interval_seconds, daemon.jitter_share)
    due: datetime | None = trigger.get_next_fire_time(None, _now())
    return due


def _now() -> datetime:
    return datetime.now(UTC)
