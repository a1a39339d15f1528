"""Metrics: what is told of hosts, VMs, plans and rollouts, and that alerts and panels use them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.cluster.inventory import HostId, VmState
from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.rollout.attempt import Attempt, Before
from rebalancer.rollout.endings import Endings, default_uri
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import RolloutStatus, state_entry
from rebalancer.rollout.sightings import Sighting
from rebalancer.service.api_notices import CycleResult, Noticeboard, forecast_error
from rebalancer.service.clock import SystemClock
from rebalancer.service.metrics import Metrics
from rebalancer.service.metrics_journal import standing_of
from tests.builders import GIB, NOON, a_snapshot, a_vm
from tests.unit.service.api_world import a_seen, after_a_cycle
from tests.unit.service.samples import a_migration, a_plan

ROOT = Path(__file__).parents[3]
RULES = ROOT / "config" / "prometheus" / "rules.yaml"
DASHBOARD = ROOT / "config" / "grafana" / "dashboard.json"

type Key = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(f"sqlite:///{tmp_path / 'journal.db'}", SystemClock()) as one:
        yield one


def told(metrics: Metrics, journal: Journal | None = None) -> Mapping[Key, float]:
    text = metrics.text(journal).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Mapping[Key, float], name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def named(samples: Mapping[Key, float], name: str) -> list[dict[str, str]]:
    return [dict(labels) for found, labels in samples if found == name]


def a_board() -> Noticeboard:
    board = Noticeboard()
    after_a_cycle(board)
    return board


def roll_out(journal: Journal, state: MigrationState, plan: str = "plan-1", **took: Any) -> None:
    """Write down a rollout of one migration that ended so."""
    outcome = Outcome(migration="m1", state=state, text=took.pop("text", ""), **took)
    with journal.hold("test") as lease:
        number = journal.begin(a_plan(id=plan), lease)
        journal.write(number, [state_entry("m1", state, "", outcome)], lease)
        journal.end(number, RolloutStatus.ENDED, "", lease)


# What the daemon saw -------------------------------------------------------------------------


def test_hosts_are_told_with_what_they_use_and_have() -> None:
    samples = told(Metrics(a_board(), "test", 100))

    assert of(samples, "rebalancer_host_cpu_used_cores", host="h1") == 9.0
    assert of(samples, "rebalancer_host_cpu_used_cores", host="h2") == 0.5
    assert of(samples, "rebalancer_host_cpu_expected_cores", host="h1") == 9.0
    assert of(samples, "rebalancer_host_cpu_capacity_cores", host="h1") == 16.0
    assert of(samples, "rebalancer_host_memory_promised_bytes", host="h1") == 8.0 * GIB
    assert of(samples, "rebalancer_host_vms", host="h1") == 2


def test_a_host_that_did_not_answer_is_silent_and_not_idle() -> None:
    samples = told(Metrics(a_board(), "test", 100))

    assert of(samples, "rebalancer_hosts_silent") == 1
    assert of(samples, "rebalancer_host_state", host="h3", state="unknown") == 1
    assert of(samples, "rebalancer_host_cpu_used_cores", host="h3") is None


def test_of_too_many_vms_the_largest_are_told_and_the_rest_counted() -> None:
    samples = told(Metrics(a_board(), "test", 2))

    shown = {labels["vm"] for labels in named(samples, "rebalancer_vm_cpu_used_cores")}
    assert shown == {"vm1", "vm2"}
    assert of(samples, "rebalancer_vm_series_left_out") == 1


def test_where_a_policy_stands_is_told() -> None:
    samples = told(Metrics(a_board(), "test", 100))

    assert of(samples, "rebalancer_verdict", policy="balance", result="recommended") == 1
    assert of(samples, "rebalancer_verdict", policy="balance", result="failed") == 0
    assert of(samples, "rebalancer_cycles_total", policy="balance", result="recommended") == 1
    assert of(samples, "rebalancer_cycle_duration_seconds", policy="balance") == 3.0
    assert of(samples, "rebalancer_plan_gap_ratio", policy="balance") == pytest.approx(0.05)
    assert of(samples, "rebalancer_plan_captured_ratio", policy="balance") == pytest.approx(2 / 2.1)
    next_at = of(samples, "rebalancer_cycle_next_timestamp_seconds", policy="balance")
    assert next_at == (NOON + timedelta(seconds=300)).timestamp()


def test_what_is_gone_is_not_told_any_more() -> None:
    board = a_board()
    board.expect({"nights": ("auto", None)})

    samples = told(Metrics(board, "test", 100))

    assert named(samples, "rebalancer_host_vms") == []
    assert {one["policy"] for one in named(samples, "rebalancer_verdict")} == {"nights"}


def test_a_cycle_under_way_is_told_until_it_ends() -> None:
    board = Noticeboard()
    board.expect({"balance": ("auto", None)})
    board.begin("balance", NOON)
    during = told(Metrics(board, "test", 100))
    after_a_cycle(board)
    after = told(Metrics(board, "test", 100))

    name = "rebalancer_cycle_running_since_timestamp_seconds"
    assert of(during, name, policy="balance") == NOON.timestamp()
    assert of(after, name, policy="balance") is None


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        ("balanced: the fullest host is at 50 %", CycleResult.BALANCED),
        ("balanced as far as can be: …", CycleResult.BALANCED),
        ("no gain: 3 moves would pay back after 2 h", CycleResult.NO_GAIN),
        ("waiting: seen in 1 of 3 cycles in a row; then move 2 VMs", CycleResult.WAITING),
        ("recommended: move 2 VMs", CycleResult.RECOMMENDED),
        ("plan only: Prometheus does not answer (move 2 VMs)", CycleResult.PLAN_ONLY),
        ("paused by root@mgmt1 since … (else: move 2 VMs)", CycleResult.PAUSED),
        ("moved 6 VMs, peak CPU 91 % → 73 %", CycleResult.MOVED),
        ("moved 4 of 6 VMs (…): …", CycleResult.MOVED),
        ("stopped while VMs were being moved: …", CycleResult.STOPPED),
        ("blocked: cannot move vm1", CycleResult.BLOCKED),
        ("failed: KeyError: 'h1'", CycleResult.FAILED),
        ("move 2 VMs (4.0 GiB)", CycleResult.OTHER),
    ],
)
def test_a_verdict_is_told_by_its_first_words(verdict: str, result: CycleResult) -> None:
    assert CycleResult.of(verdict) is result


def test_a_forecast_is_judged_by_what_is_measured_next() -> None:
    foreseen = a_seen(a_snapshot(vms=[a_vm("vm1", cpu_used_cores=1.0), a_vm("vm2")]))
    snapshot = a_snapshot(vms=[a_vm("vm1", cpu_used_cores=2.0), a_vm("vm2"), a_vm("new")])
    now = a_seen(replace(snapshot, taken_at=NOON + timedelta(seconds=300)))

    error = forecast_error(foreseen, now)

    assert error is not None
    assert (error.mean_cores, error.exceeded_ratio) == (0.5, 0.5)
    assert forecast_error(None, now) is None
    assert forecast_error(now, now) is None


# What the journal says -----------------------------------------------------------------------


def test_migrations_are_counted_once_whoever_carried_them_out(journal: Journal) -> None:
    roll_out(journal, MigrationState.COMPLETE, "before-the-daemon-started")
    metrics = Metrics(Noticeboard(), "test", 0)
    roll_out(
        journal,
        MigrationState.COMPLETE,
        duration_seconds=80.0,
        downtime_seconds=0.25,
        transfer_bytes=5.0 * GIB,
    )
    roll_out(journal, MigrationState.FAILED_DOWN, "plan-2")

    told(metrics, journal)
    samples = told(metrics, journal)

    assert of(samples, "rebalancer_migrations_total", outcome="complete") == 1
    assert of(samples, "rebalancer_migrations_total", outcome="failed-down") == 1
    assert of(samples, "rebalancer_migrations_total", outcome="skipped") == 0
    assert of(samples, "rebalancer_rollouts_total", status="ended") == 2
    assert of(samples, "rebalancer_migration_duration_seconds_sum") == 80.0
    assert of(samples, "rebalancer_migration_downtime_seconds_bucket", le="0.3") == 1
    assert of(samples, "rebalancer_migration_transfer_bytes_sum") == 5.0 * GIB
    assert of(samples, "rebalancer_migration_duration_ratio_sum") == 2.0


def test_what_operators_want_and_what_is_wrong_is_told(journal: Journal) -> None:
    journal.wish("test", lambda wishes: replace(wishes, paused_at=NOON, at_once=2))
    journal.mark_drain("test", HostId("h1"))
    roll_out(journal, MigrationState.UNKNOWN, text="SPLIT BRAIN: it is active on h1 and h2")

    samples = told(Metrics(Noticeboard(), "test", 0), journal)

    assert of(samples, "rebalancer_paused") == 1
    assert of(samples, "rebalancer_paused_since_timestamp_seconds") == NOON.timestamp()
    assert of(samples, "rebalancer_throttle_at_once") == 2
    assert of(samples, "rebalancer_host_draining", host="h1") == 1
    assert of(samples, "rebalancer_migrations_unknown") == 1
    assert of(samples, "rebalancer_migrations_split_brain") == 1
    assert of(samples, "rebalancer_migrations_stale_copy") == 0
    assert of(samples, "rebalancer_lock_held") == 0


def test_a_stale_copy_is_told_until_somebody_has_it_ended(journal: Journal) -> None:
    ran = Before(state=VmState.RUNNING, persistent=True, autostart=False, memory_bytes=4 * GIB)
    attempt = Attempt(migration=a_migration(1), before=ran)
    seen = Sighting(vm=attempt.vm, views={}, seen_at=NOON)
    text = Endings(attempt=attempt, sighting=seen, uri_of=default_uri).stale_copy().text
    roll_out(journal, MigrationState.UNKNOWN, text=text)

    samples = told(Metrics(Noticeboard(), "test", 0), journal)

    assert of(samples, "rebalancer_migrations_stale_copy") == 1
    assert of(samples, "rebalancer_migrations_split_brain") == 0


def test_the_lock_and_what_runs_under_it_are_told(journal: Journal) -> None:
    plan = a_plan(migrations=(a_migration(1), a_migration(2)))
    with journal.hold("test") as lease:
        number = journal.begin(plan, lease)
        journal.write(number, [state_entry("m1", MigrationState.TRANSFER, "")], lease)
        during = standing_of(journal, "test")
    after = standing_of(journal, "test")

    assert (during.is_lock_held, during.running, during.cut_short) == (True, 1, 0)
    assert (after.is_lock_held, after.cut_short) == (False, 1)


# Alerts and panels ---------------------------------------------------------------------------


def exported(journal: Journal) -> str:
    board = a_board()
    board.saw("balance", "auto", a_seen(replace(a_seen().snapshot, taken_at=NOON.replace(hour=13))))
    board.begin("balance", NOON)
    journal.mark_drain("test", HostId("h1"))
    return Metrics(board, "test", 10).text(journal).decode()


def families(text: str) -> set[str]:
    return {
        line.split()[2] for line in text.splitlines() if line.startswith("# TYPE rebalancer_")
    } - {line.split()[2] for line in text.splitlines() if line.endswith("_created gauge")}


def samples_of(text: str) -> set[str]:
    return {
        re.split(r"[{ ]", line)[0] for line in text.splitlines() if line.startswith("rebalancer_")
    }


def test_alerts_use_metrics_that_are_there(journal: Journal) -> None:
    rules = [
        rule
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]
    used = {name for rule in rules for name in re.findall(r"rebalancer_\w+", rule["expr"])}

    assert used - samples_of(exported(journal)) == set()
    assert len(used) > 10


def test_panels_use_metrics_that_are_there(journal: Journal) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    used = set(re.findall(r"rebalancer_\w+", json.dumps(dashboard)))

    assert used - samples_of(exported(journal)) == set()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["targets"], panel["title"]


def test_every_metric_is_documented_and_no_other(journal: Journal) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(rebalancer_\w+)", page, re.M))

    assert documented == families(exported(journal))


def test_every_alert_is_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))

    assert [alert for alert in alerts if f"`{alert}`" not in page] == []


def promtool(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed")
    return subprocess.run(
        [found, *arguments], input=given, capture_output=True, text=True, timeout=60, check=False
    )


def test_promtool_finds_nothing_wrong_with_rules_and_metrics(journal: Journal) -> None:
    rules = promtool("check", "rules", str(RULES))
    ours = [line for line in exported(journal).splitlines(keepends=True) if "rebalancer_" in line]
    metrics = promtool("check", "metrics", given="".join(ours))

    assert rules.returncode == 0, rules.stderr
    assert metrics.returncode == 0, metrics.stderr


def a_series(series: str, values: str) -> dict[str, str]:
    return {"series": series, "values": values}


def an_alert(name: str, minute: int, **labels: str) -> dict[str, Any]:
    """That it fires then, with its own texts; it must do without figures in them."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    rule = next(rule for rule in rules if rule["alert"] == name)
    expected = {"exp_labels": rule["labels"] | labels, "exp_annotations": rule["annotations"]}
    return {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [expected]}


