"""One VM goes where somebody wants it, under the same rules as everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.collect.snapshot_file import write_snapshot
from rebalancer.errors import ExitCode
from tests.builders import GIB, a_host, a_snapshot, a_vm
from tests.cli.conftest import Rebalancer

THREE = [a_host("h1"), a_host("h2", memory_bytes=8 * GIB), a_host("h3")]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Three hosts: h2 is small, h3 has a little on it already."""
    vms = [a_vm("db"), a_vm("huge", memory_bytes=32 * GIB), a_vm("web", on="h3")]
    return save(a_snapshot(THREE, vms), tmp_path)


def save(snapshot: Snapshot, folder: Path) -> Path:
    file = folder / "snapshot.json"
    write_snapshot(snapshot, file)
    return file


def moves(text: str) -> list[tuple[str, str]]:
    return [(m["vm_name"], m["target"]) for m in json.loads(text)["migrations"]]


def test_a_vm_goes_to_the_host_that_was_named(rebalancer: Rebalancer, saved: Path) -> None:
    ran = rebalancer("migrate", "db", "h3", "--snapshot", saved, "-o", "json")

    assert ran.code == ExitCode.SUCCESS
    assert moves(ran.out) == [("db", "h3")]
    assert "nothing was changed" in ran.err


def test_without_a_host_it_goes_to_the_emptiest_that_can_take_it(
    rebalancer: Rebalancer, saved: Path
) -> None:
    ran = rebalancer("migrate", "huge", "--snapshot", saved, "-o", "json")

    assert moves(ran.out) == [("huge", "h3")]


def test_what_speaks_against_a_host_is_said(rebalancer: Rebalancer, saved: Path) -> None:
    ran = rebalancer("migrate", "huge", "h2", "--snapshot", saved)

    assert ran.code == ExitCode.BLOCKED
    assert "blocked: huge stays" in " ".join(ran.out.split())
    assert "memory" in ran.out


def test_nothing_else_moves_even_if_it_should(rebalancer: Rebalancer, tmp_path: Path) -> None:
    hosts = [a_host("h1"), a_host("h2", state=HostState.MAINTENANCE), a_host("h3")]
    crowd = [a_vm(f"vm{n}", cpu_used_cores=1.5) for n in range(8)]
    file = save(a_snapshot(hosts, crowd), tmp_path)

    ran = rebalancer("migrate", "vm3", "--snapshot", file, "-o", "json")

    assert moves(ran.out) == [("vm3", "h3")]


def test_with_yes_it_really_moves(rebalancer: Rebalancer, hotspot: Path) -> None:
    plan = json.loads(rebalancer("plan", "--scenario", hotspot, "-o", "json").out)
    first = plan["migrations"][0]

    ran = rebalancer("migrate", first["vm_name"], first["target"], "--scenario", hotspot, "--yes")

    assert ran.code == ExitCode.SUCCESS
    assert "1 of 1" in ran.out or "complete" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dB", "h3"], "did you mean db"),
        (["db", "h9"], "h9"),
        (["db", "h1"], "is on h1 already"),
    ],
)
def test_names_that_are_not_there_are_refused(
    rebalancer: Rebalancer, saved: Path, words: list[str], said: str
) -> None:
    ran = rebalancer("migrate", *words, "--snapshot", saved)

    assert ran.code == ExitCode.USAGE
    assert said in " ".join(ran.err.split())
