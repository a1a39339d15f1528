"""Hosts that were switched, as the rest of the program sees them."""

from __future__ import annotations

import pytest

from rebalancer.cluster.inventory import HostId, HostState
from rebalancer.collect.observations import LibvirtHost
from rebalancer.rollout.power_steps import Phase, PowerMark, Size
from rebalancer.service.power_view import known_asleep, with_power
from tests.builders import GIB, NOON, a_host, a_snapshot

H1 = HostId("h1")
SIZE = Size(cpu_cores=32.0, memory_bytes=256 * GIB, reserved_memory_bytes=8 * GIB)


def a_mark(phase: Phase, reason: str = "") -> dict[HostId, PowerMark]:
    return {H1: PowerMark(host=H1, phase=phase, since=NOON, reason=reason, size=SIZE)}


def seen(state: HostState, phase: Phase, drained: tuple[HostId, ...] = ()) -> HostState:
    snapshot = a_snapshot([a_host("h1", state=state), a_host("h2")])
    found = with_power(snapshot, a_mark(phase), drained)
    assert found.host_by_id[HostId("h2")].state is HostState.UP
    return found.host_by_id[H1].state


def test_a_sleeping_host_is_not_asked_and_has_the_size_it_had() -> None:
    host = LibvirtHost(name="h1", uri="qemu+ssh://h1/system")

    (asleep,) = known_asleep([host], a_mark(Phase.ASLEEP))

    assert asleep.state is HostState.ASLEEP
    assert (asleep.cpu_cores, asleep.memory_bytes) == (32.0, 256 * GIB)
    assert asleep.reserved_memory_bytes == 8 * GIB


def test_what_the_operator_set_goes_before() -> None:
    host = LibvirtHost(name="h1", uri="qemu+ssh://h1/system", state=HostState.MAINTENANCE)

    assert known_asleep([host], a_mark(Phase.ASLEEP)) == (host,)


@pytest.mark.parametrize("phase", [Phase.FALLING_ASLEEP, Phase.WAKING, Phase.QUARANTINED])
def test_a_host_on_its_way_is_asked_for_itself(phase: Phase) -> None:
    host = LibvirtHost(name="h1", uri="qemu+ssh://h1/system")

    assert known_asleep([host], a_mark(phase)) == (host,)


@pytest.mark.parametrize("phase", [Phase.FALLING_ASLEEP, Phase.WAKING, Phase.QUARANTINED])
def test_nothing_is_placed_on_a_host_that_is_not_simply_awake(phase: Phase) -> None:
    assert seen(HostState.UP, phase) is HostState.MAINTENANCE
    assert seen(HostState.DRAINING, phase) is HostState.MAINTENANCE


@pytest.mark.parametrize("phase", [Phase.FALLING_ASLEEP, Phase.WAKING, Phase.QUARANTINED])
def test_a_silent_host_on_its_way_is_unknown_and_not_empty(phase: Phase) -> None:
    assert seen(HostState.UNKNOWN, phase) is HostState.UNKNOWN
    assert seen(HostState.ASLEEP, phase) is HostState.UNKNOWN


def test_a_sleeping_host_that_answers_is_up() -> None:
    assert seen(HostState.UP, Phase.ASLEEP) is HostState.UP


def test_a_sleeping_host_that_is_drained_is_not_to_be_woken() -> None:
    assert seen(HostState.ASLEEP, Phase.ASLEEP) is HostState.ASLEEP
    assert seen(HostState.ASLEEP, Phase.ASLEEP, drained=(H1,)) is HostState.DOWN


def test_the_reason_of_a_quarantine_is_shown() -> None:
    snapshot = a_snapshot([a_host("h1"), a_host("h2")])

    found = with_power(snapshot, a_mark(Phase.QUARANTINED, "it did not wake within 600 s"))

    assert found.host_by_id[H1].state_reason == "quarantined: it did not wake within 600 s"
