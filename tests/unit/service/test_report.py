from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import timedelta

from rich.console import Console

from rebalancer.cluster.inventory import HostId, HostState, Mode, VmId
from rebalancer.cluster.plan import (
    MigrationState,
    Outcome,
    Plan,
    PowerAction,
    PowerStep,
    Unmoved,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.prediction import Confidence
from rebalancer.cluster.rules import Violation
from rebalancer.service.account import HistoryRow, HostNote, RunningRow, Status
from rebalancer.service.config import EffectiveSetting
from rebalancer.service.layout import BAR_CELLS, bar_text
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.report import (
    Format,
    render_history,
    render_outcomes,
    render_plan,
    render_settings,
    render_snapshot_summary,
    render_status,
)
from tests.builders import GIB, NOON, a_host, a_snapshot, a_vm
from tests.unit.service.samples import (
    a_migration,
    a_plan,
    a_prediction,
    an_outlook,
)


def pipe() -> Console:
    """What standard output is in a pipeline: not a terminal, 80 columns for all that is known."""
    return Console(file=io.StringIO(), width=80)


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plan_text(plan: Plan, console: Console | None = None, wide: bool = False) -> str:
    console = console or pipe()
    render_plan(plan, Format.TABLE, console, apply_with="rebalancer apply plan.json", wide=wide)
    return text_of(console)


def test_the_verdict_is_first_and_how_to_go_on_is_last() -> None:
    lines = plan_text(a_plan()).splitlines()

    assert lines[0] == "move 1 VM (4.0 GiB), peak CPU 94 % → 61 %"
    assert lines[-2] == "to apply: rebalancer apply plan.json"
    assert lines[-1] == "valid until 2026-11-24 12:00:00 UTC"


def test_the_objective_tells_how_far_from_the_best_possible_it_can_be() -> None:
    line = plan_text(a_plan()).splitlines()[1]

    assert "4 → 2 (−50 %)" in line
    assert "gap ≤ 5.0 %" in line
    assert "captured 95.2 % of the possible improvement" in line
    assert "1.2 s" in line


def test_a_step_is_one_line_with_everything_about_it() -> None:
    step = next(line for line in plan_text(a_plan()).splitlines() if line.startswith("m1 "))

    assert " ".join(step.split()) == (
        "m1 1 vm1 h1 → h2 live 112 MiB/s 4.40 GiB 40 s 200 ms +0 s +40 s h1 is at 0.94 CPU"
    )


def test_a_mode_other_than_live_is_explained_and_live_only_when_asked() -> None:
    warm = a_plan(migrations=(a_migration(mode=Mode.SUSPEND),))

    assert "converges in 3 rounds" in plan_text(warm)
    assert "converges in 3 rounds" not in plan_text(a_plan())
    assert "converges in 3 rounds" in plan_text(a_plan(), wide=True)


def test_the_bands_of_a_step_are_shown_to_whoever_wants_to_see_all() -> None:
    assert "40 s ≤ 52 s  200 ms ≤ 300 ms" in plan_text(a_plan(), wide=True)
    assert "≤ 52 s" not in plan_text(a_plan())


def test_a_guessed_prediction_is_marked_as_one() -> None:
    guess = a_migration(predicted=a_prediction(confidence=Confidence.LOW))

    assert "~40 s" in plan_text(a_plan(migrations=(guess,)))


def test_totals_have_bytes_time_beside_its_lower_bound_and_downtime() -> None:
    two = (a_migration(1), a_migration(2))

    text = plan_text(a_plan(migrations=two, makespan_seconds=95.0))

    assert (
        "2 migrations, 8.80 GiB to transfer; takes 1 min 35 s, not possible in less than 38 s; "
        "guests stand still for 400 ms in all, 200 ms at most for one"
    ) in text


def test_changed_hosts_have_a_bar_before_and_after() -> None:
    lines = plan_text(a_plan()).splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("h1 "))

    assert "before" in lines[first]
    assert "94 %" in lines[first]
    assert lines[first].count("█") > lines[first + 1].count("█")
    assert "after" in lines[first + 1]
    assert "61 %" in lines[first + 1]
    assert any(line.startswith("h3 ") and "draining" in line for line in lines)


