"""Real commands around a drain, on a simulated cluster that is told to have hooks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from rebalancer.service import work
from rebalancer.service.access import Where
from rebalancer.service.change_access import ChangeAccess, open_for_change
from rebalancer.service.config import Settings
from rebalancer.service.hooks import hooks_of
from tests.cli.conftest import Rebalancer


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a scenario had hooks, which it never has."""

    def open_with_hooks(settings: Settings, where: Where) -> ChangeAccess:
        return replace(open_for_change(settings, where), hooks=hooks_of(settings))

    monkeypatch.setattr(work, "open_for_change", open_with_hooks)


def a_config(tmp_path: Path, **scripts: str) -> Path:
    hooks = {
        moment: [{"command": ["/bin/sh", "-c", script], "timeout_seconds": 60}]
        for moment, script in scripts.items()
    }
    file = tmp_path / "rebalancer.yaml"
    file.write_text(json.dumps({"schema_version": 1, "hooks": hooks}), encoding="utf-8")
    return file


@pytest.mark.usefixtures("hooked")
def test_a_drain_tells_its_hooks_what_is_left(
    rebalancer: Rebalancer, blocked_drain: Path, tmp_path: Path
) -> None:
    config = a_config(
        tmp_path,
        before_drain=f"cat > {tmp_path}/before",
        after_drain=f"cat > {tmp_path}/after; echo no pager; exit 1",
    )

    ran = rebalancer("drain", "h1", "--config", config, "--scenario", blocked_drain, "--yes")

    before = json.loads((tmp_path / "before").read_text(encoding="utf-8"))
    after = json.loads((tmp_path / "after").read_text(encoding="utf-8"))
    assert (before["moment"], before["hosts"]) == ("before_drain", ["h1"])
    assert after["left"]["h1"]
    assert ran.code == ExitCode.BLOCKED
    assert "no pager" in ran.err


@pytest.mark.usefixtures("hooked")
def test_a_drain_that_a_hook_objects_to_changes_nothing(
    rebalancer: Rebalancer, drain_scenario: Path, tmp_path: Path
) -> None:
    config = a_config(tmp_path, before_drain="echo a raid is rebuilding; exit 1")

    ran = rebalancer("drain", "h1", "--config", config, "--scenario", drain_scenario, "--yes")

    assert ran.code == ExitCode.BLOCKED
    assert "h1 not drained, nothing was changed" in ran.err
    assert "a raid is rebuilding" in ran.err
    assert rebalancer("status", "--config", config, "-o", "json").out.count("h1") == 0


@pytest.mark.usefixtures("hooked")
def test_a_dry_drain_asks_no_hook(
    rebalancer: Rebalancer, drain_scenario: Path, tmp_path: Path
) -> None:
    config = a_config(tmp_path, before_drain=f"touch {tmp_path}/asked")

    rebalancer("drain", "h1", "--config", config, "--scenario", drain_scenario)

    assert not (tmp_path / "asked").exists()
