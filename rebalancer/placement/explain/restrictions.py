"""What can stand in the way of a wish: rules, limits and facts, each with the case without it.

They are named as an administrator would name them, and lifted as one would lift them: in the
snapshot or in the policy. So whatever the rest of placement makes of these is true here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.inventory import HostId, HostState, Vm, VmId
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.pools import pools_of
from rebalancer.cluster.rules import Pin
from rebalancer.cluster.selection import HostSelector
from rebalancer.placement.explain.amounts import WORDS
from rebalancer.placement.explain.case import Case
from rebalancer.placement.explain.obstacles import listed
from rebalancer.placement.explain.wishes import Fit, Hold, Leave, Wish
from rebalancer.placement.problem import LIMITED, Resource

_RULE, _RULES = "rule ", "rules "
HOSTS_ONE_BY_ONE = 32
"""Of more hosts a limit is named once for all of them."""
VMS_ONE_BY_ONE = 32


class Kind(StrEnum):
    """What a restriction is, and so what could be done about it."""

    VM = "vm"
    """Nothing may move the VM."""
    RULE = "rule"
    MACHINE = "machine"
    """What a VM needs of the machine that it runs on."""
    SCOPE = "scope"
    STATE = "state"
    FAILURES = "failures"
    MEMORY = "memory"
    CPU = "cpu"
    VCPUS = "vcpus"
    POOLS = "pools"
    """Counted things: devices, huge pages, what is on one NUMA node."""


_LIMITS = {Resource.MEMORY: Kind.MEMORY, Resource.CPU: Kind.CPU, Resource.VCPUS: Kind.VCPUS}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Restriction:
    """Something that stands in the way."""

    kind: Kind
    subject: str
    """What it is about; with `head` before and `tail` behind it is its name: `memory of h3`."""
    head: str = ""
    tail: str = ""
    lift: Callable[[Case], Case]

    @property
    def text(self) -> str:
        """What it is called."""
        return f"{self.head}{self.subject}{self.tail}"


def texts_of(restrictions: Iterable[Restriction]) -> tuple[str, ...]:
    """Name restrictions, those of a kind together: `memory of h2, h3`."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in restrictions:
        found.setdefault((one.head, one.tail), []).append(one.subject)
    return tuple(
        f"{_RULES if head == _RULE and len(each) > 1 else head}{listed(each)}{tail}"
        for (head, tail), each in found.items()
    )


def restrictions_of(case: Case, wishes: Sequence[Wish]) -> tuple[Restriction, ...]:
    """Everything that may stand in the way of the wishes, what is easiest to understand first."""
    return (
        *_of_vms(case, wishes),
        *_of_rules(case, wishes),
        *_of_machines(case, wishes),
        *_of_scope(case.policy),
        *_of_states(case, wishes),
        *_of_headroom(case.policy),
        *_of_capacity(case, wishes),
        *_of_pools(case),
    )


def without_wish(case: Case, wish: Wish) -> Case:
    """The case in which nobody asks for the wish: a rule or limit that is to hold does not count.

    That a VM should leave its host restricts nothing else.
    """
    match wish:
        case Hold(rule=name):
            return _without_rule(name)(case)
        case Fit(resource=resource, host=host):
            return case.without_limit(resource, (host,))
        case Leave():
            return case


def _of_vms(case: Case, wishes: Sequence[Wish]) -> Iterator[Restriction]:
    """VMs that nothing may move: those that should leave, and others, which take up room."""
    leaving = {wish.vm for wish in wishes if isinstance(wish, Leave)}
    held = [vm for vm in case.snapshot.vms if not vm.can_move]
    held.sort(key=lambda vm: vm.id not in leaving)
    for vm in held[:VMS_ONE_BY_ONE]:
        yield Restriction(
            kind=Kind.VM,
            subject=vm.name,
            tail=f" cannot be moved ({reason_held(vm)})",
            lift=_with_vms_free(frozenset({vm.id})),
        )
    if rest := held[VMS_ONE_BY_ONE:]:
        yield Restriction(
            kind=Kind.VM,
            subject=f"{len(rest)} more VMs",
            tail=" cannot be moved",
            lift=_with_vms_free(frozenset(vm.id for vm in rest)),
        )


def reason_held(vm: Vm) -> str:
    """Why nothing may move a VM."""
    marked = () if vm.movable else ("marked as not movable",)
    return "; ".join((*marked, *vm.blockers))


def _with_vms_free(which: frozenset[VmId]) -> Callable[[Case], Case]:
    def lift(case: Case) -> Case:
        vms = tuple(
            replace(vm, movable=True, blockers=()) if vm.id in which else vm
            for vm in case.snapshot.vms
        )
        return replace(case, snapshot=replace(case.snapshot, vms=vms))

    return lift


def _of_rules(case: Case, wishes: Sequence[Wish]) -> Iterator[Restriction]:
    """Hard rules, but for those that are wished to hold; pins are part of what they pin."""
    wished = {wish.rule for wish in wishes if isinstance(wish, Hold)}
    rules = [rule for rule in case.policy.rules if rule.hard and rule.name not in wished]
    for rule in sorted(rules, key=lambda rule: not isinstance(rule, Pin)):
        yield Restriction(
            kind=Kind.RULE, head=_RULE, subject=rule.name, lift=_without_rule(rule.name)
        )


def _without_rule(name: str) -> Callable[[Case], Case]:
    def lift(case: Case) -> Case:
        rules = tuple(rule for rule in case.policy.rules if rule.name != name)
        return replace(case, policy=replace(case.policy, rules=rules))

    return lift


