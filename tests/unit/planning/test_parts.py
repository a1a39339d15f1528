"""What is learned of shutdowns, starts, storages and disk copies, and how honest its bands are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId, Mode, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.cluster.prediction import Confidence, MeasuredPart, Part, PredictedPart
from rebalancer.planning import cold, disks
from rebalancer.planning.accuracy import accuracy_of, part_accuracy_of
from rebalancer.planning.calibration import calibrate
from rebalancer.planning.cost import Line
from rebalancer.planning.guest import Guest
from rebalancer.planning.part_calibration import Past, learned_parts
from rebalancer.planning.parts import BOOT_SECONDS, UNLEARNED, PartHabits, StoragePace
from rebalancer.planning.saving import saved
from tests.builders import GIB, MIB, a_disk, a_host, a_snapshot, a_vm, with_disks
from tests.unit.planning.plans import a_plan

DB, H2 = VmId("db"), HostId("h2")
GIVEN_UP_SECONDS = 180.0

(TEMPLATE,) = a_plan(
    a_snapshot([a_host("h1"), a_host("h2")], [a_vm("db", memory_bytes=8 * GIB)]), {"db": "h2"}
).migrations


def planned(
    vm: str = "db", target: str = "h2", habits: PartHabits = UNLEARNED, saved_to: str = ""
) -> Migration:
    """A cold move with what was predicted of its parts."""
    estimate = cold.cold(VmId(vm), HostId(target), habits)
    predicted = replace(
        TEMPLATE.predicted,
        duration_seconds=estimate.duration_seconds,
        downtime_seconds=estimate.downtime_seconds,
        downtime_upper_seconds=estimate.downtime_upper_seconds,
        parts=estimate.parts,
    )
    return replace(
        TEMPLATE,
        vm=VmId(vm),
        vm_name=vm,
        target=HostId(target),
        mode=Mode.COLD,
        saved_to=saved_to,
        predicted=predicted,
    )


def ended(migration: Migration, *parts: MeasuredPart, sent: float | None = None) -> Past:
    over = all(part.is_over for part in parts)
    return migration, Outcome(
        migration=migration.id,
        state=MigrationState.COMPLETE if over else MigrationState.FAILED_SAFE,
        text="",
        duration_seconds=sum(part.seconds for part in parts),
        downtime_seconds=parts[-1].seconds if over else None,
        transfer_bytes=sent,
        parts=parts,
    )


def shut_down(seconds: float, start: float = 1.5, vm: str = "db", target: str = "h2") -> Past:
    return ended(
        planned(vm, target),
        MeasuredPart(part=Part.SHUT_DOWN, seconds=seconds),
        MeasuredPart(part=Part.START, seconds=start),
    )


def ignored(vm: str = "db") -> Past:
    part = MeasuredPart(part=Part.SHUT_DOWN, seconds=GIVEN_UP_SECONDS, is_over=False)
    return ended(planned(vm), part)


def test_what_was_never_seen_is_assumed_and_said_to_be() -> None:
    estimate = cold.cold(DB, H2, UNLEARNED)

    assert estimate.duration_seconds == pytest.approx(62)
    assert estimate.confidence is Confidence.LOW
    assert "shut down in 60 s (assumed)" in cold.told(DB, H2, UNLEARNED)


def test_one_shutdown_of_a_guest_tells_of_its_next_and_the_plan_says_so() -> None:
    habits = learned_parts([shut_down(3.0)])
    estimate = cold.cold(DB, H2, habits)

    assert estimate.parts[0].seconds == 3.0
    assert 3.0 < estimate.parts[0].upper_seconds <= 10.0
    assert estimate.duration_upper_seconds < 20
    assert estimate.downtime_seconds == pytest.approx(estimate.duration_seconds + BOOT_SECONDS)
    assert estimate.confidence is Confidence.MEDIUM
    assert "shut down in 3.0 s (learned from its own last 1)" in cold.told(DB, H2, habits)


def test_other_guests_move_what_is_expected_of_a_guest_only_little_by_little() -> None:
    few = learned_parts([shut_down(3.0, vm=f"v{n}") for n in range(3)]).of_shutdown(DB)
    many = learned_parts([shut_down(3.0, vm=f"v{n}") for n in range(40)]).of_shutdown(DB)

    assert 30 < few.seconds < 60
    assert few.upper_seconds >= 78
    assert many.seconds < 12
    assert many.seconds < many.upper_seconds < 20


def test_one_guest_that_was_moved_often_is_one_guest() -> None:
    often = learned_parts([shut_down(3.0)] * 15).of_shutdown(VmId("another"))

    assert often.learned_from == 1
    assert often.seconds > 45


def test_a_guest_that_ignored_a_request_may_take_until_it_is_given_up_again() -> None:
    habits = learned_parts([shut_down(4.0), ignored(), shut_down(5.0)])
    estimate = cold.cold(DB, H2, habits)

    assert estimate.parts[0].seconds == 5.0
    assert estimate.parts[0].upper_seconds == GIVEN_UP_SECONDS
    assert "it ignored 1 of 3 requests" in cold.told(DB, H2, habits)


def test_a_guest_that_never_shut_down_is_not_expected_to() -> None:
    span = learned_parts([ignored(), ignored()]).of_shutdown(DB)

    assert span.seconds == span.upper_seconds - 4.0 - span.seconds == GIVEN_UP_SECONDS
    assert span.given_up == 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nine_of_ten_shutdowns_end_within_their_bands(seed: int) -> None:
    """Guests between seconds and minutes, each off by a third from one time to the next."""
    random = np.random.default_rng(seed)
    usual = {f"v{n}": float(random.uniform(2, 90)) for n in range(30)}

    def once(vm: str) -> Past:
        return shut_down(usual[vm] * float(random.lognormal(0, 0.33)), vm=vm)

    past = [once(vm) for _ in range(3) for vm in usual]
    habits = learned_parts(past)
    following = [once(vm) for _ in range(10) for vm in usual]
    within = [
        outcome.parts[0].seconds <= habits.of_shutdown(migration.vm).upper_seconds
        for migration, outcome in following
    ]

    assert 0.85 <= sum(within) / len(within) <= 0.99


def test_starts_are_learned_for_each_target() -> None:
    slow = [shut_down(3.0, start=20.0, target="slow", vm=f"v{n}") for n in range(20)]
    quick = [shut_down(3.0, start=1.0, target="quick", vm=f"v{n}") for n in range(20)]
    habits = learned_parts([*slow, *quick])

    assert habits.of_start(HostId("slow")).seconds == pytest.approx(18, abs=2)
    assert habits.of_start(HostId("quick")).seconds < 5


def through_storage(ideal: float, write: float, read: float) -> Past:
    migration = planned(saved_to="vmstore")
    parts = tuple(
        PredictedPart(part=part, seconds=0.0, upper_seconds=0.0, ideal_seconds=ideal)
        for part in (Part.SAVE, Part.RESTORE)
    )
    predicted = replace(migration.predicted, parts=parts)
    return ended(
        replace(migration, predicted=predicted),
        MeasuredPart(part=Part.SAVE, seconds=write),
        MeasuredPart(part=Part.RESTORE, seconds=read),
    )


def test_a_storage_that_is_slower_than_stated_is_learned_for_each_way() -> None:
    """Written at half of the rate that the policy states, read back at all of it."""
    sizes = (5.0, 10.0, 20.0, 40.0, 80.0, 15.0, 30.0, 60.0)
    past = [through_storage(x, write=1.0 + 2 * x, read=3.0 + x) for x in sizes]
    write, read = learned_parts(past).of_saving("vmstore")

    assert write.efficiency_ratio == pytest.approx(0.5, rel=0.3)
    assert write.span(50.0).seconds == pytest.approx(101, rel=0.2)
    assert read.span(50.0).seconds == pytest.approx(53, rel=0.05)
    assert learned_parts(past).of_saving("another") == (StoragePace(), StoragePace())


def test_a_pause_through_a_storage_is_predicted_with_what_was_learned() -> None:
    guest = Guest(memory_bytes=8 * GIB, dirty_bytes_per_second=0.0, working_set_bytes=0.0)
    stated = saved(guest, 100.0 * MIB)
    past = [through_storage(x, write=2 * x, read=2 * x) for x in range(5, 85, 5)]
    learned = saved(guest, 100.0 * MIB, learned_parts(past).of_saving("vmstore"))

    assert learned.downtime_seconds == pytest.approx(1.6 * stated.downtime_seconds, rel=0.2)
    assert learned.downtime_upper_seconds < 1.5 * learned.downtime_seconds
    assert [part.learned_from for part in learned.parts] == [16, 16]


# Disks --------------------------------------------------------------------------------------

LINE = Line.of(200.0 * MIB)
VM = a_vm("db", **with_disks(a_disk(capacity_bytes=20 * GIB), writes=None))


def copied(seconds: float, target: str = "h2", sent: float | None = None) -> Past:
    """A disk of 20 GiB copied at a granted 200 MiB/s: nothing held up takes 105 s."""
    migration = replace(
        TEMPLATE, target=HostId(target), bytes_per_second=200.0 * MIB, disks=VM.local_disks
    )
    part = MeasuredPart(part=Part.DISKS, seconds=seconds, transfer_bytes=sent)
    return ended(migration, part)


def predicted_seconds(past: Iterable[Past], target: str = "h2") -> float:
    pace = learned_parts(past).of_disks(VM, HostId(target))
    found = disks.copy_of(VM, LINE, pace)
    assert found is not None
    return found.seconds


def test_a_target_that_takes_less_than_is_granted_is_learned_with_its_folder() -> None:
    alone = predicted_seconds([])

    assert predicted_seconds([copied(220.0)]) == alone
    assert predicted_seconds([copied(220.0)] * 3) == pytest.approx(218, rel=0.03)
    assert predicted_seconds([copied(220.0)] * 3, target="another") == alone


def test_what_was_learned_of_a_target_holds_when_it_came_true() -> None:
    once = predicted_seconds([copied(220.0)] * 3)

    assert predicted_seconds([copied(once + 2.3)] * 20) == pytest.approx(once, rel=0.01)


def test_copies_that_kept_their_bandwidth_say_that_a_target_is_not_in_the_way() -> None:
    assert predicted_seconds([*[copied(107.0)] * 5, *[copied(220.0)] * 3]) == predicted_seconds([])


def test_what_a_guest_wrote_while_its_disks_were_copied_raises_what_is_assumed() -> None:
    size = 20 * GIB
    quiet = learned_parts([copied(110.0, sent=float(size))]).of_disks(VM, H2)
    busy = learned_parts([copied(110.0, sent=size + 110 * 40.0 * MIB)]).of_disks(VM, H2)

    assert disks.write_bytes_per_second(VM, quiet) == disks.write_bytes_per_second(VM)
    assert disks.write_bytes_per_second(VM, busy) == pytest.approx(40 * MIB)


# What is shown ------------------------------------------------------------------------------


def test_predictions_of_parts_are_judged_whichever_way_a_migration_ended() -> None:
    past = [shut_down(60.0), shut_down(30.0), ignored()]
    shutdowns, starts = part_accuracy_of(past)

    assert (shutdowns.part, shutdowns.migrations, shutdowns.given_up) == (Part.SHUT_DOWN, 3, 1)
    assert shutdowns.duration.in_band_ratio == pytest.approx(2 / 3)
    assert starts.migrations == 2


def test_a_pause_that_is_seen_from_off_to_on_is_compared_with_just_that() -> None:
    (whole, _) = accuracy_of([shut_down(3.0, start=2.0)])

    assert whole.downtime.median_ratio == pytest.approx(0.0)
    assert whole.downtime.in_band_ratio == 1.0


def test_what_was_learned_is_listed_by_what_it_is_about() -> None:
    past = [shut_down(3.0), through_storage(10.0, 12.0, 11.0), *[copied(220.0)] * 2, ignored("web")]
    shown = [(each.part, each.of, each.given_up) for each in calibrate([], past).parts.listed()]

    assert shown == _listed(
        (Part.SHUT_DOWN, "", 1),
        (Part.SHUT_DOWN, "db", 0),
        (Part.SHUT_DOWN, "web", 1),
        (Part.START, "", 0),
        (Part.START, "h2", 0),
        (Part.SAVE, "vmstore", 0),
        (Part.RESTORE, "vmstore", 0),
        (Part.DISKS, f"h2:{VM.local_disks[0].folder}", 0),
    )


def _listed(*rows: tuple[Part, str, int]) -> Sequence[tuple[Part, str, int]]:
    return list(rows)