def test_of_two_hundred_hosts_the_changed_and_hottest_are_shown() -> None:
    quiet = [
        an_outlook(f"q{n}", cpu_ratio_before=n / 250, cpu_ratio_after=n / 250) for n in range(198)
    ]
    moved = [an_outlook("z1", vms_after=3), an_outlook("z2", vms_after=5)]
    plan = a_plan(hosts=tuple(quiet + moved))

    lines = plan_text(plan).splitlines()

    shown = [line.split()[0] for line in lines if "before" in line or "stays" in line]
    assert shown[:4] == ["z1", "z2", "q197", "q196"]
    assert len(shown) == 20
    assert "… 180 hosts more, unchanged" in lines
    assert sum("stays" in line for line in plan_text(plan, wide=True).splitlines()) == 198


def test_hosts_are_sorted_as_people_count() -> None:
    hosts = tuple(an_outlook(name) for name in ("h10", "h2", "h1"))

    lines = plan_text(a_plan(hosts=hosts)).splitlines()

    assert [line.split()[0] for line in lines if "stays" in line] == ["h1", "h2", "h10"]


def test_what_stays_what_is_mended_and_what_sleeps_is_told() -> None:
    broken = Violation(rule="spread db", text="db1, db2 share host h1, at most 1 may")
    still = Violation(rule="fence jp", text="web1 is on h9, outside its fence")
    plan = a_plan(
        unmoved=(Unmoved(vm=VmId("u7"), vm_name="gpu1", reasons=("a passed-through GPU", "pin")),),
        violations_before=(broken, still),
        violations_after=(still,),
        power=(
            PowerStep(
                host=HostId("h3"), action=PowerAction.SLEEP, reason="empty", depends_on=("m1",)
            ),
        ),
    )

    text = plan_text(plan)

    assert "gpu1  a passed-through GPU; pin" in text
    mended, rest = text.split("Still broken")
    assert "db1, db2 share host h1" in mended.split("Mended")[1]
    assert "web1 is on h9" in rest
    assert "db1, db2" not in rest
    assert "sleep" in text


def test_memory_that_stays_promised_twice_comes_with_what_it_threatens() -> None:
    short = Violation(rule="memory of h1", text="h1 would need 9.0 GiB and may use 8.0 GiB")
    over = an_outlook("h1", memory_ratio_before=1.12, memory_ratio_after=1.12)
    allowed = an_outlook("h2", memory_ratio_before=1.3, memory_ratio_after=1.3)

    told = plan_text(a_plan(hosts=(over, allowed), violations_after=(short,)))
    untold = plan_text(a_plan(hosts=(allowed,)))

    assert "the kernel ends one of them" in " ".join(told.split())
    assert "the kernel ends one of them" not in " ".join(untold.split())


def test_a_balanced_cluster_has_nothing_to_apply() -> None:
    verdict = Verdict(kind=VerdictKind.BALANCED, text="balanced: the fullest host is at 61 %")
    plan = a_plan(verdict=verdict, objective=None, migrations=(), makespan_seconds=0.0)

    text = plan_text(plan)

    assert text.startswith("balanced: the fullest host is at 61 %")
    assert "apply" not in text
    assert "Steps" not in text


def test_on_a_narrow_terminal_nothing_is_left_out() -> None:
    text = plan_text(a_plan(), terminal(70))

    assert "wave 1, bandwidth 112 MiB/s, sends 4.40 GiB; h1 is at 0.94 CPU" in text


def test_the_same_plan_is_always_the_same_text() -> None:
    assert plan_text(a_plan(), terminal(100)) == plan_text(a_plan(), terminal(100))


def test_names_cannot_paint_the_terminal_or_be_taken_for_markup() -> None:
    evil = a_migration(vm_name="[bold]x[/]\x1b[31m")

    text = plan_text(a_plan(migrations=(evil,)), terminal(120))

    assert "[bold]x[/]" in text
    assert "\x1b" not in text


def test_a_screen_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=100)

    render_plan(a_plan(), Format.TABLE, console)
    render_plan(replace(a_plan(), cluster="Zürich"), Format.JSON, console)
    console.file.flush()

    text = raw.getvalue().decode("ascii")
    assert "h1 -> h2" in text
    assert "###" in text
    assert '"cluster": "Z\\u00fcrich"' in text


