"""Hosts that were drained are used again, and the VMs that left them may come home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.plan import Plan, VerdictKind
from rebalancer.errors import ExitCode
from rebalancer.rollout.journal import Journal
from rebalancer.service import exit_codes, homecoming
from rebalancer.service.access import ReadAccess
from rebalancer.service.clock import SystemClock
from rebalancer.service.report import Format, render_outcomes, render_plan
from rebalancer.service.session import Session, observe, policy_for, request_for
from rebalancer.service.work import Work


def unmark(journal: Journal, cluster: str, hosts: Sequence[HostId], console: Console) -> None:
    """Take the drains of hosts back, and say so."""
    marked = journal.drains(cluster)
    for host in hosts:
        journal.unmark_drain(cluster, host, reason="rebalancer undrain")
        was = "may be used again" if host in marked else "was not being drained"
        console.print(f"{host} {was}", highlight=False, markup=False)


def bring_vms_home(
    work: Work,
    hosts: Sequence[HostId],
    policy: Path | None,
    output: Format,
    since: Mapping[HostId, datetime],
) -> ExitCode:
    """Carry out the way home of VMs that drains of these hosts moved away since then."""
    session, read = work.session, work.access.read
    in_force = policy_for(session, read, policy)
    plan, seen = planned_home(session, read, work.journal, hosts, policy, since)
    if output is not Format.JSON or not plan.migrations:
        show_way_home(session, plan, output)
    if not plan.migrations:
        return exit_codes.for_plan(plan)
    carried = work.carry_out(plan, seen, in_force)
    render_outcomes(plan, carried.result.outcomes, output, session.out)
    left = len(plan.unmoved)
    return exit_codes.for_drain(carried.exit_code, left=left)


def show_way_home(session: Session, plan: Plan, output: Format) -> None:
    """Show a plan of the way home; where nothing is away, a sentence says it all."""
    if output is Format.TABLE and plan.verdict.kind is VerdictKind.BALANCED:
        session.out.print(plan.verdict.text, highlight=False, markup=False)
    else:
        render_plan(plan, output, session.out)


def planned_home(
    session: Session,
    read: ReadAccess,
    journal: Journal | None,
    hosts: Sequence[HostId],
    policy: Path | None,
    since: Mapping[HostId, datetime] | None = None,
) -> tuple[Plan, Snapshot]:
    """Plan the way home as if the drains of these hosts were taken back already."""
    now = SystemClock().now()  # the journal's time, also in a rehearsal
    marked = journal.drains(read.cluster) if journal is not None else {}
    earliest = now - timedelta(seconds=homecoming.LOOK_BACK_SECONDS)
    given = since or {}
    counted = {
        host: given.get(host) or (marked[host].since if host in marked else earliest)
        for host in hosts
    }
    others = {host: mark.since for host, mark in marked.items() if host not in counted}
    seen = observe(session, read, undrained=hosts)
    back = min([*counted.values(), *others.values(), earliest])
    moves = journal.moves_since(back, read.cluster) if journal is not None else ()
    homes = homecoming.homes_of(moves, seen, counted, others)
    request = request_for(session, read)
    plan = homecoming.plan_homecoming(seen, policy_for(session, read, policy), request, homes)
    return plan, seen
