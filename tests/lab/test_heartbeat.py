"""What a series of heartbeats says. Needs no lab."""

from __future__ import annotations

import pytest

from tests.lab.errors import LabError
from tests.lab.heartbeat import Beat, HeartbeatRecorder


def a_beat(sequence: int, *, boot_id: str = "b00", clock_seconds: float = 0) -> Beat:
    return Beat(
        guest="vm1",
        boot_id=boot_id,
        sequence=sequence,
        dirtied_pages=0,
        disk_mismatches=0,
        clock_seconds=clock_seconds,
    )


def a_recorder(*beats: tuple[float, Beat]) -> HeartbeatRecorder:
    """A recorder that began at second 0 and heard these beats at these seconds."""
    recorder = HeartbeatRecorder("vm1", now_seconds=0)
    for received_seconds, beat in beats:
        recorder.record(beat, received_seconds=received_seconds)
    return recorder


def test_a_steady_guest_ran_through() -> None:
    recorder = a_recorder((1, a_beat(7)), (2, a_beat(8)), (3, a_beat(9)))

    report = recorder.report(now_seconds=3.5)

    assert report.ran_through
    assert (report.beats, report.lost_beats, report.longest_gap_seconds) == (3, 0, 1)


def test_the_longest_gap_counts_a_guest_that_is_silent_still() -> None:
    recorder = a_recorder((1, a_beat(0)), (2, a_beat(1)))

    assert recorder.report(now_seconds=12).longest_gap_seconds == 10


def test_a_gap_that_began_before_the_mark_counts_from_the_mark() -> None:
    recorder = a_recorder((1, a_beat(0)))
    recorder.mark(now_seconds=5)
    recorder.record(a_beat(1), received_seconds=8)

    assert recorder.report(now_seconds=8).longest_gap_seconds == 3


def test_a_guest_whose_clock_went_on_in_a_gap_was_not_stopped_in_it() -> None:
    starved = a_recorder((1, a_beat(0, clock_seconds=11)), (9, a_beat(1, clock_seconds=19)))
    stopped = a_recorder((1, a_beat(0, clock_seconds=11)), (9, a_beat(1, clock_seconds=12)))

    assert starved.report(now_seconds=9).longest_gap_seconds == 8
    assert starved.report(now_seconds=9).longest_stop_seconds == 0
    assert stopped.report(now_seconds=9).longest_stop_seconds == 7


def test_a_stop_just_after_the_mark_is_seen_and_a_boot_is_none() -> None:
    recorder = a_recorder((1, a_beat(0, clock_seconds=11)))
    recorder.mark(now_seconds=1.1)
    recorder.record(a_beat(1, clock_seconds=11.5), received_seconds=4.5)
    recorder.record(a_beat(0, boot_id="b01", clock_seconds=3), received_seconds=60)

    assert recorder.report(now_seconds=60).longest_stop_seconds == 3


def test_beats_that_never_arrived_are_lost() -> None:
    recorder = a_recorder((1, a_beat(0)), (2, a_beat(4)))

    report = recorder.report(now_seconds=2)

    assert report.lost_beats == 3
    assert report.ran_through


def test_another_boot_id_means_that_the_guest_restarted() -> None:
    recorder = a_recorder((1, a_beat(50)), (2, a_beat(0, boot_id="b01")))

    report = recorder.report(now_seconds=2)

    assert report.restarted
    assert not report.ran_through


def test_a_restart_just_after_the_mark_is_seen() -> None:
    recorder = a_recorder((1, a_beat(50)))
    recorder.mark(now_seconds=1.5)
    recorder.record(a_beat(0, boot_id="b01"), received_seconds=2)

    assert recorder.report(now_seconds=2).restarted


def test_two_running_copies_repeat_each_others_numbers() -> None:
    recorder = a_recorder((1, a_beat(5)), (2, a_beat(6)), (2.01, a_beat(6)), (3, a_beat(7)))

    report = recorder.report(now_seconds=3)

    assert report.repeated_beats == 1
    assert not report.ran_through


def test_a_copy_restored_from_an_older_state_repeats_numbers_even_after_a_mark() -> None:
    recorder = a_recorder((1, a_beat(500)))
    recorder.mark(now_seconds=1)
    recorder.record(a_beat(100), received_seconds=2)

    assert recorder.report(now_seconds=2).repeated_beats == 1


def test_a_guest_that_was_never_heard_did_not_run_through() -> None:
    assert not a_recorder().report(now_seconds=1).ran_through


def test_the_agents_words_are_understood() -> None:
    beat = Beat.parse("beat vm1 00d1e7c0ffee1234 17 4096 0 12345")

    assert beat == Beat(
        guest="vm1",
        boot_id="00d1e7c0ffee1234",
        sequence=17,
        dirtied_pages=4096,
        disk_mismatches=0,
        clock_seconds=12.345,
    )


def test_other_words_are_refused() -> None:
    with pytest.raises(LabError, match="not a heartbeat"):
        Beat.parse("GET / HTTP/1.0")
