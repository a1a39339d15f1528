"""Simulated hosts that are really switched, and what a day of that comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.driver import Failed
from rebalancer.rollout.power import (
    Census,
    NoCensus,
    PowerCommand,
    PowerReply,
    PowerReturned,
    PowerState,
    ReadPower,
    Sleep,
    Wake,
)
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.day import (
    CycleTold,
    DayExpectations,
    DayResult,
    check_day,
    energy_joules,
)
from rebalancer.simulation.expectations import Between
from rebalancer.simulation.simulated_power import SimulatedPower
from tests.builders import NOON, a_host, a_snapshot, a_vm

H1, H2 = HostId("h1"), HostId("h2")


def a_world() -> tuple[Datacentre, SimulatedPower]:
    hosts = [a_host(name, idle_watts=100.0, max_watts=300.0) for name in ("h1", "h2")]
    world = Datacentre.of(a_snapshot(hosts=hosts, vms=[a_vm("vm1", on="h1", cpu_used_cores=0.0)]))
    return world, SimulatedPower(world)


def tell(power: SimulatedPower, command: PowerCommand) -> PowerReply:
    return power.poll(power.issue(command))


def test_a_host_that_sleeps_is_off_and_answers_only_after_it_has_booted() -> None:
    world, power = a_world()

    tell(power, Sleep(host=H2))
    off = tell(power, ReadPower(host=H2))
    silent = power.census(H2)
    tell(power, Wake(host=H2))
    booting = power.census(H2)
    world.advance(world.timings.boot_seconds)

    assert off == PowerReturned(state=PowerState.OFF)
    assert isinstance(silent, NoCensus)
    assert isinstance(booting, NoCensus)
    assert isinstance(power.census(H2), Census)


def test_a_host_with_guests_is_never_put_off() -> None:
    _, power = a_world()

    with pytest.raises(ValueError, match="still has VMs"):
        tell(power, Sleep(host=H1))


def test_a_broken_switch_refuses_and_changes_nothing() -> None:
    world, power = a_world()
    power.broken = {"h2"}

    assert isinstance(tell(power, Sleep(host=H2)), Failed)
    assert world.hosts[H2].powered


def test_energy_is_that_of_the_hours_with_power() -> None:
    world, power = a_world()
    world.advance(3600.0)
    tell(power, Sleep(host=H2))
    world.advance(3600.0)
    tell(power, Wake(host=H2))
    world.advance(3600.0)

    taken, all_on = energy_joules(world, power)

    assert power.seconds_on(H2) == 7200.0
    assert all_on == pytest.approx(2 * 100.0 * 3 * 3600.0)
    assert taken == pytest.approx(all_on - 100.0 * 3600.0)


def a_result(**changed: object) -> DayResult:
    cycles = tuple(CycleTold(at=NOON, verdict="balanced", awake=n) for n in (4, 2, 3))
    plain = DayResult(
        cycles=cycles, slept=2, woken=1, joules=80.0, joules_all_on=100.0, quarantined=(), lost=()
    )
    return replace(plain, **changed)  # type: ignore[arg-type]  # named by the tests


def test_everything_that_was_not_as_expected_is_named() -> None:
    expected = DayExpectations(
        slept=Between(at_least=3),
        woken=Between(at_least=1),
        energy_saved_ratio=0.5,
        fewest_awake=Between(at_least=3),
        quarantined=("h9",),
    )

    unmet = check_day(expected, a_result(lost=("vm1 runs on 0 hosts",)))

    assert unmet == (
        "hosts put to sleep: 2, not 3 or more",
        "hosts awake when fewest: 2, not 3 or more",
        "energy saved: 20.0%, less than 50.0%",
        "quarantined: none, not h9",
        "vm1 runs on 0 hosts",
    )


def test_a_day_as_expected_has_nothing_to_complain_of() -> None:
    assert check_day(DayExpectations(slept=Between(at_least=1, at_most=2)), a_result()) == ()