def test_json_is_the_plan_file() -> None:
    console = pipe()

    render_plan(a_plan(), Format.JSON, console)

    assert text_of(console) == plan_to_json(a_plan())


def test_markdown_has_tables_and_escapes_foreign_text() -> None:
    console = pipe()
    odd = a_migration(vm_name="a|b<c")

    render_plan(a_plan(migrations=(odd,)), Format.MARKDOWN, console, commands=True)

    text = text_of(console)
    assert text.startswith("**move 1 VM")
    assert "| m1 | 1 | a\\|b\\<c | h1 → h2 | live |" in text
    assert (
        "```\n# m1: a|b<c\nvirsh -c qemu+ssh://h1/system migrate --live --p2p uuid-1\n```" in text
    )


def test_commands_are_printed_when_asked_for() -> None:
    console = terminal(60)

    render_plan(a_plan(), Format.TABLE, console, commands=True)

    command = "virsh -c qemu+ssh://h1/system migrate --live --p2p uuid-1"
    assert command in text_of(console).splitlines()


def test_a_bar_is_always_as_long_as_the_others() -> None:
    ratios = (-1.0, 0.0, 0.01, 0.5, 0.999, 1.0, 7.0, float("nan"), float("inf"))

    assert {len(bar_text(ratio)) for ratio in ratios} == {BAR_CELLS}
    assert bar_text(0.5) == "█" * (BAR_CELLS // 2) + " " * (BAR_CELLS // 2)
    assert bar_text(9.0) == "█" * BAR_CELLS


def outcome(
    number: int, state: MigrationState = MigrationState.COMPLETE, **facts: float
) -> Outcome:
    return Outcome(migration=f"m{number}", state=state, text=f"{state} indeed", **facts)  # type: ignore[arg-type]


THREE = a_plan(migrations=(a_migration(1), a_migration(2), a_migration(3, mode=Mode.SUSPEND)))


def outcomes_text(*outcomes: Outcome) -> str:
    console = pipe()
    render_outcomes(THREE, outcomes, Format.TABLE, console)
    return text_of(console)


def test_outcomes_stand_beside_their_predictions() -> None:
    done = outcome(1, duration_seconds=42.0, downtime_seconds=0.18, transfer_bytes=4.5 * GIB)

    text = outcomes_text(done, outcome(2, MigrationState.FAILED_SAFE))

    assert text.splitlines()[0] == "1 of 2 migrations complete, 1 failed-safe"
    row = next(line for line in text.splitlines() if line.startswith("m1 "))
    assert " ".join(row.split()) == (
        "m1 vm1 h1 → h2 live complete 42 s 40 s 180 ms 200 ms 4.50 GiB complete indeed"
    )
    assert "not begun" in text
    assert "1.05 × the predicted time" in text
    assert "1 of 1 within the predicted upper limit" in text


def test_a_downtime_beyond_its_upper_limit_is_counted() -> None:
    text = outcomes_text(
        outcome(1, duration_seconds=40.0, downtime_seconds=0.2),
        outcome(2, duration_seconds=40.0, downtime_seconds=0.9),
    )

    assert "stood still for 1.1 s in all, 1 of 2 within" in text


def test_an_unknown_outcome_says_what_to_do() -> None:
    assert "rebalancer recover" in outcomes_text(outcome(1, MigrationState.UNKNOWN))


def test_outcomes_as_json_have_prediction_and_outcome_together() -> None:
    console = pipe()
    render_outcomes(THREE, [outcome(1, duration_seconds=42.0)], Format.JSON, console)

    tree = json.loads(text_of(console))

    assert tree["schema_version"] == 1
    first, second, _ = tree["migrations"]
    assert first["outcome"]["state"] == "complete"
    assert first["outcome"]["duration_seconds"] == 42.0
    assert first["predicted"]["duration_seconds"] == 40.0
    assert second["outcome"] is None


def test_a_snapshot_is_summed_up_with_what_is_doubtful() -> None:
    snapshot = a_snapshot(
        [
            a_host("h1"),
            a_host("h2", state=HostState.UNKNOWN, state_reason="no route to host"),
        ],
        [a_vm("a"), a_vm("b", dirty_bytes_per_second=None, movable=False)],
    )
    console = pipe()

    render_snapshot_summary(snapshot, Format.TABLE, console)

    text = text_of(console)
    assert "2 hosts, 2 VMs (2 active)" in text
    assert "1.0 of 32 cores" in text
    assert "8.00 GiB of 128 GiB" in text
    assert "1 host did not answer: h2" in text
    assert "no route to host" in text
    assert "dirty rate unknown for 1 VM" in text
    assert "1 VM cannot be moved" in text


def test_a_snapshot_tells_which_hosts_promise_more_memory_than_they_have() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB), a_host("h2", memory_bytes=8000 * GIB)]
    vms = [a_vm("a", memory_bytes=9 * GIB), a_vm("b", on="h2", memory_bytes=8001 * GIB)]
    console = pipe()

    render_snapshot_summary(a_snapshot(hosts, vms), Format.TABLE, console)

    assert "than there is on h1 (112 %), h2 (100.01 %)" in " ".join(text_of(console).split())


