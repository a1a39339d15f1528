"""From where VMs should be to migrations that can be carried out, and what keeps the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.disks import folder_needs
from rebalancer.cluster.inventory import Host, HostId, HostState, Mode, Snapshot, Vm
from rebalancer.cluster.plan import Placement, Priority, Unmoved
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Violation
from rebalancer.cluster.violations import violations, worsened
from rebalancer.planning.accounts import Accounts
from rebalancer.planning.habits import Calibration
from rebalancer.planning.jobs import RANK
from rebalancer.planning.modes import Choice, Refusal, choose
from rebalancer.planning.network import Network
from rebalancer.planning.obstacles import obstacles
from rebalancer.planning.order import Move, Order, order_moves

DETOUR_HOSTS = 8
"""Third hosts looked at for one VM: those with the most room."""

DETOUR_MODES = frozenset({Mode.OFFLINE, Mode.LIVE})
"""Going round costs two pauses, so neither may be a long one."""


class Router:
    """Turns the wish that VMs were elsewhere into moves that can be carried out."""

    def __init__(
        self,
        snapshot: Snapshot,
        demand: Demand,
        policy: Policy,
        placement: Placement,
        calibration: Calibration | None = None,
    ) -> None:
        """Look up what is broken now, and what is free."""
        self._snapshot = snapshot
        self._demand = demand
        self._policy = policy
        self._placement = placement
        self._network = Network(snapshot, policy.limits, calibration)
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
                Unmoved(vm=m.vm.id, reasons=(self._why_dropped(m.vm, dropped[id(m)]),))
                for m in moves
                if id(m) in dropped
            ]
            moves = [move for move in moves if id(move) not in dropped]
        unmoved += [Unmoved(vm=stuck.move.vm.id, reasons=(stuck.reason,)) for stuck in order.stuck]
        return order, unmoved, broken

    def _why_dropped(self, vm: Vm, broken: Violation) -> str:
        others = sorted(self._snapshot.vm_by_id[each].name for each in broken.vms if each != vm.id)
        if not others:
            return f"other moves cannot be made, and without them {broken.text}"
        return f"it cannot go unless {', '.join(others)} can as well (rule {broken.rule})"

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
        return self._with_room_for_disks(moves, unmoved), unmoved

    def _with_room_for_disks(self, moves: list[Move], unmoved: list[Unmoved]) -> list[Move]:
        """The moves whose local disks all fit on their targets together, the first ones first.

        Nothing becomes free meanwhile: what a copy was made of is left where it is.
        """
        taken: Counter[tuple[HostId, str]] = Counter()
        kept: list[Move] = []
        for move in moves:
            needs = folder_needs(move.vm.local_disks)
            free = self._host(move.target).disk_pools or {}
            full = [f for f, n in needs.items() if taken[move.target, f] + n > free.get(f, 0)]
            if full:
                where = f"{full[0]} of {self._host(move.target).name}"
                why = f"{where} has no room for its local disks beside those of other moves"
                unmoved.append(Unmoved(vm=move.vm.id, reasons=(why,)))
                continue
            taken.update({(move.target, folder): needed for folder, needed in needs.items()})
            kept.append(move)
        return kept

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
        if move.choice.mode not in DETOUR_MODES or move.vm.local_disks:
            return  # twice the disks, and a left-over more
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
