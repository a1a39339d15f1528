"""Hosts are emptied: what that would come to, and how it is done.

A drain is a state that is wanted: it is in the journal from the moment at which VMs begin to
leave, and until `undrain` nothing is placed on the host, whatever became of the command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.plan import Outcome, Plan
from rebalancer.cluster.policy import Policy
from rebalancer.errors import ExitCode
from rebalancer.service import exit_codes, hooks
from rebalancer.service.access import ReadAccess
from rebalancer.service.cycle import for_draining
from rebalancer.service.drain_outlook import DrainOutlook, drain_outlook
from rebalancer.service.drain_report import drain_tree
from rebalancer.service.hooks import UNSEEN, DrainDesk, left_on, silent_among
from rebalancer.service.permissions import with_cold_if
from rebalancer.service.report import (
    Format,
    drain_plan_tree,
    drained_tree,
    render_drain,
    render_outcomes,
    render_plan,
)
from rebalancer.service.session import Session, hosts_named, observe, plan_for, policy_for
from rebalancer.service.verdict import stuck_on_draining
from rebalancer.service.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainWish:
    """How hosts are to be drained, as it was said on the command line."""

    policy: Path | None = None
    allow_cold: bool = False
    probe: bool = False
    deadline_seconds: float | None = None
    output: Format = Format.TABLE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prospect:
    """What a drain would come to."""

    hosts: tuple[HostId, ...]
    seen: Snapshot
    policy: Policy
    plan: Plan
    outlook: DrainOutlook

    @property
    def left(self) -> int:
        """How many VMs could not leave; a host that does not answer counts as one."""
        return len(stuck_on_draining(self.seen, self.plan.unmoved)) + len(self.silent)

    @property
    def silent(self) -> tuple[HostId, ...]:
        """Its hosts of which nobody knows what is on them."""
        return silent_among(self.seen, self.hosts)

    @property
    def exit_code(self) -> ExitCode:
        """What it would end with if all went as planned; what is empty is empty."""
        if not self.outlook.leaving:
            return ExitCode.BLOCKED if self.silent else ExitCode.SUCCESS
        return exit_codes.for_drain(exit_codes.for_plan(self.plan), left=self.left)

    def tree(self) -> dict[str, Any]:
        """The plan and the table for machines."""
        return drain_plan_tree(self.plan, drain_tree(self.outlook))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drained:
    """How a drain went."""

    exit_code: ExitCode
    prospect: Prospect
    outcomes: tuple[Outcome, ...] | None
    """`None`: there was nothing to be moved, or nothing was begun."""
    left: Mapping[HostId, tuple[str, ...]]
    """The names of the VMs that are on each host now."""

    @property
    def is_empty(self) -> bool:
        """Whether all of its hosts are."""
        return self.exit_code is ExitCode.SUCCESS and not any(self.left.values())

    def tree(self) -> dict[str, Any]:
        """How it went, for machines."""
        about = drain_tree(self.prospect.outlook, self.left)
        if self.outcomes is None:
            return drain_plan_tree(self.prospect.plan, about)
        return drained_tree(self.prospect.plan, self.outcomes, about)


def foreseen(
    session: Session,
    read: ReadAccess,
    wish: DrainWish,
    hosts: Sequence[str],
    *,
    acts: bool = False,
) -> Prospect:
    """Look at the cluster and plan the drain of some hosts."""
    in_force = with_cold_if(wish.allow_cold, for_draining(policy_for(session, read, wish.policy)))
    seen = observe(session, read, also_drain=hosts)
    named = hosts_named(seen, hosts)
    for host in silent_among(seen, named):
        _tell(session, f"{host} does not answer, so nobody knows what is on it")
    cycle = plan_for(
        session,
        read,
        seen,
        in_force,
        deadline_seconds=wish.deadline_seconds,
        probe=wish.probe,
        acts=acts,
    )
    return Prospect(
        hosts=named,
        seen=seen,
        policy=in_force,
        plan=cycle.plan,
        outlook=drain_outlook(cycle.snapshot, in_force, cycle.plan, named),
    )


def show(session: Session, prospect: Prospect, output: Format, *, apply_with: str = "") -> None:
    """Write what becomes of each VM, and the plan."""
    names = {host.id: host.name for host in prospect.seen.hosts}
    render_drain(prospect.outlook, names, output, session.out)
    render_plan(prospect.plan, output, session.out, apply_with=apply_with)


def drain_hosts(work: Work, wish: DrainWish, hosts: Sequence[str]) -> Drained:
    """Empty hosts: show what is going to happen, mark them, move what can leave, look again."""
    session, read = work.session, work.access.read
    prospect = foreseen(session, read, wish, hosts, acts=True)
    if wish.output is not Format.JSON:
        show(session, prospect, wish.output)
    if prospect.plan.breaks_deadline:
        session.err.print("nothing was changed: the deadline cannot be promised", highlight=False)
        here = left_on(prospect.seen, prospect.hosts)
        return Drained(exit_code=ExitCode.BLOCKED, prospect=prospect, outcomes=None, left=here)
    with hooks.drain_desk(session.settings, work.access.hooks, work.lease, read.clock) as desk:
        _finish_for_the_dead(work, desk)
        number = desk.ask(prospect.hosts)
        drained = _emptied(work, wish, prospect)
        if wrong := desk.tell(number, drained.left):
            _tell(session, f"after_drain: {wrong}")
    return drained


def _finish_for_the_dead(work: Work, desk: DrainDesk) -> None:
    for line in desk.tell_for_the_dead(lambda: observe(work.session, work.access.read)):
        _tell(work.session, line)


def _emptied(work: Work, wish: DrainWish, prospect: Prospect) -> Drained:
    session, read, plan = work.session, work.access.read, prospect.plan
    for host in prospect.hosts:
        work.journal.mark_drain(prospect.seen.cluster, host, reason="rebalancer drain")
    code, outcomes = prospect.exit_code, None
    if plan.migrations:
        carried = work.carry_out(
            plan, prospect.seen, prospect.policy, lambda: _is_taken_back(work, prospect)
        )
        code, outcomes = carried.exit_code, carried.result.outcomes
        if wish.output is not Format.JSON:
            render_outcomes(plan, outcomes, wish.output, session.out)
    afterwards = observe(session, read)
    left = left_on(afterwards, prospect.hosts)
    _say_what_is_left(work, afterwards, left)
    code = exit_codes.for_drain(code, left=sum(map(len, left.values())))
    return Drained(exit_code=code, prospect=prospect, outcomes=outcomes, left=left)


def _is_taken_back(work: Work, prospect: Prospect) -> bool:
    """Whether an operator has said meanwhile that none of the hosts is to be empty.

    What is to leave a single one that was taken back the rollout skips by itself.
    """
    return not work.journal.drains(prospect.seen.cluster).keys() & set(prospect.hosts)


def _say_what_is_left(work: Work, snapshot: Snapshot, left: Mapping[HostId, Sequence[str]]) -> None:
    """Tell of each host whether it is empty, and whether it is still kept so."""
    marked = work.journal.drains(snapshot.cluster)
    for host, vms in left.items():
        name = snapshot.host_by_id[host].name
        has = f"still has {', '.join(vms)}" if vms else "is empty"
        if UNSEEN in vms:
            has = "does not answer, so nobody knows what is on it"
        if host in marked:
            then = f"nothing is placed on it until: rebalancer undrain {name}"
        else:
            then = "it may be used again, as its drain was taken back"
        _tell(work.session, f"{name} {has}; {then}")


def _tell(session: Session, text: str) -> None:
    session.err.print(text, highlight=False, markup=False, soft_wrap=True)