def no_alert(name: str, minute: int) -> dict[str, Any]:
    return {"eval_time": f"{minute}m", "alertname": name}


def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    due, running = "rebalancer_cycle_next_timestamp_seconds", "rebalancer_cycle_running_since"
    overdue = {"summary": "Policy days is overdue"} | {
        "description": "Its last cycle should have been followed by another 31m 0s ago."
    }
    no_cycle = no_alert("RebalancerNoCycle", 36) | {
        "exp_alerts": [
            {
                "exp_labels": {"severity": "warning", "policy": "days", "instance": "a"},
                "exp_annotations": overdue,
            }
        ]
    }
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    a_series(f'{due}{{policy="days",instance="a"}}', "300x50"),
                    a_series(f'{due}{{policy="days",instance="b"}}', "300x50"),
                    a_series(f'{running}_timestamp_seconds{{policy="n",instance="b"}}', "0x50"),
                    a_series('rebalancer_migrations_total{outcome="failed-down"}', "0x30 1x20"),
                    a_series("rebalancer_paused", "1x1600"),
                    a_series("rebalancer_paused_since_timestamp_seconds", "60x1600"),
                ],
                "alert_rule_test": [
                    no_alert("RebalancerNoCycle", 34),
                    no_cycle,
                    no_alert("RebalancerVmDown", 30),
                    an_alert("RebalancerVmDown", 32, outcome="failed-down"),
                    no_alert("RebalancerPausedForADay", 1440),
                    an_alert("RebalancerPausedForADay", 1443),
                ],
            }
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests), encoding="utf-8")

    ran = promtool("test", "rules", str(tmp_path / "tests.yaml"))

    assert ran.returncode == 0, ran.stdout + ran.stderr
