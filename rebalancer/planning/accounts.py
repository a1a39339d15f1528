"""Room on hosts, and how one migration pays for it with what another one leaves behind.

Every limit that must hold at every instant is an account: a host's memory, CPU and vCPUs, its
huge pages and devices, the places that a spread rule has in each domain. A VM that arrives draws
on the accounts of its target when its migration *starts*; the VM that leaves pays into those of
its source when its migration has *completed*. In between it counts on both hosts, as it does in
truth.

A draw is met from what is free now, or from the payment of another migration, which must then
have completed first: that is a dependency. Nothing is spent twice, so whatever order and pace
the migrations come in, as long as they wait for what they depend on no limit is broken.

The limit is the policy's, or today's load where that is beyond it already: a violation that is
there may stay, it never grows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, Snapshot, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.pools import capacity_of, need_of, pools_of
from rebalancer.cluster.rules import Spread, groups_in
from rebalancer.cluster.violations import (
    cpu_capacity_cores,
    memory_capacity_bytes,
    vcpu_capacity,
)
from rebalancer.planning.wording import in_bytes

ROUNDING = 1e-9

type AccountKey = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A VM's claim on an account; `spare` is a second one that may pay instead."""

    account: AccountKey
    amount: float
    spare: AccountKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """An account that cannot meet a draw."""

    account: AccountKey
    missing: float
    payable: tuple[AccountKey, ...] = ()
    """The accounts into which a payment could end the shortage."""

    @property
    def text(self) -> str:
        """Say what is missing, for the operator."""
        kind, place = self.account[0], self.account[-1]
        if kind == "memory":
            return f"{in_bytes(self.missing)} of memory are missing on {place}"
        if kind == "cpu":
            return f"{self.missing:.2f} cores of CPU are missing on {place}"
        if kind == "vcpus":
            return f"{self.missing:.0f} vCPUs are missing on {place}"
        if kind == "pool":
            return f"{self.missing:,.0f} of {self.account[1]} are missing on {place}"
        if kind == "host failures":
            return f"{in_bytes(self.missing)} of the reserve for failing hosts would be missing"
        return f"rule {self.account[1]} has no place left in {place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """VMs that a spread rule keeps apart."""

    rule: Spread
    number: int

    def places_in(self, domain: str) -> AccountKey:
        return ("spread", self.rule.name, str(self.number), domain)

    @property
    def credit(self) -> AccountKey:
        """By how much the group is less crowded elsewhere than it was at the start."""
        return ("spread", self.rule.name, str(self.number))


class Accounts:
    """What is free on every account, and what migrations pay in and draw."""

    def __init__(self, snapshot: Snapshot, policy: Policy, demand: Demand) -> None:
        self._snapshot = snapshot
        self._demand = demand
        self._free: dict[AccountKey, float] = {}
        self._paid: dict[AccountKey, dict[int, float]] = defaultdict(dict)
        self._overfull: dict[AccountKey, float] = {}
        self._undo: list[tuple[dict[Any, float], Any, float | None]] = []
        self._pools = {pool.text: pool for pool in pools_of(snapshot)}
        for host in snapshot.hosts:
            self._open_host(host, policy)
            self._open_pools(host, policy)
        self._groups: dict[VmId, list[_Group]] = defaultdict(list)
        for rule in policy.rules:
            if isinstance(rule, Spread) and rule.hard:
                self._open_spread(rule)
        self._failures = policy.headroom.host_failures
        if self._failures:
            self._open_reserve(policy)

    def _open_host(self, host: Host, policy: Policy) -> None:
        vms = [vm for vm in self._snapshot.vms_by_host[host.id] if vm.is_active]
        cores = sum(self._demand.vm_cpu_peak_cores[vm.id] for vm in vms)
        for kind, limit, load in (
            ("memory", memory_capacity_bytes(host, policy), sum(v.memory_bytes for v in vms)),
            (
                "cpu",
                cpu_capacity_cores(host, policy),
                cores + self._demand.host_base_cores[host.id] + self._demand.host_margin_cores,
            ),
            ("vcpus", vcpu_capacity(host, policy), sum(v.vcpus for v in vms)),
        ):
            self._free[kind, host.id] = max(0.0, limit - load)

    def _open_pools(self, host: Host, policy: Policy) -> None:
        """Counted things, such as huge pages and devices."""
        vms = self._snapshot.vms_by_host[host.id]
        for name, pool in self._pools.items():
            used = sum(need_of(vm, pool) for vm in vms)
            capacity = capacity_of(host, pool, vms, policy)
            self._free["pool", name, host.id] = max(0.0, capacity - used)

    def _taken_of_pools(self, vm: Vm) -> Iterator[tuple[str, float]]:
        for name, pool in self._pools.items():
            if (need := need_of(vm, pool)) > 0:
                yield name, need

    def _open_spread(self, rule: Spread) -> None:
        """Places of each group in each domain; domains without a member are opened when asked."""
        for number, members in enumerate(groups_in(rule, self._snapshot)):
            group = _Group(rule=rule, number=number)
            for vm in members:
                self._groups[vm.id].append(group)
            self._free[group.credit] = 0.0
            domains = Counter(self._domain(rule, vm.host) for vm in members)
            for domain, count in domains.items():
                account = group.places_in(domain)
                self._free[account] = max(0.0, rule.at_most - count)
                self._overfull[account] = max(0, count - rule.at_most)

    def _open_reserve(self, policy: Policy) -> None:
        """What the VMs on usable hosts may have in all, so that some hosts can fail."""
        up = [host for host in self._snapshot.hosts if host.may_receive]
        capacities = sorted((memory_capacity_bytes(host, policy) for host in up), reverse=True)
        used = sum(
            vm.memory_bytes
            for host in up
            for vm in self._snapshot.vms_by_host[host.id]
            if vm.is_active
        )
        self._free["host failures",] = max(0.0, sum(capacities[self._failures :]) - used)

    def _domain(self, rule: Spread, host: HostId) -> str:
        return self._snapshot.domain_of(self._snapshot.host_by_id[host], rule.over)

    def draws(self, vm: Vm, source: HostId, target: HostId) -> Iterator[Draw]:
        """Everything that `vm` needs on its target from the moment its migration starts."""
        if vm.is_active:
            yield Draw(account=("memory", target), amount=vm.memory_bytes)
            yield Draw(account=("cpu", target), amount=self._demand.vm_cpu_peak_cores[vm.id])
            yield Draw(account=("vcpus", target), amount=vm.vcpus)
            for name, need in self._taken_of_pools(vm):
                yield Draw(account=("pool", name, target), amount=need)
            if self._failures and not self._snapshot.host_by_id[source].may_receive:
                yield Draw(account=("host failures",), amount=vm.memory_bytes)
        for group in self._groups.get(vm.id, ()):
            domain = self._domain(group.rule, target)
            if domain != self._domain(group.rule, source):
                places = group.places_in(domain)
                self._free.setdefault(places, float(group.rule.at_most))
                yield Draw(account=places, amount=1.0, spare=group.credit)

    def pay(self, migration: int, vm: Vm, source: HostId, target: HostId) -> set[AccountKey]:
        """Pay in what `vm` leaves behind; returns the accounts that have more than before."""
        paid = dict(self._payments(vm, source, target))
        for account, amount in paid.items():
            self._write(self._paid[account], migration, amount)
        for group, domain in self._domains_left(vm, source, target):
            places = group.places_in(domain)
            if (too_many := self._overfull.get(places, 0)) > 0:
                self._write(self._overfull, places, too_many - 1)
        return set(paid)

    @property
    def paid_into(self) -> frozenset[AccountKey]:
        """The accounts that have something of admitted migrations."""
        return frozenset(account for account, payments in self._paid.items() if payments)

    def paid_by(self, vm: Vm, source: HostId, target: HostId) -> frozenset[AccountKey]:
        """Name the accounts that have more once `vm` has left."""
        return frozenset(account for account, _ in self._payments(vm, source, target))

    def _payments(
        self, vm: Vm, source: HostId, target: HostId
    ) -> Iterator[tuple[AccountKey, float]]:
        if vm.is_active:
            yield ("memory", source), float(vm.memory_bytes)
            yield ("cpu", source), self._demand.vm_cpu_peak_cores[vm.id]
            yield ("vcpus", source), float(vm.vcpus)
            for name, need in self._taken_of_pools(vm):
                yield ("pool", name, source), need
        for group, domain in self._domains_left(vm, source, target):
            places = group.places_in(domain)
            # Leaving an overfull domain makes the rule less broken, wherever that is used.
            is_overfull = self._overfull.get(places, 0) > 0
            yield (group.credit if is_overfull else places), 1.0

    def _domains_left(self, vm: Vm, source: HostId, target: HostId) -> Iterator[tuple[_Group, str]]:
        """The groups of a VM that are apart over something it leaves: a rack, a site, its host."""
        for group in self._groups.get(vm.id, ()):
            domain = self._domain(group.rule, source)
            if domain != self._domain(group.rule, target):
                yield group, domain

    def draw(self, wanted: Iterable[Draw], depth: Sequence[int]) -> frozenset[int] | Shortage:
        """Meet all draws, or none; returns the migrations whose payments were needed.

        `depth` tells of each migration how long the chain is that it waits for: shallow ones
        pay first.
        """
        mark = len(self._undo)
        relied: set[int] = set()
        for draw in wanted:
            shortage = self._meet(draw, relied, depth)
            if shortage is not None:
                self.undo(mark)
                return shortage
        return frozenset(relied)

    def _meet(self, draw: Draw, relied: set[int], depth: Sequence[int]) -> Shortage | None:
        missing = self._take_free(draw.account, draw.amount)
        for account in (draw.account, draw.spare):
            if missing > ROUNDING and account is not None:
                missing = self._take_paid(account, missing, relied, depth)
        if missing > ROUNDING:
            payable = tuple(a for a in (draw.account, draw.spare) if a is not None)
            return Shortage(account=draw.account, missing=missing, payable=payable)
        return None

    def _take_free(self, account: AccountKey, amount: float) -> float:
        free = self._free[account]
        taken = min(free, amount)
        if taken > 0:
            self._write(self._free, account, free - taken)
        return amount - taken

    def _take_paid(
        self, account: AccountKey, missing: float, relied: set[int], depth: Sequence[int]
    ) -> float:
        paid = self._paid[account]
        for migration in _payers(paid, missing, relied, depth):
            amount = paid[migration]
            taken = min(amount, missing)
            if taken <= 0:
                continue
            self._write(paid, migration, amount - taken)
            relied.add(migration)
            missing -= taken
            if missing <= ROUNDING:
                break
        return missing

    def mark(self) -> int:
        """Remember this state for `undo`."""
        return len(self._undo)

    def undo(self, mark: int) -> None:
        """Go back to a state that was marked."""
        while len(self._undo) > mark:
            table, key, value = self._undo.pop()
            if value is None:
                del table[key]
            else:
                table[key] = value

    def _write(self, table: dict[Any, float], key: AccountKey | int, value: float) -> None:
        self._undo.append((table, key, table.get(key)))
        table[key] = value

    def room_bytes(self, host: HostId) -> float:
        """Memory of a host that nobody has claimed, now or once others have left."""
        account = ("memory", host)
        return self._free[account] + sum(self._paid.get(account, {}).values())


def _payers(
    paid: dict[int, float], missing: float, relied: set[int], depth: Sequence[int]
) -> list[int]:
    """Who is asked to pay: those waited for anyway, else the shallowest that can pay alone."""
    alone = [m for m, amount in paid.items() if amount >= missing]
    best = min(alone, key=lambda m: (m not in relied, depth[m], paid[m], m), default=None)
    rest = sorted(paid, key=lambda m: (m not in relied, depth[m], -paid[m], m))
    return rest if best is None else [best, *rest]
