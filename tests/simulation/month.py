"""Thirty days of a small cluster under the daemon, and under nobody.

Days with their ups and downs, VMs that become hot for half a day, hosts that fall silent or lose
power, a Prometheus that is away for hours, daemons that are killed. All of it is drawn from a
seed; time is virtual and jumps from one cycle to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.policy import BalanceGoal, Limits, MovementGoal, Policy, Trigger
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import Move
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, Settings, load_settings
from rebalancer.service.daemon import Daemon, LeavingError
from rebalancer.service.duty import Reach, duty_of
from rebalancer.service.notify import Notifier
from rebalancer.service.session import Session
from rebalancer.service.setup import Setup
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_source import SimulatedSource
from rebalancer.simulation.specification import (
    DatacentreSpec,
    GuestSpec,
    HostSpec,
    memory_use_of,
)
from rebalancer.simulation.traces import Recorded
from tests.builders import GIB, NOON, a_host, a_policy, a_vm

DAYS = 30
DAY_SECONDS = 86_400.0
CYCLE_SECONDS = 1800.0
SAMPLE_SECONDS = 300.0
COOLDOWN_SECONDS = 4 * 3600.0
REVERSE_BAN_SECONDS = 12 * 3600.0
KILLED = "killed"
HOSTS, VMS, CORES, VCPUS = 6, 36, 16.0, 4

POLICY: Policy = a_policy(
    goals=(BalanceGoal(tier=1), MovementGoal(tier=1, weight=0.1)),
    trigger=Trigger(spread_ratio=0.25, hot_ratio=0.85, for_cycles=2),
    limits=Limits(cooldown_seconds=COOLDOWN_SECONDS, reverse_ban_seconds=REVERSE_BAN_SECONDS),
)

type Samples = NDArray[np.float64]


def demands(rng: np.random.Generator) -> list[Samples]:
    """What each VM wants, every five minutes: a day's wave, noise, and a hot half day now and then.

    Those that belong together were once put on one host together, and are busy together.
    """
    count = int(DAYS * DAY_SECONDS / SAMPLE_SECONDS)
    hours = np.arange(count) * SAMPLE_SECONDS / 3600.0 + 12.0
    found = []
    for vm in range(VMS):
        team = vm % HOSTS
        peak_hour = (14.0, 15.0, 2.0, 14.5, 9.0, 3.0)[team] + rng.normal(0.0, 0.5)
        mean = (2.3, 2.0, 1.4, 0.5, 0.6, 0.5)[team] * rng.uniform(0.8, 1.2)
        wave = 1.0 + 0.45 * np.cos(2 * np.pi * (hours - peak_hour) / 24.0)
        wanted = mean * wave + rng.normal(0.0, 0.08, count)
        for _ in range(rng.poisson(DAYS / 8)):
            start = rng.integers(0, count - 144)
            wanted[start : start + 144] += rng.uniform(1.0, 2.0)
        found.append(np.clip(wanted, 0.05, float(VCPUS)))
    return found


def troubles(rng: np.random.Generator) -> Iterator[Fault]:
    """Three hosts that fall silent for an hour or two, and two that lose power."""
    for kind, count in ((FaultKind.HOST_UNREACHABLE, 3), (FaultKind.HOST_DIES, 2)):
        for _ in range(count):
            yield Fault(
                kind=kind,
                host=HostId(f"h{rng.integers(HOSTS)}"),
                at_seconds=rng.uniform(1, DAYS - 1) * DAY_SECONDS,
                duration_seconds=rng.uniform(0.5, 2.0) * 3600.0,
            )


@dataclass
class Telemetry:
    """The hosts, and a Prometheus that is now and then away for some hours."""

    source: SimulatedSource
    datacentre: Datacentre
    outages: tuple[tuple[float, float], ...]

    def observe(self) -> Snapshot:
        seen = self.source.observe()
        if self.is_away():
            return replace(seen, usage=None, usage_fault="Prometheus does not answer")
        return seen

    def is_away(self) -> bool:
        now = self.datacentre.seconds
        return any(start <= now < end for start, end in self.outages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """What came of it."""

    verdicts: tuple[str, ...]
    moves: tuple[Move, ...]
    acted_without_telemetry: int
    restarts: int
    killed_at_work: int
    """Daemons that were moving VMs when they were killed."""
    overload_seconds: float
    """Host seconds in which VMs together wanted more cores than their host has."""
    idle_overload_seconds: float
    """The same, had nobody moved anything."""
    unfinished: int
    """Rollouts that nobody saw to the end."""


@dataclass
class _Play:
    folder: Path
    rng: np.random.Generator
    wanted: list[Samples]
    datacentre: Datacentre
    telemetry: Telemetry
    deaths: set[int]
    """Cycles in which the daemon is killed, if it is moving something."""
    polls_left: int | None = None
    verdicts: list[str] = field(default_factory=list)

    def daemon(self) -> Daemon:
        """A new process: it knows nothing but what the journal says."""
        settings = load_settings(
            flags={
                "cluster": "dc",
                "journal": f"sqlite:///{self.folder / 'journal.db'}",
                "mode": RunMode.AUTO,
                "placement.time_limit_seconds": 0.5,
                "placement.executor": "serial",
                "daemon.interval_seconds": CYCLE_SECONDS,
            },
            system_config=Path("/nonexistent"),
        )
        session = Session(settings=settings, out=Console(), err=Console(stderr=True))
        setup = Setup(session=session, duties={"test": duty_of(settings, POLICY)})
        return Daemon(lambda: setup, setup, Notifier({}), self.reach)

    def reach(self, _: Settings) -> Reach:
        clock = VirtualClock(self.datacentre)
        read = ReadAccess(cluster="dc", host_names=(), source=self.telemetry, clock=clock, uris={})
        return Reach(
            for_reading=lambda: read,
            for_change=lambda: ChangeAccess(read=read, driver=SimulatedDriver(self.datacentre)),
            on_event=lambda _: None,
            should_stop=self.should_stop,
        )

    def should_stop(self) -> StopRequest:
        if self.polls_left is not None:
            self.polls_left -= 1
            if self.polls_left < 0:
                raise LeavingError(KILLED)
        return StopRequest.NO


def play(folder: Path, seed: int = 1) -> Month:
    """Live through the month."""
    rng = np.random.default_rng(seed)
    wanted = demands(rng)
    vms = [
        a_vm(f"vm{n}", on=f"h{n % HOSTS}", vcpus=VCPUS, memory_bytes=4 * GIB, autostart=True)
        for n in range(VMS)
    ]
    datacentre = Datacentre(
        DatacentreSpec(
            cluster="dc",
            start=NOON,
            hosts=tuple(HostSpec(host=a_host(f"h{n}", cpu_cores=CORES)) for n in range(HOSTS)),
            guests=tuple(
                GuestSpec(
                    vm=vm,
                    cpu=Recorded(interval_seconds=SAMPLE_SECONDS, cores=tuple(samples.tolist())),
                    memory=memory_use_of(vm),
                )
                for vm, samples in zip(vms, wanted, strict=True)
            ),
            faults=tuple(troubles(rng)),
        )
    )
    outages = tuple(
        (at, at + rng.uniform(1.0, 4.0) * 3600.0)
        for at in rng.uniform(0, DAYS * DAY_SECONDS, size=6)
    )
    source = SimulatedSource(
        datacentre, interval_seconds=CYCLE_SECONDS, history_seconds=8 * DAY_SECONDS
    )
    cycles = int(DAYS * DAY_SECONDS / CYCLE_SECONDS)
    played = _Play(
        folder=folder,
        rng=rng,
        wanted=wanted,
        datacentre=datacentre,
        telemetry=Telemetry(source, datacentre, outages),
        deaths=set(rng.choice(cycles, size=cycles // 3, replace=False).tolist()),
    )
    return _played(played, cycles)


def _played(played: _Play, cycles: int) -> Month:
    world = played.datacentre
    home = {vm.id: vm.host for vm in (guest.vm for guest in world.spec.guests)}
    overload, idle_overload, restarts, blind = 0.0, 0.0, 0, 0
    daemon = played.daemon()
    for cycle in range(cycles):
        played.polls_left = 3 if cycle in played.deaths else None
        is_blind = played.telemetry.is_away()
        verdict = daemon.run_due("test")
        played.verdicts.append(verdict)
        blind += is_blind and verdict.startswith("moved")
        if cycle in played.deaths:
            daemon, restarts = played.daemon(), restarts + 1
        now = world.seconds
        world.advance(max(0.0, (cycle + 1) * CYCLE_SECONDS - now))
        here = _places(world)
        overload += _overload(played.wanted, here, cycle)
        idle_overload += _overload(played.wanted, home, cycle)
    played.polls_left = None
    daemon.run_due("test")
    clock = VirtualClock(world)
    with Journal.open(f"sqlite:///{played.folder / 'journal.db'}", clock) as journal:
        unfinished = len(journal.unfinished("dc"))
    return Month(
        verdicts=tuple(played.verdicts),
        moves=_moves(played),
        acted_without_telemetry=blind,
        restarts=restarts,
        killed_at_work=played.verdicts.count(KILLED),
        overload_seconds=overload,
        idle_overload_seconds=idle_overload,
        unfinished=unfinished,
    )


def _moves(played: _Play) -> tuple[Move, ...]:
    clock = VirtualClock(played.datacentre)
    with Journal.open(f"sqlite:///{played.folder / 'journal.db'}", clock) as journal:
        return journal.moves_since(NOON - timedelta(days=1), "dc")


def _places(world: Datacentre) -> Mapping[VmId, HostId]:
    return {vm: host.id for host in world.hosts.values() for vm in host.domains}


def _overload(wanted: list[Samples], places: Mapping[VmId, HostId], cycle: int) -> float:
    """Host seconds above what the host has, between one cycle and the next."""
    samples = int(CYCLE_SECONDS / SAMPLE_SECONDS)
    window = slice(cycle * samples, (cycle + 1) * samples)
    load: dict[HostId, Samples] = {}
    for n, vm_samples in enumerate(wanted):
        host = places.get(VmId(f"vm{n}"))
        if host is not None:
            load[host] = load.get(host, np.zeros(samples)) + vm_samples[window]
    return float(sum((hot > CORES).sum() for hot in load.values())) * SAMPLE_SECONDS
