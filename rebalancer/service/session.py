"""What every command does before its own work: settings, cluster, policy, observation, plan."""

from __future__ import annotations

import getpass
import os
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console

from rebalancer.cluster.inventory import HostId, HostState, Snapshot, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.errors import UsageError
from rebalancer.placement.incumbent import Incumbent
from rebalancer.planning.calibration import NEWEST, calibrate
from rebalancer.planning.habits import Calibration
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import DrainMark
from rebalancer.service import dirty_rates
from rebalancer.service.access import ReadAccess
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, journal_url, load_settings
from rebalancer.service.cycle import Cycle, Measure, Request, run_cycle
from rebalancer.service.file_kind import FileKind, expecting
from rebalancer.service.naming import hosts_called
from rebalancer.service.old_disks import known_left_overs, with_left_overs
from rebalancer.service.permissions import encrypted_only
from rebalancer.service.policy_file import parse_policy, read_policy
from rebalancer.service.power_view import power_marks, with_power
from rebalancer.service.telemetry_format import DirtyRateProbing
from rebalancer.service.workers import workers_for


class Output(Console):
    """A console whose reader may leave (`| head`): what is at work in a cluster goes on then."""

    goes_on: bool = False
    """Whether what writes comes to its end without a reader; else `main` decides what it means."""

    def on_broken_pipe(self) -> None:
        """Drop what nobody reads and go on, or raise `BrokenPipeError`."""
        if not self.goes_on:
            raise BrokenPipeError
        unread = os.open(os.devnull, os.O_WRONLY)
        os.dup2(unread, self.file.fileno())
        os.close(unread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of the command: its settings, and where it writes to."""

    settings: Settings
    out: Console
    """Results."""
    err: Console
    """Everything else: progress, remarks."""

    @contextmanager
    def journal(self, clock: Clock | None = None) -> Iterator[Journal]:
        """Open the journal, and make it if it is not there."""
        with Journal.open(journal_url(self.settings), clock or SystemClock()) as journal:
            yield journal

    @property
    def has_journal(self) -> bool:
        """Whether there is one already."""
        return self._journal_file is None or self._journal_file.exists()

    @property
    def _journal_file(self) -> Path | None:
        url = sa.make_url(journal_url(self.settings))
        is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
        return Path(str(url.database)) if is_file else None

    def say_if_there_is_no_journal(self) -> None:
        """Tell who asks about the past that nothing is kept yet.

        Raises `UsageError` where the settings name a folder that is not there: that is more often
        a slip than a cluster to which nothing was ever done.
        """
        file = self._journal_file
        if file is None or file.exists():
            return
        if self.settings.journal is not None and not file.parent.is_dir():
            given = self.settings.origins.get("journal", "the settings")
            raise UsageError(
                f"journal ({given}): there is no folder {file.parent}; name the folder in which "
                "the journal is, or make it if nothing was ever rolled out"
            )
        self.err.print(f"there is no journal yet: {file}", markup=False, soft_wrap=True)

    @contextmanager
    def existing_journal(self) -> Iterator[Journal | None]:
        """Open the journal if there is one: looking does not leave a file behind."""
        if not self.has_journal:
            yield None
        else:
            with self.journal() as journal:
                yield journal


def open_session(config: Path | None, **flags: object) -> Session:
    """Read the settings; flags go by dotted key, with `__` for the dot."""
    given = {key.replace("__", "."): value for key, value in flags.items()}
    settings = load_settings(config, given)
    remarks = Output(stderr=True)
    remarks.goes_on = True
    return Session(settings=settings, out=Output(soft_wrap=False), err=remarks)


def policy_for(session: Session, access: ReadAccess, named: Path | None) -> Policy:
    """Find the policy in force: the one named, the scenario's, the configured one, the default."""
    found = _policy_for(session, access, named)
    return encrypted_only(found) if session.settings.rollout.tls else found


def _policy_for(session: Session, access: ReadAccess, named: Path | None) -> Policy:
    if named is not None:
        with expecting(FileKind.POLICY, named):
            return read_policy(named)
    if access.own_policy is not None:
        return access.own_policy
    if session.settings.policy is not None:
        return read_policy(session.settings.policy)
    return parse_policy({"schema_version": 1, "name": "default"}, origin="the default policy")


def drain_marks(session: Session, cluster: str) -> dict[HostId, DrainMark]:
    """The hosts of a cluster that their operator wants empty, as the journal has it."""
    with session.existing_journal() as journal:
        return journal.drains(cluster) if journal is not None else {}


def observe(
    session: Session,
    access: ReadAccess,
    *,
    also_drain: Collection[str] = (),
    undrained: Collection[HostId] = (),
) -> Snapshot:
    """Look at the cluster; hosts that are to be drained are draining in what is returned.

    `undrained` are hosts that are to be seen as if their drains had been taken back. What was
    found out earlier of how fast VMs write is in it, too.
    """
    snapshot = access.source.observe()
    marked = drain_marks(session, snapshot.cluster) if access.is_real else {}
    marked = {host: mark for host, mark in marked.items() if host not in undrained}
    if access.is_real:
        snapshot = with_power(snapshot, power_marks(session.settings, snapshot.cluster), marked)
        snapshot = _with_known_rates(session, access, snapshot)
        if session.has_journal and access.has_past:
            lying = known_left_overs(journal_url(session.settings), snapshot.cluster)
            snapshot = with_left_overs(snapshot, lying)
    return with_draining(snapshot, {*marked, *hosts_named(snapshot, also_drain)})


def hosts_named(snapshot: Snapshot, names: Collection[str]) -> tuple[HostId, ...]:
    """Find hosts by name or id, each once; raise `UsageError` that names every one not there."""
    return tuple(host.id for host in hosts_called(snapshot, names))


def with_draining(snapshot: Snapshot, hosts: Collection[HostId]) -> Snapshot:
    """Say that these hosts are draining, where they work at all."""
    return replace(
        snapshot,
        hosts=tuple(
            replace(host, state=HostState.DRAINING, state_reason="to be drained")
            if host.id in hosts and host.state is HostState.UP
            else host
            for host in snapshot.hosts
        ),
    )


def with_dirty_rates(
    session: Session,
    access: ReadAccess,
    snapshot: Snapshot,
    vms: Collection[VmId],
    *,
    anew: bool = True,
) -> Snapshot:
    """Measure how fast `vms` write as far as that can be done, and put it into the snapshot.

    Unless `anew`, those are left out of which that was measured a short while ago.
    """
    if access.probe is None:
        raise UsageError("--probe measures running guests; a snapshot file has none")

    def past() -> Mapping[VmId, float]:
        with session.existing_journal() as journal:
            return dirty_rates.witnessed(journal, access.cluster)

    measurement = dirty_rates.Measurement(
        cluster=access.cluster,
        settings=session.settings.dirty_rates,
        now=access.clock.now(),
        probe=access.probe,
        url=journal_url(session.settings) if access.facts is not None else None,
        past=past,
        say=lambda text: session.err.print(text, markup=False, highlight=False),
    )
    return measurement.of(snapshot, vms, anew=anew)


def _with_known_rates(session: Session, access: ReadAccess, snapshot: Snapshot) -> Snapshot:
    # A simulated datacentre is measured as it is, and a file has no present.
    url = journal_url(session.settings) if access.facts is not None else None
    settings, now = session.settings.dirty_rates, access.clock.now()
    known = dirty_rates.remembered_rates(
        url if session.has_journal else None, access.cluster, now, settings.keep_seconds
    )
    return dirty_rates.with_rates(snapshot, known, now, settings.fresh_seconds)


def _measure_for(
    session: Session, access: ReadAccess, *, probe: bool, acts: bool
) -> Measure | None:
    """What measures the VMs that are to move; `None` where nobody wants that."""
    wanted = session.settings.dirty_rates.probe
    is_due = acts if wanted is DirtyRateProbing.ACTING else wanted is DirtyRateProbing.ALWAYS
    if not probe and (not is_due or access.facts is None or access.probe is None):
        return None

    def measure(snapshot: Snapshot, vms: Collection[VmId]) -> Snapshot:
        return with_dirty_rates(session, access, snapshot, vms, anew=probe)

    return measure


def plan_for(
    session: Session,
    access: ReadAccess,
    snapshot: Snapshot,
    policy: Policy,
    *,
    deadline_seconds: float | None = None,
    tell: Callable[[Incumbent], None] | None = None,
    probe: bool = False,
    acts: bool = False,
) -> Cycle:
    """Take a snapshot through all stages up to the plan.

    `probe`: somebody asked for the VMs that are to move to be measured. `acts`: the plan may be
    carried out right away, so they are measured if the settings do not forbid it.
    """
    request = request_for(
        session, access, deadline_seconds=deadline_seconds, probe=probe, acts=acts
    )
    with workers_for(session.settings.placement) as workers:
        cycle = run_cycle(snapshot, policy, replace(request, workers=workers, tell=tell))
    for remark in workers.remarks:
        session.err.print(f"note: {remark}", markup=False, highlight=False, soft_wrap=True)
    return cycle


def request_for(
    session: Session,
    access: ReadAccess,
    *,
    deadline_seconds: float | None = None,
    probe: bool = False,
    acts: bool = False,
) -> Request:
    """Say what a plan that is made now needs to know besides the cluster and the policy."""
    now = access.clock.now()
    return Request(
        plan_id=f"{SystemClock().now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        creator=who_is_asking(),
        now=now,
        ttl_seconds=session.settings.plan.ttl_seconds,
        solve_seconds=session.settings.placement.time_limit_seconds,
        seconds_passed=time.monotonic,
        uris=access.uris,
        calibration=learned(session, access),
        deadline_seconds=deadline_seconds,
        measure=_measure_for(session, access, probe=probe, acts=acts),
    )


def learned(session: Session, access: ReadAccess) -> Calibration:
    """What finished migrations of this cluster taught, as far as the journal goes back."""
    # A simulated datacentre has habits of its own, and a file has no past.
    if access.facts is None:
        return Calibration()
    with session.existing_journal() as journal:
        return learned_from(journal, access.cluster)


def learned_from(journal: Journal | None, cluster: str) -> Calibration:
    """What the journal's completed migrations of a cluster teach."""
    if journal is None:
        return Calibration()
    rows = journal.completed(cluster, NEWEST), journal.timed_in_parts(cluster, NEWEST)
    live, in_parts = ([(r.migration, r.outcome) for r in each if r.outcome] for each in rows)
    return calibrate(live, in_parts)


def apply_command(plan_file: Path | None, *flags: str, **options: Path | None) -> str:
    """Say how a saved plan is carried out, with what it was made with; empty if it was not."""
    if plan_file is None:
        return ""
    given = [
        word
        for name, value in options.items()
        if value is not None
        for word in (f"--{name}", str(value))
    ]
    return shlex.join(["rebalancer", "apply", str(plan_file), *given, *flags, "--yes"])


def who_is_asking() -> str:
    """Name the person and machine for the record: `root@mgmt1`."""
    try:
        user = getpass.getuser()
    except OSError:  # no such user in the password database, as in some containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
