"""Recorded telemetry, played to the cycles of the daemon: what would a policy have done?

The cluster is simulated, its VMs want what was recorded, and every cycle sees what had been
measured up to then and nothing else. The cycles are those of the daemon, in mode `auto`: the same
forecast, the same patience, the same plans, carried out by migrations that take their time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.inventory import HostState, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.power import migration_joules
from rebalancer.collect.recorded_use import RecordedUse
from rebalancer.errors import RebalancerError
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import Move
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, journal_url
from rebalancer.service.duty import Duty, Reach, duty_of
from rebalancer.service.session import Session
from rebalancer.service.timetable import trigger_of
from rebalancer.service.touring import tour
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.load_account import LoadAccount, account_of, account_of_staying
from rebalancer.simulation.network import Nic, Way
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_power import SimulatedPower
from rebalancer.simulation.simulated_source import SimulatedSource
from rebalancer.simulation.specification import DatacentreSpec, GuestSpec, specification_of
from rebalancer.simulation.traces import Played

HISTORY_SECONDS = 8 * 86_400.0
"""What a cycle sees of the past, as far as it was recorded: what seasons are looked for in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What came of the cluster, with the policy or without it."""

    load: LoadAccount
    moves: int = 0
    moved_bytes: int = 0
    """Memory of the VMs that were moved."""
    sent_bytes: float = 0.0
    """What went over the network for it."""
    moving_joules: float = 0.0
    sleeps: int = 0
    wakes: int = 0

    @property
    def energy_joules(self) -> float:
        """Hosts and migrations together."""
        return self.load.energy_joules + self.moving_joules


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedCycle:
    """A cycle that did something, or was hindered."""

    at: datetime
    verdict: str
    migrations: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backtest:
    """A replay, beside the same time with nobody at work."""

    policy: str
    start: datetime
    seconds: float
    interval_seconds: float
    hosts: int
    vms: int
    recorded_vms: int
    """VMs of the cluster whose use was recorded."""
    constant_vms: tuple[str, ...]
    """The others: they use what they use in the snapshot, all the time."""
    unknown: tuple[str, ...]
    """Names in the recording that no VM of the cluster has."""
    gaps_ratio: float
    """Share of the samples that was missing; the last one before is taken."""
    cycles: int
    acted: tuple[ReplayedCycle, ...]
    troubles: tuple[ReplayedCycle, ...]
    """Cycles that ended with an error."""
    verdicts: Mapping[str, int]
    """How many cycles ended with verdicts that begin with these words."""
    most_moved_vm: tuple[str, int]
    """The VM that was moved most often, and how often."""
    with_policy: Part
    without: Part


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """Which VM of the cluster is which series of the recording."""

    cores: Mapping[VmId, NDArray[np.float64]]
    """Without gaps."""
    constant: tuple[str, ...]
    unknown: tuple[str, ...]
    gaps_ratio: float


def match(snapshot: Snapshot, use: RecordedUse) -> Match:
    """Find for each VM what was recorded of it, by id or else by name, and fill gaps."""
    cores: dict[VmId, NDArray[np.float64]] = {}
    gaps = total = 0
    names = Counter(vm.name for vm in snapshot.vms)
    constant, known = [], set()
    for vm in snapshot.vms:
        key = vm.id if vm.id in use.cores else vm.name
        row = use.cores.get(key)
        # Two VMs of one name are only told apart by id.
        if row is None or (key != vm.id and names[vm.name] > 1) or not np.isfinite(row).any():
            constant.append(vm.name)
            continue
        known.add(str(key))
        missing = ~np.isfinite(row)
        gaps, total = gaps + int(missing.sum()), total + row.size
        cores[vm.id] = _filled(row)
    return Match(
        cores=cores,
        constant=tuple(sorted(constant)),
        unknown=tuple(sorted(set(use.cores) - known)),
        gaps_ratio=gaps / total if total else 0.0,
    )


def _filled(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """What was seen last holds through a gap; before the first sample, that one."""
    known = np.flatnonzero(np.isfinite(row))
    latest = np.searchsorted(known, np.arange(row.size), side="right") - 1
    return np.asarray(row[known[np.maximum(latest, 0)]])


class Telemetry:
    """What could have been measured: use since the recording began, and the hosts as they are."""

    def __init__(self, world: Datacentre, interval_seconds: float) -> None:
        """Measure every interval of the recording."""
        self._world = world
        self._source = SimulatedSource(
            world, window_seconds=interval_seconds, interval_seconds=interval_seconds
        )

    def observe(self) -> Snapshot:
        """Observe the cluster with its history so far."""
        seen, world = self._source.observe(), self._world
        since = max(world.spec.start, world.now - timedelta(seconds=HISTORY_SECONDS))
        past = self._source.history([vm.id for vm in seen.vms], since, world.now)
        samples = len(next(iter(past.host_cpu_cores.values())))
        return replace(seen, usage=past if samples else None)


def replay(
    session: Session, snapshot: Snapshot, policy: Policy, use: RecordedUse, matched: Match
) -> Backtest:
    """Play the recording to the policy's cycles."""
    asleep = frozenset(host.id for host in snapshot.hosts if host.state is HostState.ASLEEP)
    world = Datacentre(_specification(snapshot, use, matched))
    for host in sorted(asleep):
        world.put_to_sleep(host)
    power = SimulatedPower(world)
    duty = duty_of(session.settings, policy, RunMode.AUTO)
    cycles = list(_cycles(session, duty, world, power, use))
    with Journal.open(journal_url(session.settings), VirtualClock(world)) as journal:
        moves = journal.moves_since(world.spec.start, snapshot.cluster)
    troubled = tuple(cycle for cycle in cycles if cycle.verdict.startswith("error: "))
    return Backtest(
        policy=policy.name,
        start=use.start,
        seconds=use.seconds,
        interval_seconds=use.interval_seconds,
        hosts=len(snapshot.hosts),
        vms=len(snapshot.vms),
        recorded_vms=len(matched.cores),
        constant_vms=matched.constant,
        unknown=matched.unknown,
        gaps_ratio=matched.gaps_ratio,
        cycles=len(cycles),
        acted=tuple(cycle for cycle in cycles if cycle.migrations),
        troubles=troubled,
        verdicts=Counter(_kind(cycle.verdict) for cycle in cycles),
        most_moved_vm=_most_moved(snapshot, moves),
        with_policy=_part(
            world,
            moves,
            power,
            account_of(
                world,
                samples=use.instants,
                interval_seconds=use.interval_seconds,
                asleep=asleep,
                switched=power.changes,
            ),
        ),
        without=Part(
            load=account_of_staying(
                world,
                samples=use.instants,
                interval_seconds=use.interval_seconds,
                asleep=asleep,
            )
        ),
    )


