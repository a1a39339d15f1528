"""What follows when source and target of a migration both have the VM active.

It may just be on its way; then it is waited for. Otherwise something broke between the two, and
which copy is the VM has to be proved before anything is done to the other one. How the newer copy
is told from the older one, and what it takes to end that, is in `stale`.
"""

from __future__ import annotations

from rebalancer.cluster.inventory import VmState
from rebalancer.rollout.decisions import (
    Decision,
    LookAgain,
    Repair,
    StillMoving,
    when_all_answer,
)
from rebalancer.rollout.driver import EndStaleCopy, Pause
from rebalancer.rollout.endings import Endings
from rebalancer.rollout.sightings import DomainView, HostView, JobKind, StateReason
from rebalancer.rollout.stale import why_not_end


def active_on_both(end: Endings, source: DomainView, target: DomainView) -> Decision:
    """Decide by what the two hosts say of their copies."""
    attempt, reasons = end.attempt, (source.reason, target.reason)
    if StateReason.POST_COPY_FAILED in reasons:
        return post_copy_broken(end)
    if StateReason.POST_COPY in reasons or moves(source) or moves(target):
        return StillMoving(text="memory is being transferred")
    arrived = target.state is VmState.RUNNING and target.reason is StateReason.MIGRATED
    match source.state, target.state:
        case VmState.RUNNING, VmState.RUNNING if (
            arrived and source.reason is StateReason.MIGRATION_CANCELED
        ):
            return both_run(end)
        case VmState.PAUSED, VmState.RUNNING if arrived or attempt.stale_proof:
            return stale_copy(end, source, target)
        case VmState.PAUSED, VmState.RUNNING:
            return LookAgain(
                text=f"it runs on {attempt.target}, and did not arrive there by itself",
                then=end.split_brain(),
            )
        case VmState.RUNNING, VmState.RUNNING:
            return end.split_brain()
        case VmState.RUNNING, VmState.PAUSED if attempt.stale_on_source or attempt.stale_proof:
            return end.split_brain()  # somebody decided for the older copy
        case VmState.RUNNING, VmState.PAUSED:
            return LookAgain(
                text=f"an incoming copy is still on {attempt.target}",
                then=end.incoming_copy_left(),
            )
    return LookAgain(text="it stands still on both hosts", then=end.paused_on_both())


def both_run(end: Endings) -> Decision:
    """The link broke just after the target resumed: libvirt let the source run again.

    The target has run since; the source stood still for the whole time until the link was
    given up, so the source's copy is the stale one. Pausing it can be undone.
    """
    attempt = end.attempt
    return Repair(
        command=Pause(vm=attempt.vm, host=attempt.source),
        text=f"TWO COPIES run: the stale one on {attempt.source} is paused",
        then=end.split_brain(),
    )


def stale_copy(end: Endings, source: DomainView, target: DomainView) -> Decision:
    """The target's copy is the VM. The older one is ended only on the operator's word."""
    attempt, proof = end.attempt, end.attempt.stale_proof
    if not attempt.may_end_stale:
        return end.stale_copy()
    if proof is None:
        return end.stale_copy("the journal does not prove which copy is the older one")
    if source.reason is not StateReason.MIGRATION and not attempt.paused_by_us:
        return end.stale_copy(f"somebody else paused the copy on {attempt.source}")
    command = EndStaleCopy(
        vm=attempt.vm,
        host=attempt.source,
        keep=attempt.target,
        stale_reason=source.reason,
        kept_reason=target.reason,
        proof=proof.seen,
    )
    if against := why_not_end(command, source, target):
        return end.stale_copy(*against)
    repair = Repair(
        command=command,
        text=f"the stale copy on {attempt.source} is ended, as the operator wants",
        then=end.stale_copy("it did not end when it was told to"),
    )
    return when_all_answer(end.sighting, repair)


def post_copy_broken(end: Endings) -> Decision:
    """Neither host has the whole memory, and it may still come together by itself."""
    return LookAgain(
        text="the link broke in the post-copy phase: its memory is on both hosts",
        then=end.post_copy_broken(),
    )


def moves(view: HostView | None) -> bool:
    """Whether a migration job is on it."""
    jobs = (JobKind.MIGRATION_OUT, JobKind.MIGRATION_IN)
    return isinstance(view, DomainView) and view.job in jobs
