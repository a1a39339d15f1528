"""The commands that steer whoever changes the cluster: pause, resume, cancel, throttle.

They write what is wanted into the journal and move nothing themselves, so they need no `--yes`
and no lock. The process at work, an `apply` in another terminal or the daemon, heeds them within
two seconds; what is paused or throttled stays so until it is taken back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import MigrationState, Priority
from rebalancer.errors import ExitCode, UsageError
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import is_dead
from rebalancer.rollout.records import RolloutRow, RolloutStatus
from rebalancer.rollout.wishes import Wishes
from rebalancer.service import options
from rebalancer.service.clock import SystemClock
from rebalancer.service.session import Session, open_session, who_is_asking
from rebalancer.service.wording import ratio_text

MOST_REASON_CHARACTERS = 500
"""As over the API. Whoever is refused because of a pause is told the reason, on one line."""

Reason = Annotated[str, typer.Option("--reason", help="For those who wonder why.")]
AtOnce = Annotated[
    int | None,
    typer.Option("--at-once", min=1, help="So many migrations at a time at most."),
]
LinkShare = Annotated[
    float | None,
    typer.Option(
        "--link-share",
        parser=options.ratio,
        metavar="SHARE",
        help="At most this share of each link for migrations (30%, 0.3).",
    ),
]


def pause(config: options.Config = None, reason: Reason = "") -> ExitCode:
    """Start no more migrations in this cluster until `resume`; those under way go on."""
    if len(reason) > MOST_REASON_CHARACTERS:
        raise UsageError(
            f"--reason has {len(reason):,} characters, {MOST_REASON_CHARACTERS} is the most"
        )
    session = open_session(config)
    return _say(session, ask_to_pause(session, who_is_asking(), reason))


def resume(config: options.Config = None) -> ExitCode:
    """Let migrations be started again."""
    session = open_session(config)
    return _say(session, ask_to_resume(session))


def cancel(
    config: options.Config = None,
    abort: Annotated[
        bool,
        typer.Option("--abort", help="Call off running transfers, too, where that is possible."),
    ] = False,
    undrain: Annotated[
        bool,
        typer.Option(
            "--undrain", help="If it drains hosts, let VMs be placed on them again as well."
        ),
    ] = False,
) -> ExitCode:
    """End the rollout at work: nothing more is started, what runs comes to its end."""
    session = open_session(config)
    return _say(session, ask_to_cancel(session, abort=abort, undrain=undrain))


def throttle(
    config: options.Config = None,
    at_once: AtOnce = None,
    link_share: LinkShare = None,
    off: Annotated[bool, typer.Option("--off", help="As the policy says again.")] = False,
) -> ExitCode:
    """Let migrations use less than the policy allows, those under way included."""
    if off == (at_once is not None or link_share is not None):
        raise UsageError("say --at-once or --link-share or both, or else --off")
    session = open_session(config)
    return _say(session, ask_to_throttle(session, at_once, link_share, off=off))


def ask_to_pause(session: Session, who: str, reason: str) -> str:
    """Have nothing new started; return a sentence about it, as all of these do."""
    now = SystemClock().now()
    with session.journal() as journal:
        before = journal.wishes(session.settings.cluster)
        if before.paused_at is not None:
            return f"was paused already, {before.why_paused}"
        journal.wish(
            session.settings.cluster,
            lambda wishes: replace(wishes, paused_at=now, paused_by=who, reason=reason),
        )
        at_work = rollout_at_work(journal, session.settings.cluster)
    goes_on = f"; what plan {at_work.plan_id} has begun goes on" if at_work else ""
    return f"paused until `rebalancer resume` is run{goes_on}"


def ask_to_resume(session: Session) -> str:
    """Let migrations be started again."""
    with session.existing_journal() as journal:
        before = journal.wishes(session.settings.cluster) if journal else Wishes()
        if journal is None or before.paused_at is None:
            return "was not paused"
        journal.wish(
            session.settings.cluster,
            lambda wishes: replace(wishes, paused_at=None, paused_by="", reason=""),
        )
    return f"goes on; it was paused {before.why_paused}"


def ask_to_cancel(session: Session, *, abort: bool, undrain: bool = False) -> str:
    """End the rollout at work; with `undrain` the hosts that it empties may be used again."""
    cluster = session.settings.cluster
    with session.existing_journal() as journal:
        at_work = rollout_at_work(journal, cluster) if journal is not None else None
        if journal is None or at_work is None:
            return "nothing is being carried out"
        journal.wish(
            cluster,
            lambda wishes: replace(wishes, stop_rollout=at_work.id, stop_by_aborting=abort),
        )
        drained = _drained_by(journal, at_work)
        if undrain:
            for host in drained:
                journal.unmark_drain(cluster, host, reason="rebalancer cancel --undrain")
    how = "transfers are called off" if abort else "what was begun comes to its end"
    said = f"plan {at_work.plan_id} is being stopped: {how}"
    if not drained:
        return said
    names = " ".join(drained)
    if undrain:
        return f"{said}; may be used again: {names}"
    return f"{said}; nothing is placed on {names} until: rebalancer undrain {names}"


def _drained_by(journal: Journal, at_work: RolloutRow) -> tuple[HostId, ...]:
    """The hosts that a rollout is emptying because somebody wants them drained."""
    marked = journal.drains(at_work.cluster)
    leaving = {
        row.migration.source
        for row in journal.migrations(at_work.id)
        if row.migration.priority is Priority.DRAIN
    }
    return tuple(sorted(leaving & marked.keys()))


def ask_to_throttle(
    session: Session, at_once: int | None, link_share: float | None, *, off: bool
) -> str:
    """Hold migrations to less than the policy allows, or to that again."""
    with session.journal() as journal:
        wanted = journal.wish(
            session.settings.cluster,
            lambda wishes: replace(
                wishes,
                at_once=None if off else at_once or wishes.at_once,
                link_share=None if off else link_share or wishes.link_share,
            ),
        )
        copying = _copying_disks(journal, session.settings.cluster) if link_share else ()
    said = throttled_text(wanted) or "migrates as its policies say"
    if not copying:
        return said
    return (
        f"{said}; the pace at which local disks are being copied cannot be changed, so those of "
        f"{', '.join(copying)} go on as fast as they began, if they are not there yet, and memory "
        "after them more slowly (to stop them: rebalancer cancel --abort)"
    )


def _copying_disks(journal: Journal, cluster: str) -> tuple[str, ...]:
    """VMs under way whose local disks may be being copied: libvirt lets nobody slow that down."""
    at_work = rollout_at_work(journal, cluster)
    under_way = (MigrationState.REQUEST, MigrationState.TRANSFER)
    return tuple(
        row.migration.vm_name
        for row in (journal.migrations(at_work.id) if at_work is not None else ())
        if row.migration.disks and row.state in under_way
    )


def throttled_text(wishes: Wishes) -> str:
    """Say what migrations are held to beyond their policy; empty if nothing."""
    parts = []
    if wishes.at_once is not None:
        parts.append(f"{wishes.at_once} at a time")
    if wishes.link_share is not None:
        parts.append(f"{ratio_text(wishes.link_share)} of each link")
    return f"migrates at most {', with at most '.join(parts)}" if parts else ""


def rollout_at_work(journal: Journal, cluster: str) -> RolloutRow | None:
    """Find the rollout that a living process carries out just now."""
    holder = journal.holder(cluster)
    if holder is None or is_dead(holder.owner):
        return None
    running = [r for r in journal.unfinished(cluster) if r.status is RolloutStatus.RUNNING]
    return running[-1] if running else None


def _say(session: Session, text: str) -> ExitCode:
    said = f"cluster {session.settings.cluster}: {text}"
    session.out.print(said, highlight=False, markup=False, soft_wrap=True)
    return ExitCode.SUCCESS
