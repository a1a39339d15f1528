"""How a cold move by a saved memory ended: what `reconcile` asks first for such a move.

The file with a guest's memory may be used once. Restored after the guest has run on, it would
put old memory on newer disks and ruin them. So it is read back in two steps: `Restore` loads it
and lets nothing run, which may be tried again; `Resume` lets the guest run, and from the moment
that it is in the journal the file is spent. And before either it takes proof that nobody else
has run the guest meanwhile: only libvirt's word that it is off *because it was saved*, which it
forgets when somebody starts the guest (or its daemon), and nothing on the target.
"""

from __future__ import annotations

from dataclasses import replace

from rebalancer.cluster.inventory import HostId, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.attempt import Attempt
from rebalancer.rollout.decisions import Decision, LookAgain, Repair, StillMoving
from rebalancer.rollout.driver import DiscardImage, Restore, Resume, Save
from rebalancer.rollout.endings import Ended, Endings
from rebalancer.rollout.sightings import (
    Absent,
    DomainView,
    HostView,
    JobKind,
    Sighting,
    StateReason,
    Unreachable,
)

_USED_UP_ENDS = frozenset(
    {MigrationState.COMPLETE, MigrationState.FAILED_SAFE, MigrationState.SKIPPED}
)
"""Ends at which the guest has run on, so that the file must not be there any more."""


def decide(attempt: Attempt, sighting: Sighting, end: Endings) -> Decision | None:
    """What is so only because memory was saved; `None`: what is so for every migration."""
    source, target = _view(sighting, attempt.source), _view(sighting, attempt.target)
    ends = (attempt.source, attempt.target)
    if isinstance(source, Unreachable) or isinstance(target, Unreachable):
        return None
    if any(host not in ends for host in sighting.active_on):
        return None
    match _active(source), _active(target):
        case DomainView() as here, None:
            return _on_source(attempt, sighting, here, end)
        case None, DomainView() as there:
            return _on_target(attempt, sighting, there, end)
        case None, None if not sighting.unreachable:
            return _nowhere(attempt, sighting, end)
    return None


def _on_source(
    attempt: Attempt, sighting: Sighting, here: DomainView, end: Endings
) -> Decision | None:
    if here.job is JobKind.SAVE:
        return StillMoving(text="its memory is being written")
    if here.job is JobKind.RESTORE:
        return StillMoving(text=f"its memory is being read back on {attempt.source}")
    if attempt.has_issued(Restore, attempt.source) and is_loaded(here):
        return _let_run(attempt, sighting, attempt.source, end)
    return None


def _on_target(
    attempt: Attempt, sighting: Sighting, there: DomainView, end: Endings
) -> Decision | None:
    if there.job is JobKind.RESTORE:
        return StillMoving(text=f"its memory is being read back on {attempt.target}")
    if not is_loaded(there):
        return None
    if may_run_on_target(attempt, sighting):
        return _let_run(attempt, sighting, attempt.target, end)
    return LookAgain(
        text=f"it stands still on {attempt.target}, and may have run on {attempt.source} since",
        then=end.loaded_too_late(),
    )


def is_loaded(view: DomainView) -> bool:
    """Whether it stands still because its memory came from elsewhere, and not for a person."""
    return view.state is VmState.PAUSED and view.reason is StateReason.MIGRATION


def may_run_on_target(attempt: Attempt, sighting: Sighting, *, just_loaded: bool = False) -> bool:
    """Whether what was loaded on the target is the newest there is of the guest.

    `just_loaded`: this process saw the source say "saved", had it loaded, and looks again. If
    the source has forgotten meanwhile (libvirtd was restarted) that is as good.
    """
    source = _view(sighting, attempt.source)
    if not attempt.has_issued(Restore, attempt.target) or not isinstance(source, DomainView):
        return False
    forgot = source.state is VmState.SHUTOFF and source.reason is StateReason.OTHER
    return _is_off_as_saved(source) or (just_loaded and forgot)


def _let_run(attempt: Attempt, sighting: Sighting, host: HostId, end: Endings) -> Decision:
    then = end.not_resumed(host)
    if silent := sighting.unreachable:
        return LookAgain(
            text=f"{', '.join(silent)} does not answer", then=end.loaded_unseen(host, silent)
        )
    view = _view(sighting, host)
    if isinstance(view, DomainView) and view.job is not None:
        return LookAgain(text=f"a job ({view.job}) keeps it from going on on {host}", then=then)
    return Repair(
        command=Resume(vm=attempt.vm, host=host),
        text=f"its memory was read back on {host}: it goes on there",
        then=then,
    )


def _nowhere(attempt: Attempt, sighting: Sighting, end: Endings) -> Decision:
    image = attempt.image
    assert image is not None
    if is_unspent(attempt, sighting):
        return Repair(
            command=Restore(
                vm=attempt.vm, host=attempt.source, storage=image.storage, file=image.file
            ),
            text=f"the move did not succeed: its memory is read back on {attempt.source}",
            then=end.saved_and_down(),
        )
    source = _view(sighting, attempt.source)
    is_forgotten = isinstance(source, DomainView) and source.reason is StateReason.OTHER
    if is_forgotten and not attempt.has_issued(Resume):
        return end.saved_and_down()
    return end.down_and_image_spent()


def is_unspent(attempt: Attempt, sighting: Sighting) -> bool:
    """Whether it is proved that the guest has not run since it was saved."""
    return (
        not attempt.has_issued(Resume)
        and _is_off_as_saved(_view(sighting, attempt.source))
        and isinstance(_view(sighting, attempt.target), Absent)
        and not sighting.active_on
        and not sighting.unreachable
    )


def _is_off_as_saved(view: HostView) -> bool:
    return (
        isinstance(view, DomainView)
        and view.state is VmState.SHUTOFF
        and view.reason is StateReason.SAVED
    )


def tidied(attempt: Attempt, decision: Decision, end: Endings) -> Decision:
    """Delete the file before the end, or name it as left over."""
    image = attempt.image
    if image is None or attempt.image_is_gone:
        return decision
    match decision:
        case Ended(state=state) if state in _USED_UP_ENDS:
            return Repair(
                command=_discard(attempt, image, decision),
                text="the file with its memory is deleted: it may never be used again",
                then=_naming(decision, end),
            )
        case Repair(then=then) | LookAgain(then=then) if then.state in _USED_UP_ENDS:
            return replace(decision, then=_naming(then, end))
    return decision


def _discard(attempt: Attempt, image: Save, ended: Ended) -> DiscardImage:
    arrived = ended.state is MigrationState.COMPLETE
    host = attempt.target if arrived else attempt.source
    return DiscardImage(vm=attempt.vm, host=host, storage=image.storage, file=image.file)


def _naming(ended: Ended, end: Endings) -> Ended:
    return replace(ended, text=f"{ended.text}; {end.image_left()}")


def _view(sighting: Sighting, host: HostId) -> HostView:
    return sighting.views.get(host, Unreachable(why="it was not asked"))


def _active(view: HostView) -> DomainView | None:
    return view if isinstance(view, DomainView) and view.is_active else None
