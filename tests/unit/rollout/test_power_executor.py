"""Switching hosts: what is written, what is told, and what follows from what is seen."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import LockHeldError
from rebalancer.rollout.power import CutPower, Sleep, Wake
from rebalancer.rollout.power_executor import note_asleep, settle, sleep, wake
from tests.builders import GIB, a_host
from tests.machines import Crash, Machine, Room, a_room

H1 = HostId("h1")


def nothing_against(_: object) -> tuple[str, ...]:
    return ()


def asleep(room: Room) -> None:
    assert sleep(a_host("h1"), room.tools(), nothing_against).done


def test_an_empty_host_is_asked_to_shut_down_and_sleeps_when_it_is_off(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        outcome = sleep(a_host("h1"), room.tools(), nothing_against)

        assert outcome.done
        assert room.phase("h1") == "asleep"
        assert room.machines.told == [Sleep(host=H1)]
        lines = [record.text for record in reversed(room.journal.records("test"))]
        assert lines[0] == "is going to be told to sleep"
        assert lines[-1].startswith("falling asleep -> asleep")


def test_a_sleeping_host_is_remembered_with_its_size(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)

        size = room.journal.marks("test")[H1].size
        assert size is not None
        assert (size.cpu_cores, size.memory_bytes) == (16.0, 64 * GIB)


def test_a_woken_host_counts_when_its_libvirt_answers(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)
        before = room.clock.now()

        outcome = wake(H1, room.tools())

        assert outcome.done
        assert room.phase("h1") == "awake"
        assert (room.clock.now() - before).total_seconds() >= 120


def test_a_host_that_does_not_wake_is_quarantined_with_the_reason(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)
        room.machines["h1"].boots = False

        outcome = wake(H1, room.tools())

        assert not outcome.done
        assert "did not wake within 300 s: its power is off" in outcome.text
        assert room.phase("h1") == "quarantined"


def test_a_host_whose_libvirt_does_not_come_up_is_quarantined(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)
        room.machines["h1"].libvirt_hangs = True

        outcome = wake(H1, room.tools())

        assert "its power is on, its libvirt does not answer: no route to host" in outcome.text
        assert room.phase("h1") == "quarantined"


def test_a_bmc_that_refuses_to_wake_is_a_failed_wake(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)
        room.machines["h1"].takes_commands = False

        assert "the BMC refused" in wake(H1, room.tools()).text
        assert room.phase("h1") == "quarantined"


def test_waking_it_by_hand_ends_a_quarantine(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)
        room.machines["h1"].boots = False
        wake(H1, room.tools())
        room.machines["h1"].boots = True

        assert wake(H1, room.tools()).done
        assert room.phase("h1") == "awake"


def test_a_host_that_may_be_shutting_down_is_not_taken_for_awake(tmp_path: Path) -> None:
    """Its libvirt answers until it is off, and what is placed on it then goes down with it."""
    with a_room(tmp_path, h1=Machine()) as room:

        def die_after_the_command(moment: str) -> None:
            if moment == "after Sleep":
                raise Crash

        room.machines.before_each = die_after_the_command
        with suppress(Crash):
            sleep(a_host("h1"), room.tools(), nothing_against)

        assert wake(H1, room.tools()).done
        assert room.machines["h1"].is_on
        assert room.machines.told == [Sleep(host=H1), Wake(host=H1)]


def test_a_host_that_was_never_told_to_sleep_is_awake_when_that_is_sure(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:

        def die_before_the_command(moment: str) -> None:
            if moment == "issue Sleep":
                raise Crash

        room.machines.before_each = die_before_the_command
        with suppress(Crash):
            sleep(a_host("h1"), room.tools(), nothing_against)

        assert wake(H1, room.tools()).done
        assert room.machines["h1"].is_on
        assert room.machines.told == []


def test_a_quarantined_host_is_left_alone_although_it_came_up(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)
        room.machines["h1"].boots = False
        wake(H1, room.tools())
        room.machines["h1"].is_on = True

        assert settle(room.tools()) == ()
        assert room.phase("h1") == "quarantined"


def test_a_host_that_ignores_the_shutdown_is_quarantined_and_keeps_its_power(
    tmp_path: Path,
) -> None:
    with a_room(tmp_path, h1=Machine(shuts_down=False)) as room:
        outcome = sleep(a_host("h1"), room.tools(), nothing_against)

        assert "still on 300 s after it was told to shut down" in outcome.text
        assert room.phase("h1") == "quarantined"
        assert room.machines["h1"].is_on
        assert CutPower(host=H1) not in room.machines.told


def test_power_is_not_cut_while_libvirt_answers_even_where_that_is_allowed(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine(shuts_down=False)) as room:
        sleep(a_host("h1"), room.tools(cuts_power=True), nothing_against)

        assert CutPower(host=H1) not in room.machines.told


def test_power_is_cut_once_where_allowed_when_a_host_hangs_in_shutting_down(
    tmp_path: Path,
) -> None:
    with a_room(tmp_path, h1=Machine(shuts_down=False)) as room:
        machine = room.machines["h1"]

        def hang(what: str) -> None:
            machine.libvirt_hangs = machine.libvirt_hangs or what == "after Sleep"

        room.machines.before_each = hang

        outcome = sleep(a_host("h1"), room.tools(cuts_power=True), nothing_against)

        assert outcome.done
        assert room.machines.told == [Sleep(host=H1), CutPower(host=H1)]
        assert room.phase("h1") == "asleep"


def test_what_speaks_against_it_leaves_a_host_alone(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        outcome = sleep(a_host("h1"), room.tools(), lambda _: ("it has VMs: db1",))

        assert outcome.text == "it has VMs: db1"
        assert room.machines.told == []
        assert room.phase("h1") == "awake"


def test_a_vm_that_is_started_in_the_last_moment_saves_its_host(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        machine = room.machines["h1"]
        room.journal.before_each = lambda _: machine.guests.append("db1")

        outcome = sleep(a_host("h1"), room.tools(), nothing_against)

        assert outcome.text == "it is not empty any more"
        assert room.machines.told == []
        assert room.phase("h1") == "awake"


def test_a_host_whose_power_cannot_be_read_is_not_put_to_sleep(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine(tells_power=False)) as room:
        outcome = sleep(a_host("h1"), room.tools(), nothing_against)

        assert "its power is unknown: the BMC does not answer" in outcome.text
        assert room.machines.told == []


def test_a_host_whose_bmc_refused_to_switch_it_off_is_used_again_when_that_is_sure(
    tmp_path: Path,
) -> None:
    with a_room(tmp_path, h1=Machine(takes_commands=False)) as room:
        outcome = sleep(a_host("h1"), room.tools(), nothing_against)
        assert "nothing is placed on it for now" in outcome.text
        assert room.phase("h1") == "falling asleep"

        room.clock.sleep(300)
        settle(room.tools())

        assert room.phase("h1") == "awake"


def test_a_sleeping_host_that_somebody_switched_on_is_awake(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        asleep(room)
        room.machines["h1"].is_on = True

        (outcome,) = settle(room.tools())

        assert outcome.text == "it is awake"
        assert room.phase("h1") == "awake"


def test_a_host_that_is_off_already_can_be_noted(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine(is_on=False)) as room:
        assert note_asleep(a_host("h1"), room.tools()).done
        assert room.phase("h1") == "asleep"
        assert room.machines.told == []


def test_whoever_lost_the_lock_switches_nothing(tmp_path: Path) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        room.locks.release(room.lease)

        with pytest.raises(LockHeldError, match="lost the lock"):
            sleep(a_host("h1"), room.tools(), nothing_against)

        assert room.machines.told == []


@pytest.mark.parametrize("what", ["sleep", "wake"])
@pytest.mark.parametrize("at", range(12))
def test_a_crash_between_any_two_lines_is_understood_by_the_next_start(
    tmp_path: Path, what: str, at: int
) -> None:
    with a_room(tmp_path, h1=Machine()) as room:
        if what == "wake":
            asleep(room)
        seen = 0

        def die(_: str) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise Crash

        room.machines.before_each = die
        room.journal.before_each = die
        try:
            if what == "wake":
                wake(H1, room.tools())
            else:
                sleep(a_host("h1"), room.tools(), nothing_against)
        except Crash:
            pass
        room.machines.before_each = lambda _: None
        room.journal.before_each = lambda _: None
        told = list(room.machines.told)

        for _ in range(100):
            settle(room.tools())
            room.clock.sleep(5)

        is_on, phase = room.machines["h1"].is_on, room.phase("h1")
        assert room.machines.told == told, "the next start looks, and tells nothing by itself"
        assert (is_on, phase) in {(True, "awake"), (False, "asleep")}
