"""Left alone for a month, it keeps hosts from overload, moves little, and never to and fro."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rebalancer.cluster.inventory import VmId
from rebalancer.cluster.plan import Priority
from rebalancer.rollout.records import Move
from tests.simulation import month
from tests.simulation.month import Month
from tests.unit.rollout.crashes import IN_MEMORY

WEEKS = month.DAYS / 7


# One test, as the month takes a minute to live through.
def test_a_month_with_failures_outages_and_restarts() -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        lived_through = month.play(Path(folder))

    no_vm_is_moved_twice_within_its_cooldown_nor_straight_back(lived_through)
    hosts_are_overloaded_for_a_fifth_of_the_time_at_most(lived_through)
    a_vm_is_moved_once_a_week_at_most_on_average(lived_through)
    every_cycle_says_what_it_came_to_and_none_failed(lived_through)
    nothing_is_moved_while_prometheus_is_away(lived_through)
    what_a_killed_daemon_left_is_seen_to_the_end(lived_through)


def no_vm_is_moved_twice_within_its_cooldown_nor_straight_back(lived_through: Month) -> None:
    last: dict[VmId, Move] = {}
    for move in lived_through.moves:
        before = last.get(move.vm)
        last[move.vm] = move
        if before is None or move.priority is not Priority.BALANCE:
            continue
        apart_seconds = (move.at - before.at).total_seconds()
        assert apart_seconds >= month.COOLDOWN_SECONDS, move
        assert apart_seconds >= month.REVERSE_BAN_SECONDS or move.target != before.source, move


def hosts_are_overloaded_for_a_fifth_of_the_time_at_most(lived_through: Month) -> None:
    assert lived_through.idle_overload_seconds > 24 * 3600.0, "the month is a hard one"
    assert lived_through.overload_seconds * 5 <= lived_through.idle_overload_seconds


def a_vm_is_moved_once_a_week_at_most_on_average(lived_through: Month) -> None:
    assert lived_through.moves
    assert len(lived_through.moves) <= month.VMS * WEEKS


def every_cycle_says_what_it_came_to_and_none_failed(lived_through: Month) -> None:
    cycles = month.DAYS * month.DAY_SECONDS / month.CYCLE_SECONDS
    assert len(lived_through.verdicts) == cycles
    assert all(lived_through.verdicts)
    assert not [v for v in lived_through.verdicts if v.startswith(("failed", "blocked"))]


def nothing_is_moved_while_prometheus_is_away(lived_through: Month) -> None:
    assert lived_through.acted_without_telemetry == 0


def what_a_killed_daemon_left_is_seen_to_the_end(lived_through: Month) -> None:
    assert lived_through.restarts > 100
    assert lived_through.killed_at_work > 0
    assert lived_through.unfinished == 0
