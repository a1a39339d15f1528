"""From a placement to a plan: what moves, how, after what, when, and what that will take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import Migration, Placement, Plan, Unmoved, Verdict
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.prediction import Prediction
from rebalancer.planning.commands import commands_for, uri_of
from rebalancer.planning.deadline import latest_ends, prove
from rebalancer.planning.habits import Calibration
from rebalancer.planning.hours import not_in_hours, seconds_until_open
from rebalancer.planning.jobs import RANK, handover_seconds
from rebalancer.planning.mode_reasons import reason_for
from rebalancer.planning.order import Ordered
from rebalancer.planning.outlook import host_outlooks
from rebalancer.planning.power import power_steps
from rebalancer.planning.routing import Router
from rebalancer.planning.schedule import Timetable, schedule
from rebalancer.planning.timeline import Slot


def make_plan(
    snapshot: Snapshot,
    demand: Demand,
    policy: Policy,
    placement: Placement,
    *,
    plan_id: str,
    creator: str,
    created_at: datetime,
    expires_at: datetime,
    verdict: Verdict,
    uris: Mapping[HostId, str] | None = None,
    deadline_seconds: float | None = None,
    calibration: Calibration | None = None,
) -> Plan:
    """Plan the migrations that lead from `snapshot` to `placement`.

    A VM that cannot be moved, or not in a permitted way, or not without breaking a limit on
    the way, is left where it is and listed with every reason; the others move all the same. So
    is one that can wait and would not be over before a maintenance window closes.
    `uris` are where the hosts' hypervisors are reached, for the commands that are printed.
    `calibration` is what earlier migrations taught about these hosts.
    With a deadline the verdict is `BLOCKED` unless even the upper ends of all bands are before it.
    """
    late: dict[VmId, str] = {}
    while True:
        wanted = _without(snapshot, placement, late)
        router = Router(snapshot, demand, policy, wanted, calibration or Calibration())
        order, unmoved, violations_after = router.order()
        table = schedule(order.moves, policy.limits, handover_seconds(snapshot))
        if not (more := not_in_hours(order.moves, table.slots, policy.migration, created_at)):
            break
        late |= more
    unmoved += [Unmoved(vm=vm, reasons=(why,), waits_for_window=True) for vm, why in late.items()]
    migrations = _migrations(order.moves, table)
    moved = {migration.vm: migration.target for migration in migrations}
    stay = _merged(snapshot, [*placement.unmoved, *unmoved])
    proof = None
    if deadline_seconds is not None:
        # A deadline counts from now, the schedule from when the window opens.
        wait = seconds_until_open(order.moves, policy.migration, created_at)
        ends = [wait + end for end in latest_ends(order.moves, table.slots, policy.limits)]
        proof = prove(snapshot, order.moves, ends, stay, deadline_seconds)
        verdict = proof.refusal or verdict
    return Plan(
        id=plan_id,
        cluster=snapshot.cluster,
        creator=creator,
        created_at=created_at,
        expires_at=expires_at,
        policy=policy.name,
        policy_fingerprint=policy.fingerprint,
        snapshot_fingerprint=snapshot.fingerprint,
        snapshot_taken_at=snapshot.taken_at,
        verdict=verdict,
        objective=placement.objective,
        hosts=host_outlooks(snapshot, demand, moved),
        migrations=migrations,
        unmoved=stay,
        above_band=placement.above_band,
        power=power_steps(snapshot, demand, policy, migrations),
        makespan_seconds=table.makespan_seconds,
        makespan_lower_bound_seconds=table.lower_bound_seconds,
        commands=_commands(snapshot, order.moves, table, migrations, uris),
        violations_before=router.violations_before,
        violations_after=violations_after,
        deadline_seconds=deadline_seconds,
        makespan_upper_seconds=proof.latest_end_seconds if proof else None,
        breaks_deadline=proof.breaks if proof else (),
    )


def _without(snapshot: Snapshot, placement: Placement, vms: Collection[VmId]) -> Placement:
    """The same placement with some VMs left where they are."""
    stay = {vm: snapshot.assignment[vm] for vm in vms}
    return replace(placement, assignment={**placement.assignment, **stay}) if vms else placement


def _merged(snapshot: Snapshot, unmoved: Iterable[Unmoved]) -> tuple[Unmoved, ...]:
    """One entry for each VM, with its name and all its reasons."""
    reasons: dict[VmId, dict[str, None]] = {}
    held: set[VmId] = set()
    for each in unmoved:
        reasons.setdefault(each.vm, {}).update(dict.fromkeys(each.reasons))
        if not each.waits_for_window:
            held.add(each.vm)
    return tuple(
        Unmoved(
            vm=vm,
            vm_name=snapshot.vm_by_id[vm].name,
            reasons=tuple(found),
            waits_for_window=vm not in held,
        )
        for vm, found in reasons.items()
    )


@dataclass(frozen=True, slots=True)
class _Numbered:
    """Positions in the order of their start, and what each is called."""

    in_order: tuple[int, ...]
    name: Mapping[int, str]

    @classmethod
    def of(cls, moves: Sequence[Ordered], slots: Sequence[Slot]) -> _Numbered:
        in_order = sorted(
            range(len(moves)),
            key=lambda p: (slots[p].start_seconds, RANK[moves[p].move.priority], p),
        )
        return cls(tuple(in_order), {p: f"m{n}" for n, p in enumerate(in_order, start=1)})


def _migrations(moves: Sequence[Ordered], table: Timetable) -> tuple[Migration, ...]:
    numbered = _Numbered.of(moves, table.slots)
    direct = _without_implied(moves)
    return tuple(
        _migration(
            moves[position],
            table.slots[position],
            numbered.name[position],
            tuple(numbered.name[p] for p in numbered.in_order if p in direct[position]),
        )
        for position in numbered.in_order
    )


def _without_implied(moves: Sequence[Ordered]) -> list[frozenset[int]]:
    """Leave out of each migration's dependencies those that others of them wait for anyway."""
    behind: list[frozenset[int]] = []
    direct: list[frozenset[int]] = []
    for ordered in moves:
        implied = frozenset().union(*(behind[each] for each in ordered.depends_on))
        direct.append(ordered.depends_on - implied)
        behind.append(ordered.depends_on | implied)
    return direct


