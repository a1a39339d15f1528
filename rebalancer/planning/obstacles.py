"""What keeps a VM from going to a host, before anything about order or bandwidth is asked."""

from __future__ import annotations

from collections.abc import Iterator

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.inventory import Host, HostState, Vm
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Ban, Fence, Pin

_OUT_OF_REACH = frozenset({HostState.DOWN, HostState.UNKNOWN, HostState.ASLEEP})


def obstacles(vm: Vm, source: Host, target: Host, policy: Policy) -> tuple[str, ...]:
    """Say everything that forbids moving `vm` from `source`, where it is, to `target`."""
    return tuple(_obstacles(vm, source, target, policy))


def _obstacles(vm: Vm, source: Host, target: Host, policy: Policy) -> Iterator[str]:
    if not vm.movable:
        yield "it is marked as not movable"
    yield from vm.blockers
    if source.state in _OUT_OF_REACH:
        why = f" ({source.state_reason})" if source.state_reason else ""
        yield f"its host {source.name} is {source.state}{why}"
    if not target.may_receive:
        yield f"{target.name} is {target.state}"
    for reason in misfits(vm, source, target, copies_disks=policy.migration.local_disks):
        yield f"{target.name}: {reason}"
    yield from _forbidden(vm, source, target, policy)


def _forbidden(vm: Vm, source: Host, target: Host, policy: Policy) -> Iterator[str]:
    """Hard rules about one VM; that one is broken where it is excuses no other host."""
    for rule in policy.rules:
        if not rule.hard:
            continue
        if isinstance(rule, Pin) and rule.vms.matches(vm):
            yield f"rule {rule.name} pins it to {source.name}"
        if isinstance(rule, Fence | Ban) and rule.forbids(vm, target):
            yield f"rule {rule.name} keeps it off {target.name}"