def _of_machines(case: Case, wishes: Sequence[Wish]) -> Iterator[Restriction]:
    """What VMs that should leave need of a machine, and some machine lacks."""
    snapshot = case.snapshot
    for wish in wishes:
        if not isinstance(wish, Leave):
            continue
        vm = snapshot.vm_by_id[wish.vm]
        source = snapshot.host_by_id[vm.host]
        copies = case.policy.migration.local_disks
        lacks = [
            (host.name, misfits(vm, source, host, copies_disks=copies)) for host in snapshot.hosts
        ]
        if any(why for _, why in lacks):
            yield Restriction(
                kind=Kind.MACHINE,
                subject=vm.name,
                head="the needs of ",
                tail=f" ({_lack_text(lacks)})",
                lift=_with_vm_plain(vm.id),
            )


def _lack_text(lacks: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    found: dict[str, list[str]] = {}
    for host, reasons in lacks:
        for reason in reasons:
            found.setdefault(reason, []).append(host)
    return "; ".join(f"{reason} ({listed(hosts)})" for reason, hosts in found.items())


def _with_vm_plain(which: VmId) -> Callable[[Case], Case]:
    """Make a VM one that runs on any machine; what it takes up stays."""

    def lift(case: Case) -> Case:
        vms = tuple(_plain(vm) if vm.id == which else vm for vm in case.snapshot.vms)
        return replace(case, snapshot=replace(case.snapshot, vms=vms))

    return lift


def _plain(vm: Vm) -> Vm:
    return Vm(
        id=vm.id,
        name=vm.name,
        host=vm.host,
        memory_bytes=vm.memory_bytes,
        vcpus=vm.vcpus,
        state=vm.state,
        cpu_used_cores=vm.cpu_used_cores,
        labels=vm.labels,
        movable=vm.movable,
        blockers=vm.blockers,
    )


def _of_scope(policy: Policy) -> Iterator[Restriction]:
    if policy.applies != HostSelector():
        yield Restriction(
            kind=Kind.SCOPE,
            subject=f"policy {policy.name}",
            tail=" looks after some of the hosts only",
            lift=lambda case: replace(case, policy=replace(case.policy, applies=HostSelector())),
        )


def _of_states(case: Case, wishes: Sequence[Wish]) -> Iterator[Restriction]:
    """Hosts that take nobody, by state; where one host drains that is what is wished."""
    only_drain = all(isinstance(wish, Leave) for wish in wishes)
    hosts = [host for host in case.snapshot.hosts if host.state is not HostState.UP]
    for state in sorted({host.state for host in hosts}):
        those = [host for host in hosts if host.state is state]
        if state is HostState.DRAINING and len(those) == 1 and only_drain:
            continue
        groups = [[host] for host in those] if len(those) <= HOSTS_ONE_BY_ONE else [those]
        for group in groups:
            yield Restriction(
                kind=Kind.STATE,
                subject=listed(host.name for host in group),
                tail=f" ({state})",
                lift=_with_state_up(frozenset(host.id for host in group)),
            )


def _with_state_up(which: frozenset[HostId]) -> Callable[[Case], Case]:
    """Have hosts be up."""

    def lift(case: Case) -> Case:
        hosts = tuple(
            replace(host, state=HostState.UP) if host.id in which else host
            for host in case.snapshot.hosts
        )
        return replace(case, snapshot=replace(case.snapshot, hosts=hosts))

    return lift


def _of_headroom(policy: Policy) -> Iterator[Restriction]:
    failures = policy.headroom.host_failures
    if failures:
        yield Restriction(
            kind=Kind.FAILURES,
            subject=f"host_failures: {failures}",
            lift=lambda case: replace(
                case,
                policy=replace(
                    case.policy, headroom=replace(case.policy.headroom, host_failures=0)
                ),
            ),
        )


def _of_capacity(case: Case, wishes: Sequence[Wish]) -> Iterator[Restriction]:
    """Limits of hosts, but for those that are wished to hold: of many hosts all in one."""
    hosts = case.snapshot.hosts
    together = len(hosts) > HOSTS_ONE_BY_ONE
    wished = {(wish.resource, wish.host) for wish in wishes if isinstance(wish, Fit)}
    for resource in LIMITED:
        for group in [hosts] if together else [(host,) for host in hosts]:
            limited = tuple(host.id for host in group if (resource, host.id) not in wished)
            if limited:
                yield Restriction(
                    kind=_LIMITS[resource],
                    head=f"{WORDS[resource]} of ",
                    subject="the hosts" if together else group[0].name,
                    lift=_without_limit(resource, limited),
                )


def _of_pools(case: Case) -> Iterator[Restriction]:
    """What hosts have a counted number of, where any VM needs such things."""
    kinds = sorted({pool.kind for pool in pools_of(case.snapshot)})
    hosts = case.snapshot.hosts if kinds else ()
    together = len(hosts) > HOSTS_ONE_BY_ONE
    for group in [hosts] if together else [(host,) for host in hosts]:
        yield Restriction(
            kind=Kind.POOLS,
            head=f"{', '.join(kinds)} of ",
            subject="the hosts" if together else group[0].name,
            lift=_without_pools(frozenset(host.id for host in group)),
        )


def _without_pools(hosts: frozenset[HostId]) -> Callable[[Case], Case]:
    return lambda case: replace(case, without_pools=case.without_pools | hosts)


def _without_limit(resource: Resource, hosts: tuple[HostId, ...]) -> Callable[[Case], Case]:
    return lambda case: case.without_limit(resource, hosts)
