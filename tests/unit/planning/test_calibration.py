"""What finished migrations teach about the hosts they went between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId, Mode
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.planning.calibration import Past, calibrate
from rebalancer.planning.cost import Estimate, Line, live_for_certain, max_downtime_for
from rebalancer.planning.guest import Guest
from rebalancer.planning.habits import ASSUMED, SETUP_SECONDS, Habits
from tests.builders import GIB, MIB, a_host, a_snapshot, a_vm
from tests.unit.planning.plans import a_plan

RATE = 400.0 * MIB
MAX_DOWNTIME_SECONDS = 0.2
SLOW = Habits(setup_seconds=4.0, efficiency_ratio=0.8, switchover_seconds=0.3)

(TEMPLATE,) = a_plan(
    a_snapshot([a_host("h1"), a_host("h2")], [a_vm("a", memory_bytes=8 * GIB)]), {"a": "h2"}
).migrations


def predict(guest: Guest, habits: Habits) -> Estimate:
    line = Line(bytes_per_second=RATE, switchover_bytes_per_second=RATE, habits=habits)
    return live_for_certain(guest, line, MAX_DOWNTIME_SECONDS)


def planned(guest: Guest, habits: Habits = ASSUMED, target: str = "h2") -> Migration:
    """A migration with what was predicted for it."""
    estimate = predict(guest, habits)
    predicted = replace(
        TEMPLATE.predicted,
        duration_seconds=estimate.duration_seconds,
        duration_upper_seconds=estimate.duration_upper_seconds,
        downtime_seconds=estimate.downtime_seconds,
        downtime_upper_seconds=estimate.downtime_upper_seconds,
        transfer_bytes=estimate.transfer_bytes,
        rounds=estimate.rounds,
        switchover_seconds=estimate.switchover_seconds,
    )
    return replace(
        TEMPLATE,
        mode=Mode.LIVE,
        target=HostId(target),
        bytes_per_second=RATE,
        max_downtime_seconds=MAX_DOWNTIME_SECONDS,
        predicted=predicted,
    )


def a_guest(memory_gib: float, dirty_mib: float = 0.0) -> Guest:
    return Guest(
        memory_bytes=memory_gib * GIB,
        dirty_bytes_per_second=dirty_mib * MIB,
        working_set_bytes=0.1 * memory_gib * GIB,
    )


def ended(
    migration: Migration,
    guest: Guest,
    truth: Habits = SLOW,
    held_up: float = 1.0,
    state: MigrationState = MigrationState.COMPLETE,
) -> Past:
    """How it went on hosts that really have these habits."""
    real = predict(guest, truth)
    return migration, Outcome(
        migration=migration.id,
        state=state,
        text="",
        duration_seconds=held_up * real.duration_seconds,
        downtime_seconds=held_up * real.downtime_seconds,
        transfer_bytes=real.transfer_bytes,
    )


def some_past(count: int, seed: int, jitter: float = 0.1) -> list[Past]:
    """Guests of all sizes on slow hosts, each held up or hurried by chance."""
    rng = np.random.default_rng(seed)
    guests = [a_guest(rng.uniform(0.5, 32), rng.uniform(0, 150)) for _ in range(count)]
    return [ended(planned(g), g, held_up=float(rng.lognormal(0.0, jitter))) for g in guests]


def test_without_a_past_nothing_changes() -> None:
    assert calibrate([]).of(HostId("h1"), HostId("h2")) == ASSUMED


def test_what_failed_teaches_nothing() -> None:
    guest = a_guest(8)
    failed = ended(planned(guest), guest, state=MigrationState.FAILED_SAFE)

    assert calibrate([failed]).everywhere == ASSUMED


def test_slow_hosts_are_learned() -> None:
    habits = calibrate(some_past(100, seed=1, jitter=0.0)).everywhere

    assert habits.setup_seconds == pytest.approx(SLOW.setup_seconds, rel=0.15)
    assert habits.efficiency_ratio == pytest.approx(SLOW.efficiency_ratio, rel=0.03)
    assert habits.migrations == 100


@pytest.mark.parametrize("seed", range(5))
def test_nine_of_ten_of_the_next_end_within_the_band(seed: int) -> None:
    habits = calibrate(some_past(100, seed=seed)).everywhere
    later = some_past(400, seed=seed + 1000)

    rng = np.random.default_rng(seed + 1000)
    guests = [a_guest(rng.uniform(0.5, 32), rng.uniform(0, 150)) for _ in range(400)]
    bands = [predict(guest, habits).duration_upper_seconds for guest in guests]

    before = share_within(later, (m.predicted.duration_upper_seconds for m, _ in later))
    assert share_within(later, bands) >= 0.87
    assert before < 0.7


def share_within(past: list[Past], upper: Iterable[float]) -> float:
    return float(
        np.mean([(o.duration_seconds or 0) <= u for (_, o), u in zip(past, upper, strict=True)])
    )


def test_hosts_that_keep_time_get_narrow_bands() -> None:
    guests = [a_guest(gib) for gib in range(1, 31)]
    habits = calibrate([ended(planned(g), g, truth=ASSUMED) for g in guests]).everywhere

    assert habits.calm.transfer_ratio == pytest.approx(1.1)


def test_a_few_migrations_never_narrow_a_band() -> None:
    guests = [a_guest(gib) for gib in (1, 4, 16)]
    habits = calibrate([ended(planned(g), g, truth=ASSUMED) for g in guests]).everywhere

    assert habits.calm == ASSUMED.calm


def test_a_single_migration_that_was_held_up_does_not_swing_the_rest() -> None:
    guests = [a_guest(gib) for gib in range(1, 31)]
    good = [ended(planned(g), g, truth=ASSUMED) for g in guests]
    bad = ended(planned(guests[0]), guests[0], truth=ASSUMED, held_up=50.0)

    habits = calibrate([bad, *good]).everywhere

    assert habits.setup_seconds == pytest.approx(SETUP_SECONDS, abs=0.1)
    assert habits.efficiency_ratio == pytest.approx(1.0, abs=0.02)


def test_a_pair_without_much_of_a_past_is_taken_for_like_the_others() -> None:
    guests = [a_guest(gib) for gib in range(1, 31)]
    known = [ended(planned(g), g) for g in guests]
    odd = ended(planned(guests[5], target="h3"), guests[5], truth=replace(SLOW, setup_seconds=30.0))

    calibration = calibrate([odd, *known])
    new, odd_pair = (calibration.of(HostId("h1"), HostId(name)) for name in ("h9", "h3"))

    assert new == calibration.everywhere
    assert SLOW.setup_seconds < odd_pair.setup_seconds < 12.0


def test_pauses_longer_than_planned_make_the_guest_ask_for_shorter_ones() -> None:
    guests = [a_guest(gib) for gib in range(1, 31)]
    past = [ended(planned(g), g, truth=ASSUMED) for g in guests]
    long = [(m, replace(o, downtime_seconds=1.0)) for m, o in past]

    before, after = (
        max_downtime_for(
            2.0, Line(bytes_per_second=RATE, switchover_bytes_per_second=RATE, habits=habits)
        )
        for habits in (ASSUMED, calibrate(long).everywhere)
    )
    assert after < before
