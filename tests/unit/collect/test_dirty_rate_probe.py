"""Measuring dirty rates: whom, how often, how many at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from rebalancer.cluster.inventory import VmId
from rebalancer.collect.dirty_rate_probe import LibvirtDirtyRateProbe, ProbePlan
from rebalancer.collect.hypervisor import DirtyRateConnection, HypervisorError, Stats
from rebalancer.collect.observations import LibvirtHost
from rebalancer.collect.sources import DirtyRate
from tests.builders import MIB, NOON


class FakeGuests:
    """Guests of one host, each with the rates that its next windows show, in MiB/s."""

    def __init__(self, **rates: list[float | None]) -> None:
        self.rates = {vm: list(each) for vm, each in rates.items()}
        self.states = dict.fromkeys(rates, 1)
        self.busy: frozenset[str] = frozenset()
        self.refusing: frozenset[str] = frozenset()
        self.hang: threading.Event | None = None
        self.going: dict[str, float | None] = {}
        self.started: list[tuple[str, int]] = []
        self.most_at_once = 0

    def stats(self, *, with_details: bool) -> Mapping[str, Stats]:
        if self.hang:
            self.hang.wait()
        return {vm: {"state.state": state} for vm, state in self.states.items()}

    def busy_with_jobs(self) -> frozenset[str]:
        return self.busy

    def start_dirty_rate(self, uuid: str, seconds: int) -> None:
        if uuid in self.refusing:
            raise HypervisorError("not now")
        self.started.append((uuid, seconds))
        rates = self.rates[uuid]
        self.going[uuid] = rates.pop(0) if rates else None
        self.most_at_once = max(self.most_at_once, len(self.going))

    def dirty_bytes_per_second(self, uuid: str) -> float | None:
        rate = self.going.get(uuid)
        if rate is None:
            return None
        del self.going[uuid]
        return rate * MIB

    def close(self) -> None:
        pass


def probe(
    *vms: str,
    hosts: Mapping[str, FakeGuests | HypervisorError],
    plan: ProbePlan | None = None,
    timeout_seconds: float = 60.0,
) -> Mapping[VmId, DirtyRate]:
    def connect(uri: str) -> DirtyRateConnection:
        found = hosts[uri]
        if isinstance(found, HypervisorError):
            raise found
        return found

    source = LibvirtDirtyRateProbe(
        [LibvirtHost(name=name, uri=name) for name in hosts],
        now=lambda: NOON,
        connect=connect,
        sleep=lambda _: None,
        plan=plan,
        timeout_seconds=timeout_seconds,
    )
    return source.probe([VmId(vm) for vm in vms])


def test_the_median_of_the_short_windows_counts() -> None:
    found = probe("a", hosts={"h1": FakeGuests(a=[0, 10, 40, 10])})

    rate = found[VmId("a")]
    assert (rate.bytes_per_second, rate.working_set_bytes) == (10 * MIB, None)
    assert rate.measured_at == NOON


def test_how_uncertain_a_rate_is_follows_from_how_few_pages_were_seen() -> None:
    # 40 MiB in 4 s are 20 pages of which each stands for 2 MiB: 20 ± 4.5, so 10 ± 2.2 MiB/s.
    found = probe("a", hosts={"h1": FakeGuests(a=[10, 10, 10, 10])})
    idle = probe("a", hosts={"h1": FakeGuests(a=[0, 0, 0, 0])})

    assert 2.2 * MIB < found[VmId("a")].error_bytes_per_second < 2.4 * MIB
    assert 0.5 * MIB < idle[VmId("a")].error_bytes_per_second < 1 * MIB


def test_where_time_is_short_the_first_ones_are_measured() -> None:
    rates: dict[str, list[float | None]] = {name: [1, 1, 1, 1] for name in "abcd"}
    guests = FakeGuests(**rates)
    hurried = ProbePlan(at_once_per_host=2, budget_seconds=-1.0)

    assert probe("c", "a", "d", "b", hosts={"h1": guests}, plan=hurried) == {}
    assert guests.started == []


def test_a_long_window_tells_the_working_set() -> None:
    # 48 MiB, written twice a second: U(1 s) = 41.5 MiB, U(4 s) = 48 MiB
    found = probe("a", hosts={"h1": FakeGuests(a=[41.5, 41.5, 41.5, 11.996])})

    rate = found[VmId("a")]
    assert rate.working_set_bytes is not None
    assert abs(rate.working_set_bytes - 48 * MIB) < MIB
    assert abs(rate.bytes_per_second - 96 * MIB) < 2 * MIB


def test_vms_are_looked_for_on_all_hosts() -> None:
    hosts = {"h1": FakeGuests(a=[1, 1, 1, 1]), "h2": FakeGuests(b=[2, 2, 2, 2])}

    assert set(probe("a", "b", "c", hosts=hosts)) == {"a", "b"}


def test_nobody_else_is_disturbed() -> None:
    guests = FakeGuests(a=[1, 1, 1, 1], b=[1, 1, 1, 1])

    probe("a", hosts={"h1": guests})

    assert guests.started == [("a", 1), ("a", 1), ("a", 1), ("a", 4)]


def test_paused_vms_and_those_that_something_is_done_with_are_left_alone() -> None:
    guests = FakeGuests(a=[1] * 4, paused=[1] * 4, migrating=[1] * 4)
    guests.states["paused"] = 3
    guests.busy = frozenset({"migrating"})

    assert set(probe("a", "paused", "migrating", hosts={"h1": guests})) == {"a"}
    assert {vm for vm, _ in guests.started} == {"a"}


def test_only_a_few_are_measured_at_once() -> None:
    rates: dict[str, list[float | None]] = {name: [1, 1, 1, 1] for name in "abcdefg"}
    guests = FakeGuests(**rates)

    found = probe(*"abcdefg", hosts={"h1": guests}, plan=ProbePlan(at_once_per_host=3))

    assert len(found) == 7
    assert guests.most_at_once == 3


def test_one_that_cannot_be_measured_is_left_out_and_the_others_are_not() -> None:
    guests = FakeGuests(a=[1, 1, 1, 1], b=[1, 1, 1, 1], silent=[])
    guests.refusing = frozenset({"b"})

    assert set(probe("a", "b", "silent", hosts={"h1": guests})) == {"a"}


def test_a_dead_host_hides_no_other() -> None:
    alive = FakeGuests(a=[1, 1, 1, 1])

    found = probe("a", hosts={"h1": HypervisorError("refused"), "h2": alive})

    assert set(found) == {"a"}


def test_a_host_that_hangs_hides_no_other() -> None:
    hanging = FakeGuests(b=[1, 1, 1, 1])
    hanging.hang = threading.Event()
    quick = ProbePlan(short_seconds=0, long_seconds=0)
    try:
        found = probe("b", hosts={"h1": hanging}, plan=quick, timeout_seconds=0.2)
    finally:
        hanging.hang.set()

    assert found == {}


def test_nothing_asked_nothing_done() -> None:
    assert probe(hosts={"h1": HypervisorError("never asked")}) == {}
