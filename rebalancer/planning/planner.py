"""From a placement to a plan: what moves, how, after what, when, and what that will take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, HostState, Mode, Snapshot, Vm, VmId
from rebalancer.cluster.plan import (
    Migration,
    Placement,
    Plan,
    Prediction,
    Priority,
    Unmoved,
    Verdict,
)
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Violation
from rebalancer.cluster.violations import violations, worsened
from rebalancer.planning.accounts import Accounts
from rebalancer.planning.commands import commands_for, uri_of
from rebalancer.planning.jobs import RANK
from rebalancer.planning.modes import Choice, Refusal, choose, reason_for
from rebalancer.planning.network import Network
from rebalancer.planning.obstacles import obstacles
from rebalancer.planning.order import Move, Order, Ordered, order_moves
from rebalancer.planning.outlook import host_outlooks
from rebalancer.planning.schedule import Timetable, schedule
from rebalancer.planning.timeline import Slot

DETOUR_HOSTS = 8
"""Third hosts looked at for one VM: those with the most room."""

DETOUR_MODES = frozenset({Mode.OFFLINE, Mode.LIVE})
"""Going round costs two pauses, so neither may be a long one."""


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
) -> Plan:
    """Plan the migrations that lead from `snapshot` to `placement`.

    A VM that cannot be moved, or not in a permitted way, or not without breaking a limit on
    the way, is left where it is and listed with every reason; the others move all the same.
    `uris` are where the hosts' hypervisors are reached, for the commands that are printed.
    """
    router = _Router(snapshot, demand, policy, placement)
    order, unmoved, violations_after = router.order()
    table = schedule(order.moves, policy.limits)
    migrations = _migrations(order.moves, table)
    moved = {migration.vm: migration.target for migration in migrations}
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
        unmoved=_merged(snapshot, [*placement.unmoved, *unmoved]),
        makespan_seconds=table.makespan_seconds,
        makespan_lower_bound_seconds=table.lower_bound_seconds,
        commands=_commands(snapshot, order.moves, table, migrations, uris),
        violations_before=router.violations_before,
        violations_after=violations_after,
    )


class _Router:
    """Turns the wish that VMs were elsewhere into moves that can be carried out."""

    def __init__(
        self, snapshot: Snapshot, demand: Demand, policy: Policy, placement: Placement
    ) -> None:
        self._snapshot = snapshot
        self._demand = demand
        self._policy = policy
        self._placement = placement
        self._network = Network(snapshot, policy.limits)
        # Rules over many VMs are the slowest thing here, so they are asked as rarely as possible.
        self.violations_before = violations(snapshot, policy, demand, snapshot.assignment)
        self._accounts = Accounts(snapshot, policy, demand)
        self._broken_now = _hard(policy, self.violations_before)
        self._in_breach = {vm for violation in self._broken_now for vm in violation.vms}

    def order(self) -> tuple[Order, list[Unmoved], tuple[Violation, ...]]:
        """Order what can be moved; anything that would leave a rule more broken is taken out.

        A rule that binds VMs together can only be judged at the end, since VMs move one at a
        time. So where one of them has to stay, all of them do.
        """
        moves, unmoved = self._moves()
        while True:
            order = self._ordered(moves)
            broken = self._violations_after(order)
            worse = worsened(self._broken_now, _hard(self._policy, broken))
            dropped = {id(m): v for v in worse for m in _to_blame(moves, v)}
            if not dropped:
                break
            unmoved += [
                Unmoved(vm=m.vm.id, reasons=(f"without the others {dropped[id(m)].text}",))
                for m in moves
                if id(m) in dropped
            ]
            moves = [move for move in moves if id(move) not in dropped]
        unmoved += [Unmoved(vm=stuck.move.vm.id, reasons=(stuck.reason,)) for stuck in order.stuck]
        return order, unmoved, broken

    def _ordered(self, moves: Iterable[Move]) -> Order:
        self._accounts.undo(0)
        return order_moves(moves, self._accounts, self._detours)

    def _violations_after(self, order: Order) -> tuple[Violation, ...]:
        final = {**self._snapshot.assignment}
        final.update({each.move.vm.id: each.move.target for each in order.moves})
        return violations(self._snapshot, self._policy, self._demand, final)

    def _moves(self) -> tuple[list[Move], list[Unmoved]]:
        moves, unmoved = [], []
        for vm in self._snapshot.vms:
            target = self._placement.assignment.get(vm.id, vm.host)
            if target == vm.host:
                continue
            move = self._move(vm, target)
            if isinstance(move, Unmoved):
                unmoved.append(move)
            else:
                moves.append(move)
        moves.sort(key=lambda m: (RANK[m.priority], -m.vm.memory_bytes, m.vm.id))
        return moves, unmoved

    def _move(self, vm: Vm, target: HostId) -> Move | Unmoved:
        host = self._snapshot.host_by_id
        against = obstacles(vm, host[vm.host], host[target], self._policy)
        if against:
            return Unmoved(vm=vm.id, reasons=against)
        choice = self._choice(vm, vm.host, target)
        if isinstance(choice, Refusal):
            return Unmoved(vm=vm.id, reasons=choice.reasons)
        priority = self._priority(vm)
        return Move(
            vm=vm,
            source=vm.host,
            target=target,
            choice=choice,
            priority=priority,
            reason=self._placement.reasons.get(vm.id) or self._why(vm, priority),
        )

    def _choice(self, vm: Vm, source: HostId, target: HostId) -> Choice | Refusal:
        return choose(vm, self._network.path(source, target), self._policy.migration)

    def _priority(self, vm: Vm) -> Priority:
        state = self._snapshot.host_by_id[vm.host].state
        if state in (HostState.DRAINING, HostState.MAINTENANCE):
            return Priority.DRAIN
        return Priority.REPAIR if vm.id in self._in_breach else Priority.BALANCE

    def _why(self, vm: Vm, priority: Priority) -> str:
        host = self._snapshot.host_by_id[vm.host]
        if priority is Priority.DRAIN:
            return f"{host.name} is {host.state}"
        if priority is Priority.REPAIR:
            return next(v.text for v in self._broken_now if vm.id in v.vms)
        return f"it serves the goals of policy {self._policy.name}"

    def _detours(self, move: Move) -> Iterator[tuple[Move, Move]]:
        """The third hosts that could take a VM for a while, those with the most room first."""
        if move.choice.mode not in DETOUR_MODES:
            return
        found = 0
        for host in self._by_room(move):
            if obstacles(move.vm, self._host(move.source), host, self._policy):
                continue
            first = self._choice(move.vm, move.source, host.id)
            second = self._choice(move.vm, host.id, move.target)
            if isinstance(first, Choice) and isinstance(second, Choice):
                if not {first.mode, second.mode} <= DETOUR_MODES:
                    continue
                found += 1
                yield self._halves(move, host, first, second)
                if found == DETOUR_HOSTS:
                    return

    def _by_room(self, move: Move) -> list[Host]:
        near = {self._host(move.source).site, self._host(move.target).site}
        hosts = [
            host
            for host in self._snapshot.hosts
            if host.may_receive
            and host.id not in (move.source, move.target)
            and self._policy.applies.matches(host)
        ]
        return sorted(
            hosts, key=lambda h: (h.site not in near, -self._accounts.room_bytes(h.id), h.id)
        )

    def _host(self, host: HostId) -> Host:
        return self._snapshot.host_by_id[host]

    def _halves(self, move: Move, third: Host, first: Choice, second: Choice) -> tuple[Move, Move]:
        target = self._host(move.target).name
        waits = Move(
            vm=move.vm,
            source=move.source,
            target=third.id,
            choice=first,
            priority=move.priority,
            reason=f"it makes room on {self._host(move.source).name} and waits here until "
            f"{target} has room for it ({move.reason})",
        )
        goes_on = Move(
            vm=move.vm,
            source=third.id,
            target=move.target,
            choice=second,
            priority=move.priority,
            reason=f"{move.reason}; it waited on {third.name} for room on {target}",
        )
        return waits, goes_on


def _hard(policy: Policy, found: Iterable[Violation]) -> tuple[Violation, ...]:
    soft = {rule.name for rule in policy.rules if not rule.hard}
    return tuple(violation for violation in found if violation.rule not in soft)


def _to_blame(moves: Iterable[Move], violation: Violation) -> list[Move]:
    """The moves of the VMs that break a rule, else of those that arrive where it is broken."""
    ours = [move for move in moves if move.vm.id in violation.vms]
    return ours or [move for move in moves if move.target in violation.hosts]


def _merged(snapshot: Snapshot, unmoved: Iterable[Unmoved]) -> tuple[Unmoved, ...]:
    """One entry for each VM, with its name and all its reasons."""
    reasons: dict[VmId, dict[str, None]] = {}
    for each in unmoved:
        reasons.setdefault(each.vm, {}).update(dict.fromkeys(each.reasons))
    return tuple(
        Unmoved(vm=vm, vm_name=snapshot.vm_by_id[vm].name, reasons=tuple(found))
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
        predicted=Prediction(
            start_seconds=slot.start_seconds,
            duration_seconds=estimate.duration_seconds,
            duration_upper_seconds=estimate.duration_upper_seconds,
            downtime_seconds=estimate.downtime_seconds,
            downtime_upper_seconds=estimate.downtime_upper_seconds,
            transfer_bytes=estimate.transfer_bytes,
            confidence=estimate.confidence,
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
