"""Fewer migrations at once after trouble, slowly more again, never more than is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.inventory import Mode, VmState
from rebalancer.cluster.plan import Migration, MigrationState
from rebalancer.cluster.policy import Limits, MigrationPermissions
from rebalancer.rollout.admission import INTO, OUT_OF, Flight, admit
from rebalancer.rollout.attempt import Attempt, Before
from rebalancer.rollout.congestion import Ceiling, ceilings, changes
from rebalancer.rollout.events import Event, Note
from rebalancer.rollout.executor import Settings, execute
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.precopy import Watch
from rebalancer.rollout.track import Times, Track, mandate_for
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from rebalancer.simulation.simulated_driver import SimulatedDriver
from tests.builders import GIB, MIB, NOON, a_host, a_snapshot, a_vm
from tests.unit.rollout.plans import a_migration, a_plan

S = MigrationState
HOSTS = tuple(a_host(f"h{n}") for n in range(1, 6))
SNAPSHOT = a_snapshot(HOSTS)
LIMITS = Limits(per_host_out=4, per_host_in=4, cluster=8, link_share=0.7)
GRANTED = 100.0 * MIB
BEFORE = Before(state=VmState.RUNNING, persistent=True, autostart=False, memory_bytes=4 * GIB)


def a_track(
    number: int,
    state: MigrationState,
    *,
    source: str = "h1",
    target: str = "h2",
    rate: float | None = None,
    seconds: float = 60.0,
) -> Track:
    """A migration that ended `number` minutes after noon, or runs since noon."""
    move = a_migration(f"vm{number}", source, target, id=f"m{number}")
    watch = replace(
        Watch.begun(NOON, 0.5),
        sampled_at=NOON + timedelta(seconds=seconds),
        bytes_per_second=rate if rate is not None else GRANTED,
    )
    return Track(
        migration=move,
        mandate=mandate_for(move, SNAPSHOT, MigrationPermissions(), Times()),
        state=state,
        entered_at=NOON + timedelta(minutes=number),
        attempt=Attempt(migration=move, before=BEFORE),
        granted_bytes_per_second=GRANTED,
        requested_at=NOON,
        watch=watch,
    )


def lowered(*tracks: Track, minutes: float = 10.0) -> dict[tuple[str, str], int]:
    now = NOON + timedelta(minutes=minutes)
    found = ceilings(tracks, SNAPSHOT, LIMITS, now)
    return {place: ceiling.at_once for place, ceiling in found.items()}


def test_nothing_is_lowered_while_all_goes_well() -> None:
    assert lowered(*(a_track(n, S.COMPLETE) for n in range(5))) == {}


def test_a_failure_halves_what_both_hosts_take_and_nothing_else() -> None:
    assert lowered(a_track(1, S.FAILED_SAFE)) == {(OUT_OF, "h1"): 2, (INTO, "h2"): 2}


def test_two_failures_leave_one_and_never_none() -> None:
    twice = [a_track(n, S.FAILED_SAFE) for n in (1, 2, 3, 4)]

    assert lowered(*twice) == {(OUT_OF, "h1"): 1, (INTO, "h2"): 1}


def test_successes_raise_it_slowly_up_to_the_limit() -> None:
    failed = [a_track(1, S.FAILED_SAFE), a_track(2, S.FAILED_SAFE)]

    after = [
        lowered(*failed, *(a_track(n, S.COMPLETE) for n in range(3, 3 + done))).get((INTO, "h2"), 4)
        for done in range(13)
    ]

    assert after == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4]


def test_a_transfer_that_gets_far_less_than_its_grant_counts_as_trouble() -> None:
    slow = a_track(1, S.COMPLETE, rate=0.3 * GRANTED)
    found = ceilings([slow], SNAPSHOT, LIMITS, NOON)

    assert found[OUT_OF, "h1"] == Ceiling(
        at_once=2, why="vm1 gets 30% of the bandwidth it was granted"
    )


def test_a_running_one_that_is_slow_lowers_it_only_as_long_as_it_is() -> None:
    slow, fast = a_track(1, S.TRANSFER, rate=0.3 * GRANTED), a_track(1, S.TRANSFER)

    assert lowered(slow) == {(OUT_OF, "h1"): 2, (INTO, "h2"): 2}
    assert lowered(fast) == {}
    assert lowered(slow, minutes=0.2) == {}, "it has only just begun"


def test_a_short_transfer_says_nothing_about_the_link() -> None:
    assert lowered(a_track(1, S.COMPLETE, rate=0.1 * GRANTED, seconds=10.0)) == {}


def test_what_the_operator_slowed_down_is_not_slow() -> None:
    asked = replace(
        a_track(1, S.TRANSFER, rate=0.3 * GRANTED), slowed_to_bytes_per_second=0.3 * GRANTED
    )

    assert lowered(asked) == {}


def test_what_was_skipped_or_called_off_is_no_trouble() -> None:
    skipped = replace(a_track(1, S.SKIPPED), attempt=None)
    aborted = replace(a_track(2, S.FAILED_SAFE), on_request=True)

    assert lowered(skipped, a_track(3, S.ABORTED), aborted) == {}


def test_fewer_are_let_in_where_it_was_lowered() -> None:
    waiting = [a_migration(f"vm{n}", "h1", f"h{n}", id=f"m{n}") for n in (2, 3, 4)]
    flying = [Flight(migration=a_migration("x", "h1", "h5", id="f"), bytes_per_second=1.0)]

    let_in = admit(waiting, flying, SNAPSHOT, LIMITS, ceilings={(OUT_OF, "h1"): 2})

    assert [grant.migration for grant in let_in] == ["m2"]


def test_moves_that_send_nothing_count_as_well() -> None:
    waiting = [a_migration(f"vm{n}", "h1", "h2", id=f"m{n}", mode=Mode.COLD) for n in (1, 2)]

    let_in = admit(waiting, (), SNAPSHOT, LIMITS, ceilings={(INTO, "h2"): 1})

    assert [grant.migration for grant in let_in] == ["m1"]


def test_changes_are_told_in_sentences() -> None:
    low = ceilings([a_track(1, S.FAILED_SAFE)], SNAPSHOT, LIMITS, NOON)
    raised = {place: replace(ceiling, at_once=3) for place, ceiling in low.items()}

    assert list(changes({}, low)) == [
        "into h2: at most 2 at once for now, as vm1 ended failed-safe",
        "out of h1: at most 2 at once for now, as vm1 ended failed-safe",
    ]
    assert next(iter(changes(low, raised))).endswith(
        "at most 3 at once for now, as it went well since"
    )
    assert list(changes(low, {}))[1] == (
        "out of h1: as many migrations at once as the limits allow again"
    )
    assert list(changes(low, low)) == []


endings = st.lists(
    st.tuples(
        st.sampled_from([S.COMPLETE, S.FAILED_SAFE, S.FAILED_DOWN, S.ABORTED, S.TRANSFER]),
        st.sampled_from(["h1", "h2", "h3"]),
        st.sampled_from(["h4", "h5"]),
        st.floats(0.01, 1.5),
    ),
    max_size=20,
)


@given(endings, st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_whatever_happens_it_is_between_one_and_less_than_the_limits_allow(
    ended: Sequence[tuple[MigrationState, str, str, float]], out: int, into: int, cluster: int
) -> None:
    limits = replace(LIMITS, per_host_out=out, per_host_in=into, cluster=cluster)
    tracks = [
        a_track(n, state, source=source, target=target, rate=rate * GRANTED)
        for n, (state, source, target, rate) in enumerate(ended)
    ]
    now = NOON + timedelta(hours=1)

    found = ceilings(tracks, SNAPSHOT, limits, now)

    for (way, _), ceiling in found.items():
        assert 1 <= ceiling.at_once < min(out if way == OUT_OF else into, cluster)
        assert ceiling.why
    assert found == ceilings(reversed(tracks), SNAPSHOT, limits, now), "the same for the same"


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(4, 5)), max_size=12), endings)
def test_with_ceilings_nothing_is_let_in_that_would_not_be_without(
    pairs: Sequence[tuple[int, int]],
    ended: Sequence[tuple[MigrationState, str, str, float]],
) -> None:
    waiting: list[Migration] = [
        a_migration(f"w{n}", f"h{source}", f"h{target}", id=f"w{n}")
        for n, (source, target) in enumerate(pairs)
    ]
    tracks = [
        a_track(n, s, source=a, target=b, rate=r * GRANTED) for n, (s, a, b, r) in enumerate(ended)
    ]
    low = ceilings(tracks, SNAPSHOT, LIMITS, NOON + timedelta(hours=1))
    most = {place: ceiling.at_once for place, ceiling in low.items()}

    let_in = {grant.migration for grant in admit(waiting, (), SNAPSHOT, LIMITS, ceilings=most)}
    moves = [move for move in waiting if move.id in let_in]

    for place, at_once in most.items():
        there = sum(place in ((OUT_OF, m.source), (INTO, m.target)) for m in moves)
        assert there <= at_once
    assert len(moves) <= LIMITS.cluster


def test_a_rollout_tells_and_writes_down_where_it_holds_back(tmp_path: Path) -> None:
    vms = [a_vm(f"vm{n}", on="h1") for n in range(1, 7)]
    snapshot = a_snapshot(HOSTS, vms)
    refused = Fault(kind=FaultKind.REFUSE, vm=vms[0].id, stage=Stage.REQUEST)
    world = Datacentre.of(snapshot, faults=[refused])
    clock, events = VirtualClock(world), list[Event]()
    moves = [a_migration(f"vm{n}", "h1", "h2", id=f"m{n}") for n in range(1, 7)]

    with Journal.open(f"sqlite:///{tmp_path}/journal.db", clock) as journal:
        result = execute(
            a_plan(*moves),
            driver=SimulatedDriver(world),
            clock=clock,
            journal=journal,
            snapshot=snapshot,
            settings=Settings(limits=LIMITS),
            on_event=events.append,
        )
        written = [r.payload["text"] for r in journal.records(result.rollout, "")]

    told = [event.text for event in events if isinstance(event, Note) and not event.migration]
    assert result.in_state(S.FAILED_SAFE, S.SKIPPED)
    assert told == written
    assert told[0] == "into h2: at most 2 at once for now, as vm1 ended failed-safe"
    assert "out of h1: at most 3 at once for now, as it went well since" in told
