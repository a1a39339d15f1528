"""The daemon on real hosts, left alone: see `story`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rebalancer.errors import ExitCode
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB
from tests.lab.story import FOR_CYCLES, LOADS, RESTS, tell
from tests.prometheus.server import BINARY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.cluster import Lab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.alone,  # what guests use of the CPU decides what the daemon does
    pytest.mark.skipif(BINARY is None, reason="no `prometheus` on this machine"),
]


def test_it_sees_waits_moves_and_rests_without_anybody(lab: Lab, tmp_path: Path) -> None:
    spec = GuestSpec(working_set_bytes=16 * MIB)
    busy = lab.start_guests(len(LOADS), spec, hosts=lab.hosts[:1])
    idle = lab.start_guests(2, spec, hosts=lab.hosts[1:])
    guests = (*busy, *idle)
    for guest in guests:
        guest.heartbeat.mark()
    try:
        story = tell(lab, guests, tmp_path, print)

        assert [verdict.split(";")[0] for verdict in story.waited[-2:]] == [
            f"waiting: seen in {seen} of {FOR_CYCLES} cycles in a row" for seen in (1, 2)
        ]
        assert story.moved.startswith("moved ")
        assert all(verdict.startswith(RESTS) for verdict in story.rested[-3:]), story.rested
        assert story.spread_after < story.spread_before
        assert story.completed >= 1
        assert all(set(rollout["states"]) == {"complete"} for rollout in story.history)
        # What a first plan left may be mended by a second one, when the load is better known.
        assert len(set(story.moved_vms)) == len(story.moved_vms), "none moved twice"
        assert story.exit_code == ExitCode.TERMINATED
        for guest in guests:
            assert len(guest.hosts_running()) == 1
            assert guest.heartbeat.report().ran_through
        assert sum(lab.hosts[0] in guest.hosts_running() for guest in busy) < len(busy)
    finally:
        for guest in guests:
            lab.remove_guest(guest)
