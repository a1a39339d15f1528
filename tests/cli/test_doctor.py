"""`rebalancer doctor`, over libvirt's own test driver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from tests.cli.conftest import Rebalancer

pytest.importorskip("libvirt")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """One host that answers, one that is gone."""
    file = tmp_path / "rebalancer.yaml"
    file.write_text(
        """
schema_version: 1
cluster: lab
collect: {sampling_seconds: 0.1}
hosts:
  - {name: h1, uri: "test:///default", peer_uri: "qemu+tcp://127.0.0.1:1/system"}
  - {name: h2, uri: "qemu+tcp://127.0.0.1:1/system"}
hooks: {after_plan: [{command: [/nowhere/hook]}]}
""",
        encoding="utf-8",
    )
    return file


def test_a_host_that_is_gone_is_an_error_and_the_rest_is_tested(
    rebalancer: Rebalancer, config: Path, tmp_path: Path
) -> None:
    ran = rebalancer("doctor", "--config", config, "-o", "json")

    tree = json.loads(ran.out)
    errors = [row for row in tree["findings"] if row["level"] == "error"]
    assert ran.code == tree["exit_code"] == ExitCode.BLOCKED
    assert [row["about"] for row in errors] == ["h2"]
    assert {"journal", "hooks", "hosts", "versions", "VMs"} <= {
        row["area"] for row in tree["findings"]
    }
    assert not (tmp_path / "journal.db").exists()


def test_the_table_ends_with_a_summary(rebalancer: Rebalancer, config: Path) -> None:
    ran = rebalancer("doctor", "--config", config)

    assert "To be mended" in ran.out
    assert ran.out.rstrip().splitlines()[-1].startswith(tuple("0123456789"))


def test_without_hosts_that_is_what_is_wrong(rebalancer: Rebalancer, tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("schema_version: 1\n", encoding="utf-8")

    ran = rebalancer("doctor", "--config", file)

    assert ran.code == ExitCode.BLOCKED
    assert "none is configured" in ran.out


def test_a_policy_that_cannot_be_read_does_not_keep_the_rest_from_being_tested(
    rebalancer: Rebalancer, config: Path, tmp_path: Path
) -> None:
    ran = rebalancer("doctor", "--config", config, "--policy", tmp_path / "none.yaml", "-o", "json")

    rows = json.loads(ran.out)["findings"]
    assert [row["level"] for row in rows if row["area"] == "policy"] == ["error"]
    assert any(row["area"] == "hosts" for row in rows)
