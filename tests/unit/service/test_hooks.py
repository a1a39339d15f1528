"""Hooks as the settings have them, and those around a drain."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import ExitCode, HookObjectionError, InvalidFileError
from rebalancer.rollout.hooks import NO_HOOKS, Moment
from rebalancer.service.access import Where, open_for_change
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, load_settings
from rebalancer.service.hooks import after_drain, before_drain, hooks_of
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


def test_a_hook_that_objects_keeps_a_drain_from_beginning() -> None:
    hooks = ScriptedHooks(objections={"before_drain": "a raid is rebuilding"})

    with pytest.raises(HookObjectionError, match=r"h1 not drained.*a raid is rebuilding") as caught:
        before_drain(hooks, "c", ["h1"], SystemClock(), lambda: None)

    assert caught.value.exit_code is ExitCode.BLOCKED


def test_the_lock_is_kept_while_a_hook_before_a_drain_runs() -> None:
    beats: list[int] = []

    before_drain(ScriptedHooks(polls=4), "c", ["h1"], SystemClock(), lambda: beats.append(1))

    assert len(beats) == 3


def test_after_a_drain_hooks_are_told_what_is_left() -> None:
    hooks = ScriptedHooks(objections={"after_drain": "no pager"}, polls=1)

    wrong = after_drain(hooks, "c", {HostId("h1"): ["db"]}, SystemClock(), lambda: None)

    assert wrong == "no pager"
    assert (hooks.asked[0]["hosts"], hooks.asked[0]["left"]) == (["h1"], {"h1": ["db"]})


def test_without_hooks_a_drain_asks_nobody() -> None:
    before_drain(NO_HOOKS, "c", ["h1"], SystemClock(), lambda: None)
