"""Which moves of a schedule are over before the maintenance window closes.

Only those that can wait are held to windows: moves for balance, unless the policy says more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import VmId
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.cluster.windows import closed_text, next_span, span_at
from rebalancer.planning.order import Ordered
from rebalancer.planning.timeline import Slot


def not_in_hours(
    moves: Sequence[Ordered],
    slots: Sequence[Slot],
    permissions: MigrationPermissions,
    now: datetime,
) -> Mapping[VmId, str]:
    """VMs whose moves do not fit into the window, each with the reason.

    Where none is open the plan is for the next one, if all of its moves can wait for that; what
    cannot wait is planned for now, without the others.
    """
    bound = [p for p, each in enumerate(moves) if permissions.keeps_to_windows(each.move.priority)]
    if not bound:
        return {}
    span = span_at(permissions.windows, now)
    begins = now
    if span is None:
        span = next_span(permissions.windows, now)
        if span is None or len(bound) < len(moves):
            why = closed_text(permissions.windows, now)
            return {moves[p].move.vm.id: why for p in bound}
        begins = span.opens_at
    found = {}
    for position in bound:
        slot = slots[position]
        ends = begins + timedelta(
            seconds=slot.start_seconds + min(slot.estimate.duration_upper_seconds, 1e8)
        )
        if ends > span.closes_at:
            late, closes = span.shown(_next_minute(ends)), span.shown(span.closes_at)
            found[moves[position].move.vm.id] = (
                f"it may take until {late}, and the maintenance window closes at {closes}"
            )
    return found


def seconds_until_open(
    moves: Sequence[Ordered], permissions: MigrationPermissions, now: datetime
) -> float:
    """How long moves that wait for a window wait for it: 0 where one is open, or none does."""
    if not any(permissions.keeps_to_windows(each.move.priority) for each in moves):
        return 0.0
    if span_at(permissions.windows, now) is not None:
        return 0.0
    coming = next_span(permissions.windows, now)
    return (coming.opens_at - now).total_seconds() if coming else 0.0


def _next_minute(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0) + timedelta(minutes=1)
