"""The command, from snapshot to drain, on real hosts with real guests.

Six guests under load are all on the first host. `apply` spreads them by live migration; a drain
empties a host. Nobody restarts, nobody is stopped for longer than was printed beforehand plus
one second, and at the end everybody runs exactly once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.errors import ExitCode
from tests.lab.command import Rebalancer
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest

pytestmark = pytest.mark.lab

STOP_ALLOWED_SECONDS = 1.0
"""What a guest may be stopped for beyond the prediction, by its own clock."""
SILENCE_ALLOWED_SECONDS = 10.0
"""What it may be silent for beyond that: it waits for its turn on a small machine, too."""

# CPU load and megabytes written a second: six guests that differ. With what emulation costs they
# use one core in all, so that there is CPU left for migrations.
LOADS = ((0.18, 0.0), (0.15, 1e6), (0.12, 2e6), (0.09, 3e6), (0.06, 5e6), (0.03, 8e6))


@pytest.fixture
def rebalancer(lab: Lab, tmp_path: Path) -> Rebalancer:
    return Rebalancer.configured(lab, tmp_path)


@pytest.fixture
def guests(lab: Lab) -> Iterator[Sequence[LabGuest]]:
    started = lab.start_guests(
        len(LOADS), GuestSpec(working_set_bytes=24 * MIB), hosts=lab.hosts[:1]
    )
    for guest, (cpu_ratio, dirty_bytes_per_second) in zip(started, LOADS, strict=True):
        guest.set_cpu_load(cpu_ratio)
        guest.set_dirty_rate(dirty_bytes_per_second)
    yield started
    for guest in started:
        lab.remove_guest(guest)


def places(guests: Sequence[LabGuest]) -> list[int]:
    """How many guests each host of the lab runs, most first; each guest runs exactly once."""
    running = [[host.name for host in guest.hosts_running()] for guest in guests]
    assert all(len(hosts) == 1 for hosts in running), running
    known = [[host.name for host in guest.hosts_knowing()] for guest in guests]
    assert known == running, "a definition stayed behind"
    names = [hosts[0] for hosts in running]
    return sorted((names.count(host.name) for host in guests[0].hosts), reverse=True)


def assert_unbroken(guests: Sequence[LabGuest], plan: dict[str, Any]) -> None:
    """Nobody restarted; nobody was stopped for longer than predicted, by more than is allowed."""
    predicted = {
        migration["vm"]: migration["predicted"]["downtime_seconds"]
        for migration in plan["migrations"]
    }
    for guest in guests:
        heard = guest.heartbeat.report()
        assert heard.ran_through, (guest.name, heard)
        limit = predicted.get(guest.uuid, 0.0) + STOP_ALLOWED_SECONDS
        assert heard.longest_stop_seconds <= limit, (guest.name, heard, limit)
        assert heard.longest_gap_seconds <= limit + SILENCE_ALLOWED_SECONDS, (guest.name, heard)


@pytest.mark.alone  # what guests get of the CPU is balanced
def test_guests_are_spread_and_a_host_is_drained(
    rebalancer: Rebalancer, guests: Sequence[LabGuest], lab: Lab, tmp_path: Path
) -> None:
    plan_file = tmp_path / "plan.json"
    rebalancer("snapshot", "-o", tmp_path / "snapshot.json")
    rebalancer("plan", "--probe", "--out", plan_file)
    plan = json.loads(plan_file.read_text())
    for guest in guests:
        guest.heartbeat.mark()

    rebalancer("apply", plan_file, "--yes")

    assert places(guests) == [2, 2, 2]
    assert_unbroken(guests, plan)
    rebalancer("apply", plan_file, "--yes", ends_with=ExitCode.REFUSED)
    assert rebalancer("plan").startswith("balanced")

    emptied = lab.hosts[1]
    rebalancer("drain", emptied.name, "--out", plan_file)
    plan = json.loads(plan_file.read_text())
    for guest in guests:
        guest.heartbeat.mark()

    rebalancer("drain", emptied.name, "--yes")

    assert places(guests) == [3, 3, 0]
    assert all(emptied not in guest.hosts_running() for guest in guests)
    assert_unbroken(guests, plan)
    assert "draining" in rebalancer("status")
    assert "draining" in rebalancer("plan")

    rebalancer("undrain", emptied.name)

    assert "draining" not in rebalancer("status")


def test_one_unreachable_host_is_unknown_and_the_others_are_planned_for(
    rebalancer: Rebalancer, lab: Lab, tmp_path: Path
) -> None:
    lab.hosts[2].kill_libvirtd()

    said = rebalancer("snapshot", "-o", tmp_path / "snapshot.json", ends_with=ExitCode.NOT_OBSERVED)

    assert f"1 host did not answer: {lab.hosts[2].name}" in said
    hosts = json.loads((tmp_path / "snapshot.json").read_text())["hosts"]
    assert [host["state"] for host in hosts] == ["up", "up", "unknown"]
    assert lab.hosts[2].name in rebalancer("plan")
