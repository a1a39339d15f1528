"""Plays a script: a controller carries the plan out, dies, and is replaced.

In the end somebody repairs what is broken, runs `recover` once more, and has the stale copies
ended that it shows.
What is kept for the judge comes from outside the program that is judged: what the datacentre
recorded, what was issued, and what stood in the journal at that instant.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.errors import JournalError, LockHeldError, ObservationError
from rebalancer.rollout.attempt import command_to_json
from rebalancer.rollout.driver import Abort, Command, EndStaleCopy, Look, Reply, Returned, Ticket
from rebalancer.rollout.executor import Settings, execute, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease, Owner
from rebalancer.rollout.records import Entry, RecordKind
from rebalancer.rollout.sightings import Sighting
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.stale_copies import stale_copies
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import FaultScript, Stage
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_source import SimulatedSource
from rebalancer.simulation.specification import DatacentreSpec, specification_of
from tests.faults.care import carelessness, why_not_end
from tests.faults.played import Issued, Played, Written
from tests.faults.scripts import Script
from tests.faults.troubles import Act, What
from tests.unit.rollout.crashes import IN_MEMORY, KilledError

OBSERVED_EVERY_SECONDS = 10.0
LONGEST_SECONDS = 5400.0
"""No rollout of a few migrations takes so long; one that does hangs."""
OVERCOMMIT = 4.0
"""The hypervisors let in what does not fit, so that it is the rollout that must not."""


AT_ONCE = float("-inf")
"""Takes a lock over although its owner may live, as if it had been silent for long."""
_NUMBERS = count(1)


def _somebody() -> Owner:
    """A process on another machine: nobody can tell whether it lives."""
    return Owner(host="another machine", pid=next(_NUMBERS))


class HangingError(BaseException):
    """The rollout has no end."""


def play(script: Script) -> Played:
    """Let everything happen that the script says."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        return _Stage(script, f"sqlite:///{folder}/journal.db").play()


class _Clock(VirtualClock):
    """May be wrong after a restart, and notices what a living controller could have noticed."""

    def __init__(self, stage: _Stage) -> None:
        super().__init__(stage.world)
        self._stage = stage
        self._error = timedelta(seconds=stage.clock_error_seconds)

    def now(self) -> datetime:
        return super().now() + self._error

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        stage = self._stage
        if stage.world.seconds > LONGEST_SECONDS + stage.begun_at:
            raise HangingError
        for vm in stage.vms:
            hosts = stage.world.record.running_on(vm)
            if len(hosts) > 1 and all(stage.world.answers(host) for host in hosts):
                stage.played.seeable_seconds[vm] += seconds


class _Journal(Journal):
    """Writes true times down, dies when it is time to, and may find its disk full."""

    stage: _Stage
    dies_after: int | None = None
    commits = 0

    def write(self, rollout: int, entries: Sequence[Entry], lease: Lease) -> None:
        if not entries:
            return
        if self.stage.disk_is_full:
            raise JournalError("journal: the disk is full: make room and run `recover`")
        super().write(rollout, entries, lease)
        now = self.stage.world.seconds
        self.stage.played.written += [Written(at_seconds=now, entry=entry) for entry in entries]
        self.commits += 1
        if self.commits == self.dies_after:
            raise KilledError


class _Driver(SimulatedDriver):
    """Notes what is issued, and whether journal and hosts had been asked before."""

    def __init__(self, stage: _Stage, dies_after: int | None = None) -> None:
        super().__init__(stage.world)
        self._stage = stage
        self._dies_after = dies_after
        self._changes = 0
        self._asked: dict[Ticket, Command] = {}

    def issue(self, command: Command) -> Ticket:
        self._stage.note_issued(command)
        ticket = super().issue(command)
        self._asked[ticket] = command
        self._changes += command.changes
        if command.changes and self._changes == self._dies_after:
            raise KilledError
        return ticket

    def poll(self, ticket: Ticket) -> Reply:
        reply = super().poll(ticket)
        if isinstance(self._asked[ticket], Look) and isinstance(reply, Returned):
            assert isinstance(reply.value, Sighting)
            vm = reply.value.vm
            # Of a host that nobody configures any more nobody can ask.
            if set(reply.value.views) >= self._stage.world.hosts.keys() - self._stage.forgotten:
                self._stage.played.looks[vm] = (self._stage.world.seconds, reply.value)
        return reply