def _specification(snapshot: Snapshot, use: RecordedUse, matched: Match) -> DatacentreSpec:
    """The cluster at the time of the first sample."""
    up = tuple(
        replace(host, state=HostState.UP, state_reason="")
        if host.state is HostState.ASLEEP
        else host
        for host in snapshot.hosts
    )
    spec = specification_of(replace(snapshot, hosts=up, usage=None, taken_at=use.start))

    def played(guest: GuestSpec) -> GuestSpec:
        row = matched.cores.get(guest.vm.id)
        if row is None:
            return guest
        return replace(guest, cpu=Played(interval_seconds=use.interval_seconds, cores=row))

    return replace(spec, guests=tuple(played(guest) for guest in spec.guests))


def _cycles(
    session: Session, duty: Duty, world: Datacentre, power: SimulatedPower, use: RecordedUse
) -> Iterator[ReplayedCycle]:
    """Go through the time of the recording, cycle by cycle; the first has seen one sample."""
    read = ReadAccess(
        cluster=world.spec.cluster,
        host_names=tuple(host.host.name for host in world.spec.hosts),
        source=Telemetry(world, use.interval_seconds),
        clock=VirtualClock(world),
        uris={},
    )
    change = ChangeAccess(
        read=read,
        driver=SimulatedDriver(world),
        power=power,
        census=power.census,
        switchable=frozenset(world.hosts),
    )
    reach = Reach(
        for_reading=lambda: read,
        for_change=lambda: change,
        on_event=lambda _: None,
        should_stop=lambda: StopRequest.NO,
    )
    world.advance(use.interval_seconds)
    woke = False
    # A daemon that has woken a host looks again at once.
    while (due := world.seconds if woke else _next_due(session, duty, world, use)) < use.seconds:
        world.advance(max(0.0, due - world.seconds))
        at, woke = world.now, False
        try:
            report = tour(session, duty, reach)
            verdict, migrations = report.verdict, report.migrations if report.past.acted else 0
            woke = report.woke
        except RebalancerError as error:
            verdict, migrations = f"error: {' '.join(str(error).split())}", 0
        yield ReplayedCycle(at=at, verdict=verdict, migrations=migrations)
        # A cycle in which nothing was moved takes no time here.
        world.advance(1e-3)
    world.advance(max(0.0, use.seconds - world.seconds))


def _next_due(session: Session, duty: Duty, world: Datacentre, use: RecordedUse) -> float:
    """The second of the simulation at which the policy is due next."""
    every = session.settings.daemon.interval_seconds
    if duty.policy.active.cron is None:
        first = use.interval_seconds
        return first + every * math.ceil(max(0.0, world.seconds - first - 1e-6) / every)
    due = trigger_of(duty, every, 0.0).get_next_fire_time(None, world.now)
    return float((due - world.spec.start).total_seconds()) if due is not None else math.inf


def _kind(verdict: str) -> str:
    """What a verdict is about: its words up to the first number, colon or bracket."""
    words = []
    for word in verdict.split():
        if not word.rstrip(":,;").isalpha():
            break
        words.append(word.rstrip(":,;"))
        if word[-1] in ":,;":
            break
    return " ".join(words[:6]) or "other"


def _most_moved(snapshot: Snapshot, moves: tuple[Move, ...]) -> tuple[str, int]:
    counts = Counter(move.vm for move in moves)
    if not counts:
        return "", 0
    most = max(counts.values())
    vm = min(vm for vm, count in counts.items() if count == most)
    return snapshot.vm_by_id[vm].name, most


def _part(
    world: Datacentre, moves: tuple[Move, ...], power: SimulatedPower, load: LoadAccount
) -> Part:
    sizes: dict[VmId, Vm] = {guest.vm.id: guest.vm for guest in world.spec.guests}
    sent = sum(
        amount
        for carrier, amount in world.record.carried_bytes.items()
        if isinstance(carrier, Nic) and carrier.way is Way.OUT
    )
    # The energy of a migration is so much for each, and so much for each byte.
    joules = migration_joules(sent) + (len(moves) - 1) * migration_joules(0.0) if moves else 0.0
    return Part(
        load=load,
        moves=len(moves),
        moved_bytes=sum(sizes[move.vm].memory_bytes for move in moves),
        sent_bytes=sent,
        moving_joules=joules,
        sleeps=sum(not change.is_on for change in power.changes),
        wakes=sum(change.is_on for change in power.changes),
    )
