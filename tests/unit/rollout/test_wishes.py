"""What operators ask of a rollout from another terminal: it hears them while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from rebalancer.cluster.plan import MigrationState
from rebalancer.cluster.policy import Limits
from rebalancer.rollout.events import Event, Heartbeat, MigrationStarted, Note, Progress
from rebalancer.rollout.wishes import Wishes
from tests.builders import MIB, a_vm
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.test_executor import MakeWorld, World, make_world

__all__ = ["make_world"]

S = MigrationState
TWO = a_plan(a_migration(), a_migration("vm2", "h1", "h3", id="m2", depends_on=("m1",)))


class Terminal(list[Event]):
    """Another terminal: it watches the rollout and asks for things."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._wants: list[tuple[type[Event], Callable[[Wishes], Wishes]]] = []

    def asks(self, when: type[Event], change: Callable[[Wishes], Wishes]) -> Terminal:
        """Ask, once, at the first event of that kind."""
        self._wants.append((when, change))
        return self

    def hear(self, event: Event) -> None:
        self.append(event)
        for want in [want for want in self._wants if isinstance(event, want[0])]:
            self._wants.remove(want)
            self._world.journal.wish("test", want[1])

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self if isinstance(event, kind)]


def paused(world: World) -> Callable[[Wishes], Wishes]:
    return lambda wishes: replace(wishes, paused_at=world.clock.now(), paused_by="root@mgmt1")


def test_while_paused_nothing_new_is_started_and_what_runs_goes_on(make_world: MakeWorld) -> None:
    world = make_world(a_vm("vm1"), a_vm("vm2"))
    terminal = Terminal(world).asks(Progress, paused(world))
    terminal.asks(Heartbeat, lambda wishes: replace(wishes, paused_at=None))

    result = world.roll_out(TWO, on_event=terminal.hear)

    assert world.states(result) == [S.COMPLETE, S.COMPLETE]
    waited = terminal.told(Heartbeat)[0]
    assert isinstance(waited, Heartbeat)
    assert "root@mgmt1" in waited.paused
    assert terminal.index(waited) < terminal.index(terminal.told(MigrationStarted)[1])


def test_a_cluster_that_is_paused_can_still_be_told_to_stop(make_world: MakeWorld) -> None:
    world = make_world(a_vm("vm1"), a_vm("vm2"))
    world.journal.wish("test", paused(world))
    terminal = Terminal(world).asks(Heartbeat, lambda wishes: replace(wishes, stop_rollout=1))

    result = world.roll_out(TWO, on_event=terminal.hear)

    assert world.states(result) == [S.SKIPPED, S.SKIPPED]
    assert "operator" in result.stopped


@pytest.mark.parametrize(("abort", "first"), [(False, S.COMPLETE), (True, S.ABORTED)])
def test_cancelling_ends_this_rollout_and_no_other(
    make_world: MakeWorld, abort: bool, first: MigrationState
) -> None:
    world = make_world(a_vm("vm1"), a_vm("vm2"))
    stop = Terminal(world).asks(
        Progress, lambda wishes: replace(wishes, stop_rollout=1, stop_by_aborting=abort)
    )

    result = world.roll_out(TWO, on_event=stop.hear)
    later = world.roll_out(a_plan(a_migration("vm2", "h1", "h3", id="m2"), id="later"))

    assert world.states(result) == [first, S.SKIPPED]
    assert later.is_complete


def test_transfers_under_way_are_slowed_down_and_let_go_again(make_world: MakeWorld) -> None:
    world = make_world()
    share = Limits().link_share
    terminal = Terminal(world).asks(Progress, lambda wishes: replace(wishes, link_share=share / 4))
    terminal.asks(Note, lambda wishes: replace(wishes, link_share=None))

    result = world.roll_out(
        a_plan(a_migration(bytes_per_second=400.0 * MIB)), on_event=terminal.hear
    )

    assert result.is_complete
    assert world.issued() == ["Migrate", "SetBandwidth", "SetBandwidth"]
    notes = [note.text for note in terminal.told(Note) if isinstance(note, Note)]
    assert "100 MiB/s" in notes[0]
    assert "400 MiB/s" in notes[1]


def test_a_transfer_that_is_slowed_down_on_purpose_is_not_late(make_world: MakeWorld) -> None:
    world = make_world()
    slow = Terminal(world).asks(Progress, lambda wishes: replace(wishes, link_share=0.7 / 40))

    result = world.roll_out(a_plan(a_migration(bytes_per_second=400.0 * MIB)), on_event=slow.hear)

    assert result.is_complete
    (outcome,) = result.outcomes
    assert outcome.duration_seconds is not None
    assert outcome.duration_seconds > 3 * 120


def test_fewer_at_a_time_than_the_policy_allows_never_more(make_world: MakeWorld) -> None:
    wishes = Wishes(at_once=1, link_share=0.9)

    narrowed = wishes.narrowed(Limits(cluster=5, link_share=0.5))

    assert (narrowed.cluster, narrowed.link_share) == (1, 0.5)
    assert wishes.pace_ratio(Limits(link_share=0.5)) == 1.0


def test_wishes_are_kept_over_a_restart(make_world: MakeWorld) -> None:
    world = make_world()
    since = world.clock.now() - timedelta(hours=1)
    asked = Wishes(paused_at=since, paused_by="root@mgmt1", reason="backup", at_once=2)

    world.journal.wish("test", lambda _: asked)

    assert world.journal.wishes("test") == asked
    assert world.journal.wishes("another") == Wishes()
    assert "backup" in asked.why_paused