def _migration(ordered: Ordered, slot: Slot, name: str, depends_on: tuple[str, ...]) -> Migration:
    move, estimate = ordered.move, slot.estimate
    return Migration(
        id=name,
        vm=move.vm.id,
        vm_name=move.vm.name,
        source=move.source,
        target=move.target,
        mode=move.choice.mode,
        mode_reason=reason_for(move.choice, slot.bytes_per_second),
        reason=move.reason,
        priority=move.priority,
        wave=ordered.depth,
        depends_on=depends_on,
        bytes_per_second=slot.bytes_per_second,
        max_downtime_seconds=move.choice.max_downtime_seconds(slot.bytes_per_second),
        memory_bytes=move.vm.memory_bytes,
        saved_to=move.choice.saved_to,
        disks=move.vm.local_disks,
        predicted=Prediction(
            start_seconds=slot.start_seconds,
            duration_seconds=estimate.duration_seconds,
            duration_upper_seconds=estimate.duration_upper_seconds,
            downtime_seconds=estimate.downtime_seconds,
            downtime_upper_seconds=estimate.downtime_upper_seconds,
            transfer_bytes=estimate.transfer_bytes,
            confidence=estimate.confidence,
            rounds=estimate.rounds,
            switchover_seconds=estimate.switchover_seconds,
            parts=estimate.parts,
        ),
    )


def _commands(
    snapshot: Snapshot,
    moves: Sequence[Ordered],
    table: Timetable,
    migrations: Sequence[Migration],
    uris: Mapping[HostId, str] | None,
) -> dict[str, tuple[str, ...]]:
    in_order = _Numbered.of(moves, table.slots).in_order
    host = snapshot.host_by_id
    return {
        migration.id: commands_for(
            migration,
            moves[position].move.vm,
            table.slots[position].estimate,
            uri_of(host[migration.source], uris),
            uri_of(host[migration.target], uris),
        )
        for migration, position in zip(migrations, in_order, strict=True)
    }
