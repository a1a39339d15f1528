"""What a rollout knows of its cluster while it works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.errors import ObservationError
from rebalancer.service.lookout import Lookout, OccasionalLook, continued, looked_again
from tests.builders import GIB, NOON, a_host, a_snapshot, a_vm

LATER = NOON + timedelta(minutes=5)


def at(instant: datetime) -> Callable[[], datetime]:
    return lambda: instant


def test_a_host_that_falls_silent_is_unknown_and_keeps_its_vms() -> None:
    last = a_snapshot(vms=[a_vm("db", on="h1"), a_vm("web", on="h2")])
    silent = replace(a_host("h1", memory_bytes=0), state=HostState.UNKNOWN, state_reason="no route")
    seen = a_snapshot(hosts=[silent, a_host("h2")], vms=[a_vm("web", on="h2")])

    known = continued(last, seen)

    assert known.host_by_id[last.hosts[0].id].state is HostState.UNKNOWN
    assert known.host_by_id[last.hosts[0].id].memory_bytes == last.hosts[0].memory_bytes
    assert [vm.name for vm in known.vms_by_host[last.hosts[0].id]] == ["db"]


def test_a_vm_of_a_silent_host_that_is_seen_elsewhere_is_there() -> None:
    last = a_snapshot(vms=[a_vm("db", on="h1")])
    silent = a_host("h1", state=HostState.UNKNOWN)
    seen = a_snapshot(hosts=[silent, a_host("h2")], vms=[a_vm("db", on="h2")])

    known = continued(last, seen)

    assert [vm.host for vm in known.vms] == ["h2"]


def test_a_vm_that_was_started_meanwhile_takes_up_room() -> None:
    last = a_snapshot(vms=[a_vm("db", on="h1")])
    seen = a_snapshot(vms=[a_vm("db", on="h1"), a_vm("new", on="h2", memory_bytes=60 * GIB)])

    assert {vm.name for vm in continued(last, seen).vms} == {"db", "new"}


def test_a_vm_that_was_deleted_is_gone() -> None:
    last = a_snapshot(vms=[a_vm("db", on="h1")])

    assert continued(last, a_snapshot(vms=[])).vms == ()


def test_a_host_that_is_to_be_emptied_stays_so() -> None:
    last = a_snapshot(hosts=[a_host("h1", state=HostState.DRAINING), a_host("h2")])
    seen = a_snapshot(hosts=[a_host("h1"), a_host("h2")])

    assert continued(last, seen).hosts[0].state is HostState.DRAINING


def test_a_job_that_is_seen_on_a_vm_may_be_our_own_migration() -> None:
    last = a_snapshot(vms=[a_vm("db")])
    seen = a_snapshot(vms=[a_vm("db", blockers=("a migration is running",))])

    assert continued(last, seen).vms[0].blockers == ()


def test_a_measured_dirty_rate_is_not_forgotten() -> None:
    last = a_snapshot(vms=[a_vm("db", dirty_bytes_per_second=5e6, working_set_bytes=GIB)])
    seen = a_snapshot(vms=[a_vm("db", dirty_bytes_per_second=None, working_set_bytes=None)])

    known = continued(last, seen).vms[0]

    assert (known.dirty_bytes_per_second, known.working_set_bytes) == (5e6, GIB)


def test_a_move_that_ends_while_hosts_are_asked_counts_as_made_after_the_look() -> None:
    seen = replace(a_snapshot(), taken_at=LATER + timedelta(seconds=6))

    assert looked_again(a_snapshot(), lambda: seen, at(LATER)).taken_at == LATER


def test_when_nobody_answers_the_last_picture_stays() -> None:
    last = a_snapshot(vms=[a_vm("db")])

    def in_vain() -> Snapshot:
        raise ObservationError("not one of 2 hosts answered")

    assert looked_again(last, in_vain, at(LATER)) is last


def test_an_occasional_look_is_taken_only_when_it_is_due() -> None:
    first, second = a_snapshot(vms=[a_vm("db")]), a_snapshot(vms=[])
    times = iter([NOON, NOON + timedelta(seconds=5), LATER, LATER])
    look = OccasionalLook(first, lambda: second, lambda: next(times), every_seconds=15.0)

    assert look.newest() is first
    assert look.newest().vms == ()


def test_a_lookout_never_makes_anybody_wait_for_a_slow_host() -> None:
    first, asked, may_answer = a_snapshot(vms=[a_vm("db")]), threading.Event(), threading.Event()
    answered = threading.Event()

    def slowly() -> Snapshot:
        if asked.is_set():
            answered.set()
        asked.set()
        may_answer.wait(30)
        return a_snapshot(vms=[])

    with Lookout(first, slowly, at(LATER), every_seconds=0.001) as lookout:
        asked.wait(30)
        assert lookout.newest() is first
        may_answer.set()
        assert answered.wait(30)
        assert lookout.newest().vms == ()
