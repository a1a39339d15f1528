"""Bugs that somebody could make, planted on purpose: the judge has to find each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout import (
    chronicle,
    cold,
    finish,
    loop,
    reconcile,
    saved_ends,
    steps,
    two_copies,
)
from rebalancer.rollout.decisions import Repair
from rebalancer.rollout.driver import EndStaleCopy, Failed, RemoveDisk, Resume, Start
from rebalancer.rollout.endings import Ended
from rebalancer.rollout.records import RecordKind
from rebalancer.rollout.sightings import DomainView
from rebalancer.rollout.track import Turn


def _trusts_errors(track: Any, command: Any, reply: Any, now: Any) -> Turn:
    """What the migrate call says is taken for what happened."""
    turn = _FINISH(track, command, reply, now)
    if isinstance(reply, Failed):
        text = f"{track.migration.vm_name} runs on {track.migration.source}"
        return Turn(track=turn.track.enter(MigrationState.FAILED_SAFE, now, text))
    return turn


def _starts_blindly(track: Any, sighting: Any, around: Any, now: Any) -> Turn:
    """A silent host is taken for an empty one."""
    del sighting, around, now
    migration = track.migration
    return Turn(track=track).issuing(Start(vm=migration.vm, host=migration.target))


def _forgets_intents(before: Any, turn: Any) -> Any:
    """It acts, and writes nothing down before."""
    lines = _LINES(before, turn)
    return [line for line in lines if line.kind is not RecordKind.INTENT]


def _reserves_nothing(tracks: Any) -> tuple[()]:
    """Memory of VMs on their way is not counted on their targets."""
    del tracks
    return ()


def _ends_the_wrong_copy(end: Any, source: DomainView, target: DomainView) -> Any:
    """The operator wants the older copy to be ended, and the newer one is."""
    if not end.attempt.may_end_stale:
        return end.stale_copy()
    command = EndStaleCopy(
        vm=end.attempt.vm,
        host=end.attempt.target,
        keep=end.attempt.source,
        stale_reason=target.reason,
        kept_reason=source.reason,
        proof=0,
    )
    return Repair(command=command, text="ended", then=end.stale_copy())


def _ends_unasked(end: Any, source: DomainView, target: DomainView) -> Any:
    """What looks like a stale copy is ended at once; nobody is asked, nothing is proved."""
    command = EndStaleCopy(
        vm=end.attempt.vm,
        host=end.attempt.source,
        keep=end.attempt.target,
        stale_reason=source.reason,
        kept_reason=target.reason,
        proof=0,
    )
    return Repair(command=command, text="ended", then=end.stale_copy())


def _uses_images_twice(attempt: Any, sighting: Any) -> bool:
    """That the guest went on from its saved memory already is forgotten."""
    return _UNSPENT(replace(attempt, issued=_without_resume(attempt)), sighting)


def _without_resume(attempt: Any) -> tuple[Any, ...]:
    return tuple(command for command in attempt.issued if not isinstance(command, Resume))


def _deletes_old_disks(case: Any, target: DomainView) -> Any:
    """The VM has arrived with its disks, so those on the source are taken for rubbish."""
    decision, attempt = _ARRIVED(case, target), case.attempt
    left = [d.path for d in attempt.migration.disks if d.path not in attempt.disk_files.removed]
    if not isinstance(decision, Ended) or not left:
        return decision
    remove = RemoveDisk(vm=attempt.vm, host=attempt.source, path=left[0], keep=attempt.target)
    return Repair(command=remove, text="tidied up", then=decision)


def _forgets_left_overs(*of: Any) -> str:
    """What is left of disks is nobody's business."""
    del of
    return ""


def _waits_for_nothing(track: Any, times: Any, now: Any) -> bool:
    """The quiet time before a start elsewhere is not waited for."""
    del track, times, now
    return True


_ARRIVED = reconcile._Case.arrived
_UNSPENT = saved_ends.is_unspent
_FINISH = finish.enter
_LINES = chronicle.journal_entries

PLANTED: Mapping[str, tuple[object, str, Callable[..., Any]]] = {
    "trusts-errors": (finish, "enter", _trusts_errors),
    "starts-blindly": (cold, "_start_if_down", _starts_blindly),
    "forgets-intents": (loop, "journal_entries", _forgets_intents),
    "uses-images-twice": (saved_ends, "is_unspent", _uses_images_twice),
    "reserves-nothing": (steps, "_in_flight", _reserves_nothing),
    "ends-the-wrong-copy": (two_copies, "stale_copy", _ends_the_wrong_copy),
    "ends-unasked": (two_copies, "stale_copy", _ends_unasked),
    "deletes-old-disks": (reconcile._Case, "arrived", _deletes_old_disks),
    "waits-for-nothing": (finish, "_is_quiet", _waits_for_nothing),
    "forgets-left-overs": (finish, "left_behind", _forgets_left_overs),
}
"""Where each bug goes: module, function, and what it is replaced by."""


@contextmanager
def planted(bug: str) -> Iterator[None]:
    """Make the program worse for a while; an empty name leaves it as it is."""
    if not bug:
        yield
        return
    module, name, wrong = PLANTED[bug]
    with patch.object(module, name, wrong):
        yield
