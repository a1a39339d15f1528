"""A day of a simulated cluster whose hosts are switched: how long, what came of it, what should.

How the cycles are gone through is `service.rehearsed_day`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from rebalancer.cluster.power import idle_watts, max_watts
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.expectations import Between
from rebalancer.simulation.measured_use import measure_use
from rebalancer.simulation.simulated_power import SimulatedPower

_SAMPLE_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DayExpectations:
    """What should come of it; `None` asks nothing. That no VM is lost or doubled always holds."""

    slept: Between | None = None
    """How often a host was put to sleep."""
    woken: Between | None = None
    energy_saved_ratio: float | None = None
    """At least so much less energy than with all hosts on."""
    fewest_awake: Between | None = None
    """How many hosts had power when these were fewest."""
    quarantined: tuple[str, ...] = ()
    """Hosts that are quarantined in the end; no others are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """How a policy is looked after for a while."""

    every_seconds: float
    lasts_seconds: float
    sleep_after_cycles: int = 2
    cannot_wake: tuple[str, ...] = ()
    """Hosts whose BMC refuses from the moment on at which they sleep."""
    expect: DayExpectations = field(default_factory=DayExpectations)


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleTold:
    """One cycle and its verdict."""

    at: datetime
    verdict: str
    awake: int
    """Hosts that had power after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayResult:
    """What came of a day."""

    cycles: tuple[CycleTold, ...]
    slept: int
    woken: int
    joules: float
    joules_all_on: float
    """What the same guests would have taken with every host on all the time."""
    quarantined: tuple[str, ...]
    lost: tuple[str, ...]
    """VMs that do not run exactly once at the end though they should, and whatever else broke."""

    @property
    def saved_ratio(self) -> float:
        """Energy saved, relative to all hosts on."""
        return 1.0 - self.joules / self.joules_all_on if self.joules_all_on > 0 else 0.0


def energy_joules(world: Datacentre, power: SimulatedPower) -> tuple[float, float]:
    """Energy from the start until now: as it was, and had all hosts been on.

    Σ over hosts of idle watts · seconds with power + (max - idle) watts · Σ use / cores · dt.
    """
    samples = int(world.seconds // _SAMPLE_SECONDS)
    use = measure_use(world, (), world.spec.start, samples, _SAMPLE_SECONDS)
    taken = all_on = 0.0
    for host in world.hosts.values():
        idle, most = idle_watts(host.facts), max_watts(host.facts)
        busy = float(np.nansum(use.host_cpu_cores[host.id])) / host.facts.cpu_cores
        dynamic = (most - idle) * busy * _SAMPLE_SECONDS
        taken += idle * power.seconds_on(host.id) + dynamic
        all_on += idle * world.seconds + dynamic
    return taken, all_on


def broken_guests(world: Datacentre) -> tuple[str, ...]:
    """VMs that do not run exactly once, on a host with power, and invariants that were broken."""

    def found() -> Iterator[str]:
        for vm, guest in world.guests.items():
            hosts = world.record.running_on(vm)
            if guest.vm.is_active and len(hosts) != 1:
                yield f"{guest.vm.name} runs on {len(hosts)} hosts"
            yield from (
                f"{guest.vm.name} is on {host}, which is off"
                for host in hosts
                if not world.hosts[host].powered
            )
        yield from world.record.violations()

    return tuple(found())


def check_day(expected: DayExpectations, result: DayResult) -> tuple[str, ...]:
    """Return every expectation that was not met, in words; none is a success."""

    def unmet() -> Iterator[str]:
        for what, wanted, number in (
            ("put to sleep", expected.slept, result.slept),
            ("woken", expected.woken, result.woken),
            ("awake when fewest", expected.fewest_awake, _fewest(result)),
        ):
            if wanted is not None and not wanted.holds(number):
                yield f"hosts {what}: {number}, not {wanted}"
        least = expected.energy_saved_ratio
        if least is not None and result.saved_ratio < least:
            yield f"energy saved: {result.saved_ratio:.1%}, less than {least:.1%}"
        if sorted(expected.quarantined) != sorted(result.quarantined):
            names = ", ".join(result.quarantined) or "none"
            yield f"quarantined: {names}, not {', '.join(expected.quarantined) or 'none'}"
        yield from result.lost

    return tuple(unmet())


def _fewest(result: DayResult) -> int:
    return min((cycle.awake for cycle in result.cycles), default=0)
