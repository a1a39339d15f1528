"""The command `rebalancer` with a configuration of the lab, run as an operator runs it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rebalancer.errors import ExitCode
from tests.lab.configuration import write_config

if TYPE_CHECKING:
    from tests.lab.cluster import Lab

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalancer:
    """The command with a configuration of the lab."""

    config: Path

    @classmethod
    def configured(cls, lab: Lab, folder: Path, *, sampling_seconds: float = 3) -> Self:
        """Write a configuration to `folder`, with a journal in `folder` that ends with a test."""
        config = folder / "rebalancer.yaml"
        write_config(lab, config)
        text = config.read_text().replace(f"{lab.state_dir}/journal.db", f"{folder}/journal.db")
        collect = f"{{sampling_seconds: {sampling_seconds:g}, timeout_seconds: 60}}"
        config.write_text(f"{text}collect: {collect}\n")
        return cls(config=config)

    def __call__(self, *arguments: object, ends_with: ExitCode = ExitCode.SUCCESS) -> str:
        """Run it as an operator does, and return what it printed."""
        command = [sys.executable, "-m", "rebalancer", *map(str, arguments)]
        ran = subprocess.run(
            [*command, "--config", str(self.config)],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        print(ran.stdout, ran.stderr)
        assert ran.returncode == ends_with, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran.stdout
