"""Where VMs are better off: latency, energy by the hour, carbon, and what the way there costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.policy import BalanceGoal, GeographyCriterion, GeographyGoal, MovementGoal
from rebalancer.cluster.rules import Fence
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.sites import Link, Site
from rebalancer.placement.geography import energy, expected_rate, mean_over
from tests.builders import GIB, NOON, a_host, a_policy, a_snapshot, a_vm
from tests.unit.placement.clusters import moves, on, problem_of, solve

PRICE = GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE)
BY_DAY = tuple(0.1 if 6 <= hour < 18 else 0.4 for hour in range(24))
BY_NIGHT = tuple(0.4 if 6 <= hour < 18 else 0.1 for hour in range(24))


def two_sites(*, toll: float = 0.0, at: datetime = NOON, **changed: object) -> Snapshot:
    """One VM of one busy core at the site that is dear by day."""
    hosts = [a_host("h1", site="dear"), a_host("h2", site="cheap")]
    vm = a_vm("v", on="h1", cpu_used_cores=4.0, memory_bytes=8 * GIB, **changed)
    sites = [
        Site(name="dear", energy_price_per_kwh_by_hour=BY_NIGHT),
        Site(name="cheap", energy_price_per_kwh_by_hour=BY_DAY),
    ]
    wan = Link(name="wan", bytes_per_second=1e9, between=("dear", "cheap"), price_per_gib=toll)
    return replace(a_snapshot(hosts, [vm], sites=sites, links=[wan]), taken_at=at)


def test_vms_follow_the_price_of_the_hour() -> None:
    night = NOON.replace(hour=22)

    assert moves(two_sites(), solve(two_sites(), a_policy(goals=(PRICE,)))) == {"v": "h2"}
    assert moves(two_sites(at=night), solve(two_sites(at=night), a_policy(goals=(PRICE,)))) == {}


def test_a_dip_that_is_over_before_the_way_is_paid_back_moves_nothing() -> None:
    """At 17:30 the other site is cheap for half an hour, and dear for the eleven after it."""
    late = two_sites(at=NOON.replace(hour=17, minute=30))
    patient = replace(PRICE, payback_seconds=6 * 3600)
    hasty = replace(PRICE, payback_seconds=1800)

    assert moves(late, solve(late, a_policy(goals=(patient,)))) == {}
    assert moves(late, solve(late, a_policy(goals=(hasty,)))) == {"v": "h2"}


@pytest.mark.parametrize(("part", "goes"), [(0.99, True), (1.01, False)])
def test_a_move_over_the_wan_has_to_pay_for_itself_in_time(part: float, goes: bool) -> None:
    """4 cores of 6.5 W each, for 6 hours, at 0.3 a kWh less, buy so much of the way."""
    saved = 4 * 6.5 / 1000 * 6 * 0.3
    sent_gib = 8.25

    # A guest that writes would be sent more.
    snapshot = two_sites(toll=part * saved / sent_gib, dirty_bytes_per_second=0.0)

    assert bool(moves(snapshot, solve(snapshot, a_policy(goals=(PRICE,))))) is goes


def test_the_price_of_the_hours_to_come_counts_by_how_much_of_each_does() -> None:
    start = datetime(2026, 1, 1, 23, 30, tzinfo=UTC)
    by_hour = tuple(float(hour) for hour in range(24))

    assert mean_over(by_hour, start, 1800.0) == 23.0
    assert mean_over(by_hour, start, 3600.0) == pytest.approx((23.0 + 0.0) / 2)
    assert mean_over(by_hour, start, 10 * 86400.0) == pytest.approx(11.5)


@given(
    st.lists(st.floats(0, 10), min_size=24, max_size=24),
    st.datetimes(timezones=st.just(UTC)),
    st.floats(60.0, 1e6),
)
def test_a_mean_lies_between_the_least_and_the_most(
    by_hour: list[float], start: datetime, seconds: float
) -> None:
    mean = mean_over(by_hour, start, seconds)

    assert min(by_hour) - 1e-9 <= mean <= max(by_hour) + 1e-9


@pytest.mark.parametrize(("part", "goes"), [(0.99, True), (1.01, False)])
def test_a_price_below_zero_is_the_better_the_lower_it_is(part: float, goes: bool) -> None:
    """From -0.05 to -0.25 a kWh is earned as much as from 0.4 to 0.2 is saved."""
    earned = 4 * 6.5 / 1000 * 6 * 0.2
    snapshot = replace(
        two_sites(toll=part * earned / 8.25, dirty_bytes_per_second=0.0),
        sites=(
            Site(name="dear", energy_price_per_kwh=-0.05),
            Site(name="cheap", energy_price_per_kwh=-0.25),
        ),
    )

    assert bool(moves(snapshot, solve(snapshot, a_policy(goals=(PRICE,))))) is goes


def test_a_table_by_the_hour_goes_before_the_flat_price() -> None:
    site = Site(
        name="a", energy_price_per_kwh=9.0, energy_price_per_kwh_by_hour=BY_DAY, carbon_g_per_kwh=7
    )

    assert expected_rate(site, PRICE, NOON) == pytest.approx(0.1)
    assert expected_rate(site, replace(PRICE, criterion=GeographyCriterion.CARBON), NOON) == 7
    assert expected_rate(Site(name="b"), PRICE, NOON) is None


def test_a_site_of_which_nothing_is_known_is_as_bad_as_the_worst() -> None:
    hosts = [a_host("h1", site="unknown"), a_host("h2", site="cheap"), a_host("h3", site="dear")]
    sites = [
        Site(name="cheap", energy_price_per_kwh=0.1),
        Site(name="dear", energy_price_per_kwh=0.3),
    ]
    snapshot = a_snapshot(hosts, [a_vm("v", on="h1")], sites=sites)

    assert on(solve(snapshot, a_policy(goals=(PRICE,))), "h2") == ["v"]


def test_without_any_price_nothing_is_preferred() -> None:
    snapshot = a_snapshot([a_host("h1", site="a"), a_host("h2", site="b")], [a_vm("v")])

    assert moves(snapshot, solve(snapshot, a_policy(goals=(PRICE,)))) == {}


def test_data_that_must_stay_stays_whatever_energy_costs_there() -> None:
    snapshot = two_sites(labels={"residency": "jp"})
    rule = Fence(
        name="residency",
        vms=VmSelector(labels={"residency": ("jp",)}),
        to=HostSelector(sites=("dear",)),
    )

    assert moves(snapshot, solve(snapshot, a_policy(rule, goals=(PRICE,)))) == {}


def test_each_group_of_vms_is_brought_near_its_own_users() -> None:
    sites = [
        Site(name="tokyo", latency_seconds={"eu": 0.23, "jp": 0.01}),
        Site(name="paris", latency_seconds={"eu": 0.01, "jp": 0.23}),
    ]
    hosts = [a_host("h1", site="tokyo"), a_host("h2", site="paris")]
    vms = [
        a_vm("a", on="h1", labels={"users": "eu"}),
        a_vm("b", on="h2", labels={"users": "jp"}),
        a_vm("c", on="h2"),
    ]
    goals = tuple(
        GeographyGoal(users=users, vms=VmSelector(labels={"users": (users,)}))
        for users in ("eu", "jp")
    )
    snapshot = a_snapshot(hosts, vms, sites=sites)

    assert moves(snapshot, solve(snapshot, a_policy(goals=goals))) == {"a": "h2", "b": "h1"}


def test_the_cost_of_the_way_keeps_a_balance_within_sites() -> None:
    hosts = [a_host("h1", site="a"), a_host("h2", site="a"), a_host("h3", site="b")]
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=2.0) for k in range(6)]
    wan = [Link(name="w", bytes_per_second=1.25e9, between=("a", "b"), price_per_gib=0.02)]
    snapshot = a_snapshot(hosts, vms, links=wan)
    way = GeographyGoal(criterion=GeographyCriterion.WAN_COST, weight=10.0)

    free = solve(snapshot, a_policy(goals=(BalanceGoal(memory_weight=0.0),)))
    priced = solve(snapshot, a_policy(goals=(BalanceGoal(memory_weight=0.0), way)))

    assert (len(on(free, "h2")), len(on(free, "h3"))) == (2, 2)
    assert (len(on(priced, "h2")), len(on(priced, "h3"))) == (3, 0)


def test_a_move_within_a_site_is_not_said_to_be_for_the_site() -> None:
    hosts = [a_host("h1", site="cheap"), a_host("h2", site="cheap")]
    vms = [a_vm(f"v{k}", on="h1", cpu_used_cores=4.0) for k in range(4)]
    sites = [Site(name="cheap", energy_price_per_kwh=0.1)]
    snapshot = a_snapshot(hosts, vms, sites=sites)

    answer = solve(snapshot, a_policy(goals=(PRICE, BalanceGoal(), MovementGoal())))

    assert moves(snapshot, answer)
    assert not any("better" in reason for reason in answer.reasons.values())


def test_what_is_known_of_places_is_read_once_for_all_vms() -> None:
    """Prices hang on sites, so the arrays have a row for each site, not for each VM."""
    problem = problem_of(two_sites(toll=0.1), a_policy(goals=(PRICE,)))

    assert [term.matrix.shape for term in energy(problem, PRICE)] == [(1, 2), (2, 2)]
