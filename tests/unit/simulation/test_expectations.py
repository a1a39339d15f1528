"""Whether what a scenario expects came true, in words when it did not."""

from __future__ import annotations

from typing import Any

from rebalancer.cluster.inventory import HostId, Mode, Snapshot, VmId
from rebalancer.cluster.plan import (
    Migration,
    MigrationState,
    Outcome,
    Plan,
    Priority,
    Unmoved,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.prediction import Confidence, Prediction
from rebalancer.cluster.rules import Violation
from rebalancer.simulation.expectations import Between, Expectations, check
from tests.builders import GIB, NOON, a_host, a_snapshot, a_vm


def a_move(name: str, mode: Mode = Mode.LIVE, number: int = 1) -> Migration:
    return Migration(
        id=f"m{number}",
        vm=VmId(name),
        vm_name=name,
        source=HostId("h1"),
        target=HostId("h2"),
        mode=mode,
        mode_reason="it converges",
        reason="h1 is hot",
        priority=Priority.BALANCE,
        wave=1,
        depends_on=(),
        bytes_per_second=1e8,
        max_downtime_seconds=0.5,
        memory_bytes=GIB,
        predicted=Prediction(
            start_seconds=0,
            duration_seconds=10,
            duration_upper_seconds=20,
            downtime_seconds=0.2,
            downtime_upper_seconds=0.5,
            transfer_bytes=GIB,
            confidence=Confidence.HIGH,
        ),
    )


def a_plan(*migrations: Migration, **changed: Any) -> Plan:
    facts: dict[str, Any] = {
        "id": "p1",
        "cluster": "test",
        "creator": "test",
        "created_at": NOON,
        "expires_at": NOON,
        "policy": "balance",
        "policy_fingerprint": "",
        "snapshot_fingerprint": "",
        "snapshot_taken_at": NOON,
        "verdict": Verdict(kind=VerdictKind.MOVES, text="moved"),
        "objective": None,
        "hosts": (),
    }
    return Plan(migrations=migrations, **(facts | changed))


def a_cluster(*used: float, **where: str) -> Snapshot:
    """Hosts h1, h2… that use so many of their 10 cores, with VMs where they are said to be."""
    hosts = [
        a_host(f"h{n}", cpu_cores=10.0, cpu_used_cores=cores) for n, cores in enumerate(used, 1)
    ]
    return a_snapshot(hosts, [a_vm(name, host) for name, host in where.items()])


BEFORE = a_cluster(9.0, 1.0, a="h1", b="h1")
AFTER = a_cluster(5.0, 5.0, a="h1", b="h2")


def unmet(expectations: Expectations, *outcomes: Outcome, plan: Plan | None = None) -> str:
    told = check(expectations, plan or a_plan(a_move("b")), outcomes, BEFORE, AFTER, exit_code=0)
    return "; ".join(told)


def an_outcome(state: MigrationState = MigrationState.COMPLETE, **facts: Any) -> Outcome:
    return Outcome(migration="m1", state=state, text="so it went", **facts)


def test_a_rollout_that_takes_another_time_than_planned_is_told() -> None:
    expected, plan = Expectations(makespan_error_ratio=0.1), a_plan(makespan_seconds=100.0)

    def told(seconds: float | None) -> str:
        return "".join(check(expected, plan, (), BEFORE, AFTER, rollout_seconds=seconds))

    assert told(90.0) == told(110.0) == told(None) == ""
    assert told(60.0) == "the rollout took 60 s, expected 100 s as planned, give or take 10%"
    assert "took 120 s" in told(120.0)


def test_expecting_nothing_is_met_by_anything() -> None:
    assert unmet(Expectations()) == ""


def test_what_was_expected_and_came_true_is_not_mentioned() -> None:
    expected = Expectations(
        verdict=VerdictKind.MOVES,
        exit_code=0,
        migrations=Between(at_least=1, at_most=1),
        modes={"b": Mode.LIVE},
        mode_counts={Mode.LIVE: Between(at_least=1)},
        stay=("a",),
        on={"b": ("h2", "h3")},
        apart=(("a", "b"),),
        hottest_host_cpu_ratio=0.5,
        cpu_spread_ratio=0.0,
        hosts_free_to_sleep=Between(at_most=0),
        two_step_moves=Between(at_most=0),
        longest_downtime_seconds=0.5,
    )

    assert unmet(expected, an_outcome(downtime_seconds=0.4)) == ""


def test_verdict_and_exit_code() -> None:
    assert 'expected "balanced"' in unmet(Expectations(verdict=VerdictKind.BALANCED))
    assert "exit code 0, expected 4" in unmet(Expectations(exit_code=4))


def test_number_and_mode_of_migrations() -> None:
    assert "1 migrations" in unmet(Expectations(migrations=Between(at_least=2)))
    assert "expected cold" in unmet(Expectations(modes={"b": Mode.COLD}))
    assert "a does not move" in unmet(Expectations(modes={"a": Mode.LIVE}))
    assert "0 migrations are cold" in unmet(
        Expectations(mode_counts={Mode.COLD: Between(at_least=1)})
    )


def test_moves_in_two_steps_are_counted_by_vm() -> None:
    plan = a_plan(a_move("b"), a_move("b", number=2))

    assert unmet(Expectations(two_step_moves=Between(at_least=1, at_most=1)), plan=plan) == ""
    assert "1 VMs move in two steps" in unmet(
        Expectations(two_step_moves=Between(at_most=0)), plan=plan
    )


def test_a_migration_that_did_not_complete_is_named_unless_that_was_expected() -> None:
    failed = an_outcome(MigrationState.FAILED_SAFE)

    assert "b is failed-safe: so it went" in unmet(Expectations(), failed)
    assert unmet(Expectations(outcomes={"b": MigrationState.FAILED_SAFE}), failed) == ""
    assert "expected unknown" in unmet(Expectations(outcomes={"b": MigrationState.UNKNOWN}), failed)
    assert unmet(Expectations(all_complete=False), failed) == ""


def test_a_migration_without_an_outcome_is_named_unless_it_was_a_dry_run() -> None:
    plan = a_plan(a_move("b"), a_move("a", number=2))

    assert unmet(Expectations(), plan=plan) == ""
    assert "a has no outcome" in unmet(Expectations(), an_outcome(), plan=plan)


def test_a_longer_pause_than_expected_is_named() -> None:
    told = unmet(Expectations(longest_downtime_seconds=0.5), an_outcome(downtime_seconds=2.0))

    assert "b stood still for 2.00 s" in told


def test_places() -> None:
    assert "expected it to stay on h1" in unmet(Expectations(stay=("b",)))
    assert "a is on h1, expected on h2" in unmet(Expectations(on={"a": ("h2",)}))
    assert "h1 still has a" in unmet(Expectations(empty_hosts=("h1",)))
    assert "expected apart" in "; ".join(
        check(Expectations(apart=(("a", "b"),)), a_plan(), (), BEFORE, BEFORE)
    )


def test_load() -> None:
    expected = Expectations(hottest_host_cpu_ratio=0.6, cpu_spread_ratio=0.1)

    told = "; ".join(check(expected, a_plan(), (), BEFORE, BEFORE))

    assert "h1 uses 90.0% of its CPU" in told
    assert "CPU spread 40.0%" in told


def test_hosts_free_to_sleep_are_those_without_vms() -> None:
    expected = Expectations(hosts_free_to_sleep=Between(at_least=1))

    assert check(expected, a_plan(), (), BEFORE, BEFORE) == ()
    assert "0 hosts are free to sleep" in unmet(expected)


def test_unmoved_vms_must_be_listed() -> None:
    listed = a_plan(unmoved=(Unmoved(vm=VmId("a"), reasons=("pinned",)),))

    assert unmet(Expectations(unmoved=("a",)), plan=listed) == ""
    assert "a is not listed" in unmet(Expectations(unmoved=("a",)))


def test_a_plan_that_leaves_something_broken_is_told() -> None:
    broken = a_plan(violations_after=(Violation(rule="spread", text="db1 and db2 share h1"),))

    assert "db1 and db2 share h1" in unmet(Expectations(), plan=broken)
    assert unmet(Expectations(no_violations=False), plan=broken) == ""