class _Stage:
    """The world that a script is played in."""

    def __init__(self, script: Script, url: str) -> None:
        spec = specification_of(script.snapshot, faults=script.part.faults, seed=script.seed)
        self.script = script
        self.world = Datacentre(_with_overcommit(spec))
        self.played = Played(script=script, world=self.world)
        self.vms = [vm.id for vm in script.snapshot.vms]
        self.clock_error_seconds = 0.0
        self.disk_is_full = False
        self.begun_at = 0.0
        self._url = url
        self._acts = sorted(script.part.acts, key=lambda act: act.at_seconds)
        self._stop = StopRequest.NO
        self.forgotten: set[HostId] = set()
        self._undrain_at: float | None = None
        self._source = SimulatedSource(self.world)
        self._seen = script.snapshot
        self._seen_at = 0.0
        self._issued: Counter[str] = Counter()
        self._thief: Lease | None = None
        self._wanted: set[str] = set()
        self._journal: Journal | None = None

    def play(self) -> Played:
        """Carry out, die, recover, repair, recover."""
        deaths = self.script.deaths
        self._run(self._carry_out, deaths.after_record, deaths.after_command)
        if self.played.deaths:
            self.world.advance(deaths.dead_for_seconds)
            self._run(self._recover, deaths.second_after_record, None)
            if self.played.deaths > 1:
                self._run(self._recover, None, None)
        self._heal()
        self._run(self._recover, None, None)
        self._run(self._end_stale_copies, None, None)
        self.world.advance(200.0)
        with Journal.open(self._url, VirtualClock(self.world)) as journal:
            self.played.rollout = journal.rollout(self.script.plan.id)
            if self.played.rollout is not None:
                self.played.rows = journal.migrations(self.played.rollout.id)
        return self.played

    def _run(
        self,
        work: Callable[[_Journal, _Driver, _Clock], Any],
        dies_after_record: int | None,
        dies_after_command: int | None,
    ) -> None:
        """One life of a controller."""
        clock = _Clock(self)
        self.begun_at = self.world.seconds
        with _Journal.open(self._url, clock) as journal:
            journal.stage, journal.dies_after = self, dies_after_record
            self._journal = journal
            driver = _Driver(self, dies_after_command)
            try:
                work(journal, driver, clock)
            except (KilledError, JournalError, LockHeldError) as error:
                self.played.deaths += 1
                if isinstance(error, JournalError) and not self.disk_is_full:
                    self.played.complaints.append(f"the journal failed: {error}")
                if isinstance(error, LockHeldError) and self._thief is None:
                    self.played.complaints.append(f"the lock was lost by itself: {error}")
            except HangingError:
                self.played.complaints.append("the rollout has no end")
                self.played.deaths += 1
            driver.close()
        self.disk_is_full = False
        self._give_lock_back(clock)

    def _give_lock_back(self, clock: _Clock) -> None:
        if self._thief is not None:
            with Journal.open(self._url, clock) as journal:
                journal.release(self._thief)
            self._thief = None

    def _carry_out(self, journal: _Journal, driver: _Driver, clock: _Clock) -> None:
        plan = self.script.plan
        execute(
            plan,
            driver=driver,
            clock=clock,
            journal=journal,
            snapshot=self.observe,
            settings=Settings.of(self.script.policy),
            lease=journal.acquire(plan.cluster, _somebody(), AT_ONCE),
            should_stop=self.requests,
        )

    def _end_stale_copies(self, journal: _Journal, driver: _Driver, clock: _Clock) -> None:
        """Say yes to everything that `recover` offers to end."""
        offered = stale_copies(journal, self.script.plan.cluster).named
        self._wanted = {migration for _, migration in offered}
        self._recover(journal, driver, clock, only=offered, may_end_stale=True)

    def _recover(self, journal: _Journal, driver: _Driver, clock: _Clock, **options: Any) -> None:
        cluster = self.script.plan.cluster
        recover(
            **options,
            cluster=cluster,
            driver=driver,
            clock=clock,
            journal=journal,
            snapshot=self.observe,
            settings=Settings.of(self.script.policy),
            lease=journal.acquire(cluster, _somebody(), AT_ONCE),
            should_stop=self.requests,
        )

    def observe(self) -> Snapshot:
        """Return the newest snapshot, which may be some seconds old."""
        if self.world.seconds - self._seen_at >= OBSERVED_EVERY_SECONDS:
            # If no host answers, what was seen last stays what is known.
            with suppress(ObservationError):
                self._seen = _without(self._source.observe(), self.forgotten)
            self._seen_at = self.world.seconds
        return self._seen

    # What people do around it ------------------------------------------------------------------

    def requests(self) -> StopRequest:
        """Let everything be done that is due, and tell what the operator wants."""
        while self._acts and self._acts[0].at_seconds <= self.world.seconds:
            self._do(self._acts.pop(0))
        if self._undrain_at is not None and self.world.seconds >= self._undrain_at:
            self._undrain_at = None
            assert self._journal is not None
            self._journal.unmark_drain(self.script.plan.cluster, self._target)
        return self._stop

    @property
    def _target(self) -> HostId:
        return self.script.plan.migrations[0].target

    def _do(self, act: Act) -> None:
        journal, cluster = self._journal, self.script.plan.cluster
        assert journal is not None
        match act.what:
            case What.STOP | What.ABORT:
                is_abort = act.what is What.ABORT
                self._stop = StopRequest.ABORT if is_abort else StopRequest.FINISH
                self.played.stopped_at = self.world.seconds
            case What.DRAIN | What.DRAIN_AND_UNDRAIN:
                journal.mark_drain(cluster, self._target, "maintenance")
                if act.what is What.DRAIN_AND_UNDRAIN:
                    self._undrain_at = self.world.seconds + 15.0
            case What.SECOND_CONTROLLER:
                self._try_to_take_the_lock(journal, cluster)
            case What.LOCK_LOST:
                self._thief = journal.acquire(cluster, _somebody(), AT_ONCE)
            case What.DISK_FULL:
                self.disk_is_full = True
            case What.CLOCK_FORWARD:
                self.clock_error_seconds = 3600.0
                raise KilledError
            case What.CLOCK_BACK:
                self.clock_error_seconds = -3600.0
                raise KilledError
            case What.HOST_FORGOTTEN:
                self.forgotten.add(self._target)

    def _try_to_take_the_lock(self, journal: Journal, cluster: str) -> None:
        try:
            self._thief = journal.acquire(cluster, _somebody())
        except LockHeldError:
            return
        self.played.complaints.append("a second controller got the lock of one that lives")

    def _heal(self) -> None:
        """Repair everything that is broken, as an operator would before `recover`."""
        self.world.faults = FaultScript(())
        self._acts, self._stop, self.forgotten = [], StopRequest.NO, set()
        self.clock_error_seconds = 0.0
        for host in self.world.hosts.values():
            if not host.powered and not host.asleep:
                self.world.wake(host.id)
            elif host.unreachable_until == float("inf"):
                host.unreachable_until = 0.0
            self.world.set_working_share(self.world.carriers_of(host.id, None), 1.0)
        self.world.advance(400.0)
        self.played.healed_at = self.world.seconds

    # What is noted -----------------------------------------------------------------------------

    def note_issued(self, command: Command) -> None:
        """Look whether a change was announced, before it happens."""
        if not command.changes:
            return
        key = _key(command)
        self._issued[key] += 1
        announced = sum(
            _key_of(line.entry) == key
            for line in self.played.written
            if line.entry.kind is RecordKind.INTENT
        )
        self.played.issued.append(
            Issued(
                at_seconds=self.world.seconds,
                command=command,
                is_written=announced >= self._issued[key],
            )
        )
        migration = self.world.migration_of(command.vm)
        if isinstance(command, Abort) and migration and migration.stage is Stage.POST_COPY:
            self.played.aborted_too_late.append(command.vm)
        if isinstance(command, EndStaleCopy):
            lines = [line.entry for line in self.played.written]
            if why := why_not_end(command, self.world, lines, self._wanted):
                self.played.unproved.append(f"second {self.world.seconds:.1f}: {why}")
        if complaint := carelessness(command, self.played.looks.get(command.vm)):
            self.played.careless.append(f"second {self.world.seconds:.1f}: {complaint}")


def _key(command: Command) -> str:
    return repr(sorted(command_to_json(command).items()))


def _key_of(entry: Entry) -> str:
    return repr(sorted(entry.payload["command"].items()))


def _with_overcommit(spec: DatacentreSpec) -> DatacentreSpec:
    return replace(spec, memory_overcommit=OVERCOMMIT)


def _without(snapshot: Snapshot, hosts: set[HostId]) -> Snapshot:
    if not hosts:
        return snapshot
    return replace(
        snapshot,
        hosts=tuple(host for host in snapshot.hosts if host.id not in hosts),
        vms=tuple(vm for vm in snapshot.vms if vm.host not in hosts),
    )
