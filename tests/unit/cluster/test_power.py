import pytest

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, HostState, Snapshot
from rebalancer.cluster.policy import BalanceGoal, Headroom, PowerGoal
from rebalancer.cluster.power import (
    AwakeNeed,
    awake_needs,
    cycle_joules,
    idle_watts,
    max_watts,
    migration_joules,
    power_goal,
)
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm


def test_a_host_of_unknown_draw_is_taken_for_a_typical_server() -> None:
    host = a_host(cpu_cores=32.0)

    assert idle_watts(host) == pytest.approx(30 + 3.3 * 32)
    assert max_watts(host) == pytest.approx(30 + 9.8 * 32)
    assert max_watts(a_host(idle_watts=500.0, max_watts=400.0)) == 500.0


def test_energy_of_a_migration_follows_what_it_sends() -> None:
    """Liu et al. (HPDC 2011): 0.512 J for each MB, and 20.165 J for each migration."""
    assert migration_joules(0.0) == 20.165
    assert migration_joules(1000e6) == pytest.approx(512 + 20.165)


def test_a_power_cycle_costs_its_boot_and_its_wear() -> None:
    goal = PowerGoal(boot_seconds=300.0, wear_joules=360e3)

    assert cycle_joules(goal, a_host(idle_watts=100.0, max_watts=300.0)) == 450e3


def test_the_power_goal_of_the_first_tier_counts() -> None:
    first, second = PowerGoal(tier=1, min_awake=3), PowerGoal(tier=2)

    assert power_goal(a_policy(goals=(second, first))) == first
    assert power_goal(a_policy(goals=(BalanceGoal(),))) is None


def test_a_need_leaves_out_the_largest_of_the_hosts_that_are_awake() -> None:
    a, b, c = (HostId(name) for name in "abc")
    need = AwakeNeed(what="memory", capacity={a: 10.0, b: 6.0, c: 4.0}, needed=9.0, failures=1)

    assert need.surplus({a, b, c}) == 1.0
    assert need.surplus({b, c}) == -5.0
    assert need.surplus(set()) == -9.0


def surpluses(snapshot: Snapshot, goal: PowerGoal, headroom: Headroom) -> dict[str, float]:
    policy = a_policy(goals=(goal,), headroom=headroom)
    needs = awake_needs(snapshot, policy, goal, Demand.as_measured(snapshot))
    up = {host.id for host in snapshot.hosts if host.may_receive}
    return {need.what: need.surplus(up) for need in needs}


def test_headroom_counts_for_memory_and_spare_but_is_there_for_the_loss_of_a_host() -> None:
    hosts = [a_host(f"h{number}", cpu_cores=10.0, memory_bytes=100 * MIB) for number in (1, 2)]
    vms = [a_vm("a", memory_bytes=50 * MIB, cpu_used_cores=6.0, vcpus=8)]
    headroom = Headroom(cpu_ratio=0.2, memory_ratio=0.1, host_failures=1)

    found = surpluses(a_snapshot(hosts, vms), PowerGoal(min_awake=1, spare_ratio=0.5), headroom)

    assert found["min_awake"] == 1
    assert found["host_failures: 1, memory"] / MIB == pytest.approx(90 - 50)
    assert found["host_failures: 1, CPU"] == pytest.approx(10 - 6)
    assert found["spare: 50%, memory"] / MIB == pytest.approx(0.5 * 180 - 50)
    assert found["spare: 50%, CPU"] == pytest.approx(0.5 * 16 - 6)
    assert found["spare: 50%, vCPUs"] == pytest.approx(0.5 * 80 - 8)


def test_vms_on_draining_hosts_have_to_fit_on_those_that_stay() -> None:
    hosts = [
        a_host("h1"),
        a_host("h2", state=HostState.DRAINING),
        a_host("h3", state=HostState.DOWN),
    ]
    vms = [a_vm("a", on="h2", memory_bytes=8 * GIB), a_vm("b", on="h3", memory_bytes=8 * GIB)]

    found = surpluses(a_snapshot(hosts, vms), PowerGoal(), Headroom(memory_ratio=0.0))

    assert found["all VMs, memory"] == (64 - 8) * GIB