def test_history_counts_how_migrations_ended() -> None:
    row = HistoryRow(
        rollout="r1",
        plan="plan-1",
        policy="balance",
        creator="admin",
        started_at=NOON,
        finished_at=NOON + timedelta(seconds=100),
        states=(MigrationState.COMPLETE, MigrationState.COMPLETE, MigrationState.SKIPPED),
        text="peak CPU 94 % → 61 %",
    )
    console = pipe()

    render_history([row, replace(row, plan="plan-2", finished_at=None)], Format.TABLE, console)

    text = text_of(console)
    assert "1 min 40 s" in text
    assert "2 complete, 1 skipped" in text
    assert "not ended" in text


def test_an_empty_history_says_so() -> None:
    console = pipe()

    render_history([], Format.TABLE, console)

    assert text_of(console) == "nothing was rolled out yet\n"


STATUS = Status(
    cluster="lab",
    mode="recommend",
    last_verdict="balanced",
    last_verdict_at=NOON,
    lock_holder="admin@mgmt1",
    paused="storage work until six",
    running=(
        RunningRow(
            migration="m1",
            vm_name="vm1",
            source="h1",
            target="h2",
            state=MigrationState.TRANSFER,
            since=NOON,
        ),
    ),
    hosts=(HostNote(host="h3", state=HostState.DRAINING, reason="bad DIMM", since=NOON),),
)


def test_status_tells_what_goes_on() -> None:
    console = pipe()

    render_status(STATUS, Format.TABLE, console)

    text = text_of(console)
    for said in ("lab", "recommend", "balanced", "storage work", "admin@mgmt1", "bad DIMM"):
        assert said in text
    assert "transfer" in text


def test_status_as_json_has_instants_in_iso_8601() -> None:
    console = pipe()

    render_status(STATUS, Format.JSON, console)

    tree = json.loads(text_of(console))
    assert tree["running"][0]["since"] == "2026-11-23T12:00:00+00:00"
    assert tree["hosts"][0]["state"] == "draining"


def test_settings_are_written_as_yaml_would_be() -> None:
    rows = [
        EffectiveSetting(key="policy", value=None, origin="default"),
        EffectiveSetting(key="plan.ttl_seconds", value=86400.0, origin="flag"),
        EffectiveSetting(key="hosts.h1.cpu_from_guests", value=True, origin="r.yaml:4"),
    ]
    console = pipe()

    render_settings(rows, Format.TABLE, console)

    lines = [line.split() for line in text_of(console).splitlines()[-3:]]
    assert lines == [
        ["policy", "null", "default"],
        ["plan.ttl_seconds", "86400", "flag"],
        ["hosts.h1.cpu_from_guests", "true", "r.yaml:4"],
    ]


def test_a_host_that_did_not_answer_is_not_shown_as_empty() -> None:
    silent = an_outlook("h2", state=HostState.UNKNOWN, vms_before=0, vms_after=0)
    screen, looked = pipe(), pipe()

    render_plan(a_plan(hosts=(an_outlook("h1"), silent)), Format.TABLE, screen)
    hosts = [a_host("h1"), a_host("h2", state=HostState.UNKNOWN)]
    render_snapshot_summary(a_snapshot(hosts), Format.TABLE, looked)

    for text in (text_of(screen), text_of(looked)):
        (row,) = [line for line in text.splitlines() if line.startswith("h2")]
        assert row.count("not known") == 2
        assert "%" not in row
