"""How it is found out what became of a call whose end nobody saw."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import pytest

from rebalancer.cluster.inventory import HostId, Mode, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.rollout.attempt import Attempt, Before
from rebalancer.rollout.calls import FROM_QEMU, Call
from rebalancer.rollout.chronicle import attempt_from, journal_entries, reply_entry
from rebalancer.rollout.driver import (
    Command,
    Failed,
    Look,
    Migrate,
    MoveDefinition,
    Returned,
    ShutDown,
    Start,
)
from rebalancer.rollout.left_over_commands import DiskFile, NoDiskFile
from rebalancer.rollout.prechecks import Scene
from rebalancer.rollout.precopy import Watch
from rebalancer.rollout.records import Entry, Record, RecordKind
from rebalancer.rollout.sightings import JobKind, TransferProgress
from rebalancer.rollout.stages import advance
from rebalancer.rollout.track import Heard, Surroundings, Times, Track, Turn, mandate_for
from tests.builders import GIB, NOON, a_host, a_snapshot, a_vm
from tests.unit.rollout.plans import a_migration
from tests.unit.rollout.sightings import a_sighting, paused, running

S = MigrationState
H1, H2 = HostId("h1"), HostId("h2")
BROKEN = Failed(text="Cannot recv data: Connection reset by peer", code=38)
SNAPSHOT = a_snapshot([a_host("h1"), a_host("h2")], [a_vm("vm1")])


def a_track(mode: Mode, *issued: Command, state: MigrationState = S.FINISH) -> Track:
    """A migration of which a dead process had asked for something."""
    migration = a_migration(mode=mode)
    was = VmState.SHUTOFF if mode is Mode.OFFLINE else VmState.RUNNING
    before = Before(state=was, persistent=True, autostart=False, memory_bytes=4 * GIB)
    attempt = Attempt(migration=migration, before=before, issued=issued, open_call=True)
    mandate = mandate_for(migration, SNAPSHOT, MigrationPermissions(), Times())
    watch = Watch.begun(NOON, 0.0)
    return Track(
        migration=migration,
        mandate=mandate,
        state=state,
        entered_at=NOON,
        attempt=attempt,
        watch=watch,
    )


@pytest.mark.parametrize(
    ("mode", "asked", "after"),
    [
        (Mode.OFFLINE, MoveDefinition(vm=a_vm().id, host=H1, target=H2), S.FINISH),
        (Mode.COLD, ShutDown(vm=a_vm().id, host=H1), S.FINISH),
        (
            Mode.LIVE,
            Migrate(
                vm=a_vm().id,
                host=H1,
                target=H2,
                bytes_per_second=1.0,
                max_downtime_seconds=0.5,
                persistent=True,
            ),
            S.TRANSFER,
        ),
    ],
)
def test_a_transfer_is_taken_for_ours_only_if_we_asked_for_one(
    mode: Mode, asked: Command, after: MigrationState
) -> None:
    moving = a_sighting(running(job=JobKind.MIGRATION_OUT), paused(job=JobKind.MIGRATION_IN))
    look = Heard(command=Look(vm=moving.vm, hosts=(H1, H2)), reply=Returned(value=moving))

    turn = advance(
        a_track(mode, asked), (look,), Surroundings(scene=Scene(snapshot=SNAPSHOT)), NOON
    )

    assert turn.track.state is after


START, SHUT_DOWN = Start(vm=a_vm().id, host=H2), ShutDown(vm=a_vm().id, host=H1)
REFUSED = replace(BROKEN, text="internal error: process exited", code=1, is_from_host=True)


@pytest.mark.parametrize(
    ("command", "reply", "is_open"),
    [
        (START, BROKEN, True),
        (START, replace(REFUSED, timed_out=True), True),
        (START, REFUSED, False),
        (START, Returned(), False),
        (SHUT_DOWN, BROKEN, False),
    ],
)
def test_the_journal_tells_that_a_start_may_still_come(
    command: Command, reply: Returned | Failed, is_open: bool
) -> None:
    track = a_track(Mode.COLD, command, state=S.TRANSFER)
    entries = [
        *journal_entries(track, Turn(track=track, commands=(command,))),
        reply_entry("m1", command, reply),
    ]

    found = attempt_from(track.migration, [_record(*each) for each in enumerate(entries)])

    assert found is not None
    assert found.open_call is is_open


class HypervisorSays(Exception):  # noqa: N818  what libvirt-python raises is no class of ours
    """An error as libvirt-python raises it."""

    def __init__(self, code: int, origin: int) -> None:
        super().__init__("internal error")
        self.code, self.origin = code, origin

    def get_error_code(self) -> int:
        return self.code

    def get_error_domain(self) -> int:
        return self.origin


@pytest.mark.parametrize(("origin", "is_from_host"), [(FROM_QEMU, True), (7, False), (13, False)])
def test_an_error_of_the_connection_is_told_from_one_of_the_host(
    origin: int, is_from_host: bool
) -> None:
    future: Future[TransferProgress | DiskFile | NoDiskFile | None] = Future()
    future.set_exception(HypervisorSays(1, origin))
    call = Call(name="Start vm1", future=future, since=NOON, limit_seconds=60.0)

    reply = call.reply(NOON, HypervisorSays)

    assert isinstance(reply, Failed)
    assert (reply.code, reply.is_from_host) == (1, is_from_host)


def _record(number: int, entry: Entry) -> Record:
    return Record(
        number=number,
        rollout=1,
        migration=entry.migration,
        at=NOON,
        kind=RecordKind(entry.kind),
        payload=entry.payload,
    )
