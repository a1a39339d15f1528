"""Which migrations may start together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rebalancer.cluster.inventory import HostId, Mode, VmId
from rebalancer.cluster.plan import Migration
from rebalancer.cluster.policy import Limits
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.rollout.admission import Flight, Foreign, Grant, admit, spare_bandwidth
from tests.builders import MIB, a_host, a_snapshot
from tests.unit.rollout.plans import a_migration

NIC = 1000.0 * MIB
HOSTS = tuple(a_host(f"h{n}", nic_bytes_per_second=NIC) for n in range(1, 7))
SNAPSHOT = a_snapshot(HOSTS)
LIMITS = Limits(per_host_out=2, per_host_in=2, cluster=5, link_share=0.7)


def moves(*pairs: tuple[str, str], rate: float = 100.0 * MIB) -> list[Migration]:
    return [
        a_migration(f"vm{n}", source, target, id=f"m{n}", bytes_per_second=rate)
        for n, (source, target) in enumerate(pairs, 1)
    ]


def admitted(waiting: Sequence[Migration], flights: Sequence[Flight] = ()) -> list[str]:
    return [grant.migration for grant in admit(waiting, flights, SNAPSHOT, LIMITS)]


def test_two_leave_a_host_at_once_and_two_enter_it() -> None:
    out = moves(("h1", "h2"), ("h1", "h3"), ("h1", "h4"))
    into = moves(("h1", "h6"), ("h2", "h6"), ("h3", "h6"))

    assert admitted(out) == ["m1", "m2"]
    assert admitted(into) == ["m1", "m2"]


def test_five_run_in_the_cluster() -> None:
    pairs = [(f"h{s}", f"h{t}") for s in (1, 2, 3) for t in (4, 5, 6) if s + 3 == t or s + 4 == t]
    waiting = moves(*pairs, ("h1", "h4"), ("h3", "h6"))

    assert len(admitted(waiting)) == 5


def test_what_is_under_way_counts() -> None:
    flying = [
        Flight(migration=a_migration("a", "h1", "h2", id="f1"), bytes_per_second=1.0),
        Flight(migration=a_migration("b", "h1", "h3", id="f2"), bytes_per_second=1.0),
    ]

    assert admitted(moves(("h1", "h4"), ("h4", "h5")), flying) == ["m2"]


def test_migrations_that_others_began_count_on_both_of_their_hosts_and_in_the_cluster() -> None:
    waiting = moves(("h1", "h2"), ("h3", "h5"), ("h3", "h4"), ("h4", "h2"), ("h6", "h3"))
    one, two = LIMITS, replace(LIMITS, per_host_out=1, per_host_in=1, cluster=4)
    theirs = [
        Foreign(vm=VmId("a"), source=HostId("h1"), target=HostId("h5"), bytes_per_second=MIB),
        Foreign(vm=VmId("b"), source=HostId("h6"), target=None, bytes_per_second=MIB),
    ]

    def let_in(limits: Limits, *foreign: Foreign) -> list[str]:
        return [grant.migration for grant in admit(waiting, [], SNAPSHOT, limits, foreign)]

    assert let_in(one) == ["m1", "m2", "m3", "m4", "m5"]
    assert let_in(one, *theirs) == ["m1", "m2", "m3"]
    assert let_in(two, *theirs) == ["m3", "m4"]


def theirs(source: str, target: str | None, rate: float | None) -> Foreign:
    to = HostId(target) if target is not None else None
    return Foreign(vm=VmId("a"), source=HostId(source), target=to, bytes_per_second=rate)


@pytest.mark.parametrize(
    ("rate", "granted"),
    [(None, []), (100.0, [600.0]), (350.0, [350.0]), (351.0, [])],
    ids=["unknown", "some", "half", "too much"],
)
def test_what_others_take_of_a_link_is_not_granted_again(
    rate: float | None, granted: list[float]
) -> None:
    """Of a NIC migrations may use 700 MiB/s; what others take of it, nobody knows at first."""
    other = theirs("h3", "h2", rate * MIB if rate is not None else None)

    grants = admit(moves(("h1", "h2"), rate=700.0 * MIB), [], SNAPSHOT, LIMITS, [other])

    assert [grant.bytes_per_second / MIB for grant in grants] == pytest.approx(granted)


def test_what_others_take_keeps_nobody_off_the_other_direction_or_another_host() -> None:
    waiting = moves(("h2", "h3"), ("h4", "h5"), rate=700.0 * MIB)

    grants = admit(waiting, [], SNAPSHOT, LIMITS, [theirs("h3", "h2", None)])

    assert [grant.migration for grant in grants] == ["m1", "m2"]


def test_a_migration_without_memory_to_send_does_not_wait_for_others_links() -> None:
    cold = [a_migration("vm1", "h1", "h2", id="m1", mode=Mode.COLD)]

    assert admit(cold, [], SNAPSHOT, LIMITS, [theirs("h1", "h2", None)])


def test_what_others_take_of_a_link_is_no_spare_bandwidth() -> None:
    (move,) = moves(("h1", "h2"))
    flights = [Flight(migration=move, bytes_per_second=100.0 * MIB)]

    def spare(*foreign: Foreign) -> float:
        return spare_bandwidth(move, flights, SNAPSHOT, LIMITS, foreign) / MIB

    assert spare() == pytest.approx(600.0)
    assert spare(theirs("h3", "h2", 200.0 * MIB)) == pytest.approx(400.0)
    assert spare(theirs("h1", None, None)) == 0.0


def test_a_nic_is_never_promised_more_than_its_share() -> None:
    waiting = moves(("h1", "h2"), ("h1", "h3"), rate=400.0 * MIB)

    assert admitted(waiting) == ["m1"]


def test_both_directions_of_a_nic_are_counted_apart() -> None:
    waiting = moves(("h1", "h2"), ("h2", "h1"), rate=600.0 * MIB)

    assert admitted(waiting) == ["m1", "m2"]


def test_a_grant_is_cut_to_what_a_free_link_has() -> None:
    grants = admit(moves(("h1", "h2"), rate=9000.0 * MIB), [], SNAPSHOT, LIMITS)

    assert grants == (Grant(migration="m1", bytes_per_second=700.0 * MIB),)


def test_a_wan_link_is_shared_by_all_that_pass_it_in_one_direction() -> None:
    hosts = [
        a_host("h1", site="east"),
        a_host("h2", site="east"),
        a_host("h3", site="west"),
        a_host("h4", site="west"),
    ]
    wan = Link(name="wan", bytes_per_second=100.0 * MIB, between=("east", "west"))
    snapshot = a_snapshot(hosts, sites=[Site(name="east"), Site(name="west")], links=[wan])
    waiting = moves(("h1", "h3"), ("h2", "h4"), ("h3", "h1"), rate=60.0 * MIB)

    grants = admit(waiting, [], snapshot, LIMITS)

    assert [grant.migration for grant in grants] == ["m1", "m3"]


def test_the_uplink_of_a_rack_is_shared_by_all_that_leave_it() -> None:
    hosts = [
        a_host(f"h{n}", rack="r1" if n < 4 else "r2", nic_bytes_per_second=NIC) for n in range(1, 7)
    ]
    racks = (Rack(name="r1", uplink_bytes_per_second=1000.0 * MIB),)
    snapshot = replace(a_snapshot(hosts), racks=racks)
    across = moves(("h1", "h4"), ("h2", "h5"), ("h4", "h3"), ("h2", "h3"), rate=400.0 * MIB)

    grants = admit(across, (), snapshot, LIMITS)

    # 700 MiB/s may leave the rack, as many may enter it, and what stays in it passes neither.
    assert [grant.migration for grant in grants] == ["m1", "m3"]
    assert "m4" in [g.migration for g in admit([across[0], across[3]], (), snapshot, LIMITS)]


def test_small_migrations_do_not_starve_one_that_waits_for_a_whole_link() -> None:
    flying = [Flight(migration=a_migration("a", "h1", "h2", id="f"), bytes_per_second=100.0 * MIB)]
    big = a_migration("big", "h1", "h3", id="m1", bytes_per_second=700.0 * MIB)
    small = a_migration("small", "h1", "h4", id="m2", bytes_per_second=10.0 * MIB)

    assert admitted([big, small], flying) == []
    assert admitted([big, small]) == ["m1"]


def test_moves_without_memory_need_no_bandwidth_but_a_place() -> None:
    waiting = [
        a_migration(f"vm{n}", "h1", "h2", id=f"m{n}", mode=Mode.COLD, bytes_per_second=0.0)
        for n in range(1, 4)
    ]

    assert admit(waiting, [], SNAPSHOT, LIMITS) == (
        Grant(migration="m1", bytes_per_second=0.0),
        Grant(migration="m2", bytes_per_second=0.0),
    )


def test_a_vm_is_moved_by_one_migration_at_a_time() -> None:
    waiting = [a_migration("vm1", "h1", "h2", id="m1"), a_migration("vm1", "h2", "h3", id="m2")]

    assert admitted(waiting) == ["m1"]


def test_a_nic_is_busy_although_the_other_end_is_out_of_the_configuration() -> None:
    flying = Flight(migration=a_migration("a", "h1", "gone", id="f1"), bytes_per_second=0.7 * NIC)

    assert admitted(moves(("h1", "h2")), [flying]) == []
