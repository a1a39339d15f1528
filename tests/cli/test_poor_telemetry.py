"""`rebalancer run --once` where past use cannot be read, on libvirt's own test driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from tests.cli.conftest import Rebalancer

CONFIG = """\
schema_version: 1
cluster: test
hosts: [{name: h1, uri: "test:///default"}]
collect: {sampling_seconds: 0.1, timeout_seconds: 10}
prometheus: {url: "http://127.0.0.1:9"}
"""


@pytest.mark.parametrize("flags", [(), ("--yes",)])
def test_telemetry_that_is_not_good_enough_to_act_on_is_exit_code_7(
    rebalancer: Rebalancer, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    pytest.importorskip("libvirt")
    config = tmp_path / "rebalancer.yaml"
    config.write_text(CONFIG)

    ran = rebalancer("run", "--once", *flags, "--config", config)

    assert ran.code == ExitCode.NOT_OBSERVED
    lines = [line for line in ran.err.splitlines() if line.startswith("telemetry")]
    assert len(lines) == 1
    assert "telemetry is not good enough to act on: past use could not be read" in lines[0]
