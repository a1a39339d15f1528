"""The same disasters while hooks are asked about every plan and migration: no promise is broken."""

from __future__ import annotations

import pytest

from rebalancer.rollout.executor import execute, recover
from tests.faults.judge import judge
from tests.faults.play import play
from tests.faults.scripts import script
from tests.unit.rollout.errands import ScriptedHooks


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_hooks_do_not_make_a_disaster_worse(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = ScriptedHooks(polls=7)
    # A script has no hooks; here every rollout and recovery in it has.
    for begin in (execute, recover):
        assert begin.__kwdefaults__ is not None
        monkeypatch.setitem(begin.__kwdefaults__, "hooks", hooks)

    findings = {seed: judge(play(script(seed))) for seed in range(first, first + 10)}

    assert {seed: found for seed, found in findings.items() if found} == {}
    assert "before_migration" in {call["moment"] for call in hooks.asked}
