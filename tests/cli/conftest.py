"""The command as an operator runs it, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rebalancer.service.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


type Rebalancer = Callable[..., Ran]


@pytest.fixture
def rebalancer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Rebalancer:
    """Run `rebalancer ARGS…` with a journal of the test's own."""
    monkeypatch.setenv("REBALANCER_JOURNAL", f"sqlite:///{tmp_path / 'journal.db'}")
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ran(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def hotspot() -> Path:
    """A scenario with one hot host."""
    return ROOT / "scenarios" / "hotspot.yaml"


@pytest.fixture
def drain_scenario() -> Path:
    """A scenario with a host to be drained."""
    return ROOT / "scenarios" / "drain.yaml"


@pytest.fixture
def blocked_drain() -> Path:
    """A scenario with a host that cannot be emptied."""
    return ROOT / "scenarios" / "blocked-drain.yaml"
