"""Hooks as the settings have them, and those around a drain."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import ExitCode, HookObjectionError, InvalidFileError
from rebalancer.rollout.hook_journal import DrainPhase, HookJournal
from rebalancer.rollout.hooks import NO_HOOKS, Hooks, Moment
from rebalancer.rollout.journal import Journal
from rebalancer.service.access import Where
from rebalancer.service.change_access import open_for_change
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, load_settings
from rebalancer.service.hooks import DrainDesk, hooks_of
from tests.builders import a_snapshot, a_vm
from tests.unit.rollout.errands import ScriptedHooks

ROOT = Path(__file__).parents[3]


def settings_of(tmp_path: Path, hooks: str) -> Settings:
    file = tmp_path / "rebalancer.yaml"
    file.write_text(f"schema_version: 1\nhooks:\n{hooks}", encoding="utf-8")
    return load_settings(file)


def test_only_configured_moments_have_hooks(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "  before_plan: [{command: [/bin/true]}]\n")

    hooks = hooks_of(settings)

    assert [moment for moment in Moment if hooks.has(moment)] == [Moment.BEFORE_PLAN]


@pytest.mark.parametrize("command", ["[]", "[true]", "[./hook]", "/bin/true"])
def test_a_command_is_a_list_of_words_with_an_absolute_path(tmp_path: Path, command: str) -> None:
    with pytest.raises(InvalidFileError, match="command"):
        settings_of(tmp_path, f"  before_plan: [{{command: {command}}}]\n")


def test_a_rehearsal_has_no_hooks(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "  before_plan: [{command: [/bin/false]}]\n")

    access = open_for_change(settings, Where(scenario=ROOT / "scenarios" / "hotspot.yaml"))

    assert access.hooks is NO_HOOKS


def test_every_moment_is_a_setting() -> None:
    assert set(Settings().hooks.model_fields_set | set(type(Settings().hooks).model_fields)) == {
        str(moment) for moment in Moment
    }


class Hand:
    """A process that drains a host, and may be killed."""

    def __init__(self, tmp_path: Path, hooks: Hooks) -> None:
        self.url = f"sqlite:///{tmp_path}/journal.db"
        self.locks = Journal.open(self.url, SystemClock())
        self.lease = self.locks.acquire("c")
        self.journal = HookJournal.open(self.url, SystemClock())
        self.desk = DrainDesk(
            hooks=hooks, journal=self.journal, lease=self.lease, clock=SystemClock()
        )

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *_: object) -> None:
        self.locks.release(self.lease)
        self.locks.close()
        self.journal.close()


H1 = HostId("h1")
AFTERWARDS = a_snapshot(vms=[a_vm("db", on="h1")])


def test_a_hook_that_objects_keeps_a_drain_from_beginning(tmp_path: Path) -> None:
    hooks = ScriptedHooks(objections={"before_drain": "a raid is rebuilding"})

    with (
        Hand(tmp_path, hooks) as hand,
        pytest.raises(HookObjectionError, match=r"h1 not drained.*a raid is rebuilding") as caught,
    ):
        hand.desk.ask([H1])

    assert caught.value.exit_code is ExitCode.BLOCKED
    with Hand(tmp_path, hooks) as next_one:
        assert next_one.desk.tell_for_the_dead(lambda: AFTERWARDS) == ()


def test_after_a_drain_hooks_are_told_what_is_left(tmp_path: Path) -> None:
    hooks = ScriptedHooks(objections={"after_drain": "no pager"}, polls=3)

    with Hand(tmp_path, hooks) as hand:
        wrong = hand.desk.tell(hand.desk.ask([H1]), {H1: ["db"]})
        last = hand.journal.last("c")

    assert wrong == "no pager"
    assert [call["moment"] for call in hooks.asked] == ["before_drain", "after_drain"]
    assert (hooks.asked[1]["hosts"], hooks.asked[1]["left"]) == (["h1"], {"h1": ["db"]})
    assert last is not None
    assert (last.phase, last.text) == (DrainPhase.TOLD, "no pager")


def test_without_hooks_a_drain_asks_nobody_and_writes_nothing(tmp_path: Path) -> None:
    with Hand(tmp_path, NO_HOOKS) as hand:
        assert hand.desk.ask([H1]) is None
        assert hand.desk.tell(None, {}) == ""
        assert hand.journal.last("c") is None


class Killed(BaseException):
    """As SIGKILL would: nothing of the program runs any more."""


@pytest.mark.parametrize("line", range(4))
def test_a_drain_that_was_killed_at_any_line_has_its_after_hooks_run_once_by_the_next(
    tmp_path: Path, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal has four lines about a drain with hooks; it dies right after each of them."""
    hooks = ScriptedHooks()
    written: list[int] = []

    def and_die(self: HookJournal, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]  # whatever `note` takes
        written.append(1)
        if len(written) == line:
            raise Killed

    real = HookJournal.note
    with Hand(tmp_path, hooks) as victim:
        monkeypatch.setattr(HookJournal, "note", and_die)
        if line == 0:
            victim.journal.ask([H1], victim.lease)
        else:
            with pytest.raises(Killed):
                victim.desk.tell(victim.desk.ask([H1]), {H1: []})
        monkeypatch.undo()
    told_before = [call["moment"] for call in hooks.asked].count("after_drain")

    with Hand(tmp_path, hooks) as next_one:
        said = next_one.desk.tell_for_the_dead(lambda: AFTERWARDS)
        again = next_one.desk.tell_for_the_dead(lambda: AFTERWARDS)

    told = [call for call in hooks.asked if call["moment"] == "after_drain"]
    was_finished = line == 3
    assert again == ()
    assert len(told) - told_before == (0 if was_finished else 1)
    assert bool(said) is not was_finished
    if not was_finished:
        assert told[-1]["left"] == {"h1": ["db"]}, "as it is now"
