"""What simulated time came to: overload and energy, with moves and without."""

from __future__ import annotations

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.load_account import LoadAccount, account_of, account_of_staying
from rebalancer.simulation.simulated_power import PowerChange
from rebalancer.simulation.traces import Played
from tests.builders import a_host, a_snapshot, a_vm

H1, H2 = HostId("h1"), HostId("h2")


def a_pair(used: float) -> Datacentre:
    hosts = [a_host(name, cpu_cores=4.0, idle_watts=100.0, max_watts=200.0) for name in (H1, H2)]
    return Datacentre.of(a_snapshot(hosts, [a_vm("db", "h1", cpu_used_cores=used)]))


def account(world: Datacentre, *changes: PowerChange, asleep: frozenset[HostId]) -> LoadAccount:
    return account_of(world, samples=4, interval_seconds=60.0, asleep=asleep, switched=changes)


def test_energy_is_idle_watts_and_what_load_adds() -> None:
    world = a_pair(2.0)
    world.advance(240.0)

    told = account(world, asleep=frozenset())

    assert told.energy_joules == pytest.approx(240 * (150 + 100))
    assert told.on_seconds == 480
    assert told == account_of_staying(world, samples=4, interval_seconds=60.0)


def test_a_host_draws_nothing_while_it_has_no_power() -> None:
    world = a_pair(2.0)
    world.advance(240.0)
    off = PowerChange(at_seconds=90.0, host=H2, is_on=False)
    on = PowerChange(at_seconds=210.0, host=H2, is_on=True)

    told = account(world, off, on, asleep=frozenset())
    woken = account(world, on, asleep=frozenset({H2}))

    assert told.energy_joules == pytest.approx(240 * 150 + (90 + 30) * 100)
    assert woken.energy_joules == pytest.approx(240 * 150 + 30 * 100)


def test_overload_is_told_in_time_and_in_what_was_missing() -> None:
    world = a_pair(5.0)
    world.advance(240.0)

    told = account(world, asleep=frozenset())

    assert told.overload_seconds == 240
    assert told.missing_core_seconds == pytest.approx(240.0)
    assert told.peak_ratio == pytest.approx(1.25)
    # Nothing draws more than all it can.
    assert told.energy_joules == pytest.approx(240 * (200 + 100))


def test_a_recording_is_played_once() -> None:
    trace = Played(interval_seconds=60.0, cores=np.array([1.0, 2.0]))

    assert trace.at(np.array([-500.0, 0.0, 61.0, 5000.0])).tolist() == [1.0, 1.0, 2.0, 2.0]
