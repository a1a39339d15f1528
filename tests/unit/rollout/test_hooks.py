"""An operator's own commands around plans and migrations: when they are asked, and what follows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import VmId
from rebalancer.cluster.plan import MigrationState, Plan
from rebalancer.rollout.events import Event, Note
from rebalancer.rollout.executor import RolloutResult, Settings, execute
from rebalancer.rollout.hook_processes import HookCommand, HookProcesses
from rebalancer.rollout.hooks import NO_HOOKS, HookCall, Moment
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.steps import StopRequest
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_driver import SimulatedDriver
from tests.builders import GIB, NOON, a_host, a_snapshot, a_vm
from tests.unit.rollout.crashes import Death, live_through
from tests.unit.rollout.errands import ScriptedHooks
from tests.unit.rollout.plans import a_migration, a_plan

ROOT = Path(__file__).parents[3]
S = MigrationState
SNAPSHOT = a_snapshot(
    [a_host("h1"), a_host("h2")],
    [a_vm("vm1", on="h1", memory_bytes=GIB), a_vm("vm2", on="h1", memory_bytes=GIB)],
)
PLAN = a_plan(a_migration("vm1"), a_migration("vm2", id="m2"))
ONE = a_plan(a_migration("vm1"))


class World:
    """Two hosts, two VMs on the first, a journal, and hooks."""

    def __init__(self, folder: Path) -> None:
        self.datacentre = Datacentre.of(SNAPSHOT)
        self.clock = VirtualClock(self.datacentre)
        self.journal = Journal.open(f"sqlite:///{folder}/journal.db", self.clock)
        self.events: list[Event] = []

    def roll_out(self, plan: Plan, hooks: Any, **options: Any) -> RolloutResult:
        return execute(
            plan,
            driver=SimulatedDriver(self.datacentre),
            clock=self.clock,
            journal=self.journal,
            snapshot=SNAPSHOT,
            hooks=hooks,
            on_event=self.events.append,
            **options,
        )

    def hosts_of(self, vm: str) -> list[str]:
        return [str(host) for host in self.datacentre.record.running_on(VmId(vm))]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.journal:
        yield world


def states(result: RolloutResult) -> list[MigrationState]:
    return [outcome.state for outcome in result.outcomes]


def test_hooks_are_asked_before_and_told_after(world: World) -> None:
    hooks = ScriptedHooks()

    result = world.roll_out(ONE, hooks)

    assert states(result) == [S.COMPLETE]
    assert hooks.told() == [
        "before_plan",
        "before_migration vm1",
        "after_migration vm1 complete",
        "after_plan",
    ]


def test_a_migration_that_a_hook_objects_to_is_skipped_with_its_words(world: World) -> None:
    hooks = ScriptedHooks(objections={"before_migration vm1": "the backup of vm1 is running"})

    result = world.roll_out(PLAN, hooks)

    assert states(result) == [S.SKIPPED, S.COMPLETE]
    assert result.outcomes[0].text == "the backup of vm1 is running"
    assert world.hosts_of("vm1") == ["h1"]


def test_after_hooks_are_told_of_a_migration_that_was_objected_to(world: World) -> None:
    hooks = ScriptedHooks(objections={"before_migration": "no"})

    world.roll_out(ONE, hooks)

    assert "after_migration vm1 skipped" in hooks.told()


def test_a_plan_that_a_hook_objects_to_moves_nothing(world: World) -> None:
    hooks = ScriptedHooks(objections={"before_plan": "change freeze until Monday"})

    result = world.roll_out(PLAN, hooks)

    assert states(result) == [S.SKIPPED, S.SKIPPED]
    assert "change freeze until Monday" in result.stopped
    assert hooks.told() == ["before_plan", "after_plan"]


def test_an_after_hook_that_fails_changes_nothing_but_is_told(world: World) -> None:
    hooks = ScriptedHooks(objections={"after_migration": "cannot reach the pager"})

    result = world.roll_out(ONE, hooks)

    assert states(result) == [S.COMPLETE]
    notes = [event.text for event in world.events if isinstance(event, Note)]
    assert notes == ["after_migration: cannot reach the pager"]


def test_only_an_after_hook_is_told_of_what_was_begun(world: World) -> None:
    hooks = ScriptedHooks([Moment.AFTER_MIGRATION])

    world.roll_out(a_plan(a_migration("vm1"), a_migration("gone", id="m2")), hooks)

    assert hooks.told() == ["after_migration vm1 complete"]


def test_other_migrations_go_on_while_a_hook_takes_its_time(world: World) -> None:
    hooks = ScriptedHooks([Moment.BEFORE_MIGRATION], polls=40)

    result = world.roll_out(PLAN, hooks, settings=Settings())

    both = [call["moment"] for call in hooks.asked]
    assert both == ["before_migration", "before_migration"]
    assert states(result) == [S.COMPLETE, S.COMPLETE]
    # 40 polls are 20 s: one after the other they would take 40 s before the second could begin.
    first, second = (call["at"] for call in hooks.asked)
    assert first[:17] == second[:17]


def test_nothing_starts_after_a_stop_though_the_hook_has_no_objection(world: World) -> None:
    hooks = ScriptedHooks([Moment.BEFORE_MIGRATION, Moment.AFTER_MIGRATION], polls=20)

    def stop_once_asked() -> StopRequest:
        return StopRequest.FINISH if hooks.asked else StopRequest.NO

    result = world.roll_out(ONE, hooks, should_stop=stop_once_asked)

    assert states(result) == [S.SKIPPED]
    assert world.hosts_of("vm1") == ["h1"]
    assert hooks.told()[-1] == "after_migration vm1 skipped"


@pytest.mark.parametrize("moment", [Moment.BEFORE_PLAN, Moment.BEFORE_MIGRATION])
def test_an_abort_kills_the_hooks_that_are_waited_for(world: World, moment: Moment) -> None:
    hooks = ScriptedHooks([moment], polls=10_000)

    def abort_once_asked() -> StopRequest:
        return StopRequest.ABORT if hooks.asked else StopRequest.NO

    result = world.roll_out(ONE, hooks, should_stop=abort_once_asked)

    assert states(result) == [S.SKIPPED]
    assert hooks.cancelled[0] == moment


def test_a_rollout_without_hooks_asks_none(world: World) -> None:
    assert states(world.roll_out(ONE, NO_HOOKS)) == [S.COMPLETE]


@pytest.mark.parametrize("boundary", ["before_record", "after_record", "after_command"])
def test_a_crash_anywhere_leaves_each_vm_running_once_and_owes_no_hook(
    boundary: str, tmp_path: Path
) -> None:
    number = 0
    while True:
        number += 1
        folder = tmp_path / f"{boundary}{number}"
        folder.mkdir()
        datacentre = Datacentre.of(SNAPSHOT)
        before, after = ScriptedHooks(), ScriptedHooks()

        story = live_through(
            ONE,
            SNAPSHOT,
            datacentre,
            folder,
            Death(**{boundary: number}),
            hooks=before,
            hooks_of_successor=after,
        )

        assert len(datacentre.record.running_on(VmId("vm1"))) == 1
        told = before.told() + after.told()
        asked_before = "before_migration vm1" in told
        ended = [text for text in told if text.startswith("after_migration vm1")]
        # The line is written first: a hook that was announced may have run.
        assert ended or not asked_before, (number, told)
        assert told[-1] == "after_plan", (number, told)
        if not story.died:
            break
    assert number > 1 + 5 * (boundary != "after_command")


def test_a_recovered_migration_asks_no_hook_before(tmp_path: Path) -> None:
    after = ScriptedHooks()

    live_through(
        ONE,
        SNAPSHOT,
        Datacentre.of(SNAPSHOT),
        tmp_path,
        Death(after_command=1),
        hooks=ScriptedHooks(),
        hooks_of_successor=after,
    )

    assert after.told() == ["after_migration vm1 complete", "after_plan"]


def test_a_hook_reads_what_it_is_about() -> None:
    call = HookCall(moment=Moment.BEFORE_DRAIN, cluster="c", at=NOON, about={"hosts": ["h1"]})

    assert call.document() == (
        '{"schema_version": 1, "moment": "before_drain", "cluster": "c", '
        f'"at": "{NOON.isoformat()}", "hosts": ["h1"]}}'
    )


def test_a_rollout_with_real_commands(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    read = "import json, sys; told = json.load(sys.stdin); "
    write = f"print(told['moment'], file=open({str(log)!r}, 'a'))"
    command = HookCommand(words=(sys.executable, "-S", "-c", read + write), timeout_seconds=60.0)
    hooks = HookProcesses({moment: [command] for moment in Moment})

    result = world.roll_out(ONE, hooks)

    assert states(result) == [S.COMPLETE]
    assert log.read_text(encoding="utf-8").split() == [
        "before_plan",
        "before_migration",
        "after_migration",
        "after_plan",
    ]


def test_the_journal_says_when_a_hook_began_and_how_it_ended(world: World) -> None:
    hooks = ScriptedHooks([Moment.BEFORE_MIGRATION], {"before_migration": "not now"})

    result = world.roll_out(ONE, hooks)

    lines = [record.payload.get("text") for record in world.journal.records(result.rollout, "m1")]
    assert "before_migration hooks are run" in lines
    assert "before_migration: not now" in lines


def test_the_document_in_the_manual_is_the_one_that_a_hook_reads(world: World) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    written = json.loads(page.split("```json")[1].split("```")[0])
    hooks = ScriptedHooks([Moment.AFTER_MIGRATION])

    world.roll_out(ONE, hooks)

    assert _shape(hooks.asked[0]) == _shape(written)


def _shape(tree: Any) -> Any:
    return {key: _shape(value) for key, value in tree.items()} if isinstance(tree, dict) else ...
