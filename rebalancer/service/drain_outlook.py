"""What becomes of every VM on the hosts of a drain, told before anything is moved. Pure.

live        it moves while it runs
with help   it moves while it runs, but is slowed down, suspended at the end, or fetches its
            last pages afterwards
cold        it is shut down, and started elsewhere
definition  it is shut off; only its definition moves
stays       it cannot go: with the reasons, and the cheapest permission that would help
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rebalancer.cluster.inventory import Host, HostId, HostState, Mode, Snapshot, Vm, VmId
from rebalancer.cluster.plan import Migration, Plan
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.prediction import Confidence
from rebalancer.cluster.rules import Ban, Fence, Pin
from rebalancer.service.staleness import out_of_hours

CHEAPEST = "cheapest way out: "
"""How planning begins the reason that says which permission would get a VM away."""


class Way(StrEnum):
    """How a VM leaves, from the mildest to not at all."""

    OFFLINE = "definition"
    LIVE = "live"
    WITH_HELP = "with help"
    COLD = "cold"
    STAYS = "stays"


_WAYS = {
    Mode.OFFLINE: Way.OFFLINE,
    Mode.LIVE: Way.LIVE,
    Mode.AUTO_CONVERGE: Way.WITH_HELP,
    Mode.SUSPEND: Way.WITH_HELP,
    Mode.POST_COPY: Way.WITH_HELP,
    Mode.COLD: Way.COLD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """One VM on a host that is to be emptied. Seconds count from the start of the rollout."""

    vm: VmId
    vm_name: str
    host: HostId
    way: Way
    modes: tuple[Mode, ...] = ()
    """One for each step; most VMs have one step."""
    target: HostId | None = None
    duration_seconds: float = 0.0
    pause_seconds: float = 0.0
    """How long its guest stands still, all steps together."""
    finish_seconds: float | None = None
    """When it should have left; `None`: never."""
    is_guess: bool = False
    """Its dirty rate is not known, so the times are not worth much."""
    why: str = ""
    """Why in this way, or why it stays."""
    unlock: str = ""
    """Of one that stays: what would have to be permitted or changed for it to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOutlook:
    """Everything that becomes of the hosts of a drain."""

    hosts: tuple[HostId, ...]
    leaving: tuple[Leaving, ...]
    ends_seconds: float
    """When the last VM that can leave has left, from the start of the rollout."""
    waits: str = ""
    """Why that does not start now: maintenance windows are closed. Empty if it does."""

    @property
    def staying(self) -> tuple[Leaving, ...]:
        """The VMs that will still be there."""
        return tuple(one for one in self.leaving if one.way is Way.STAYS)

    @property
    def counts(self) -> Mapping[Way, int]:
        """How many VMs leave in which way."""
        found = Counter(one.way for one in self.leaving)
        return {way: found[way] for way in Way if found[way]}

    @property
    def longest_pause_seconds(self) -> float:
        """The longest that any one guest stands still."""
        return max((one.pause_seconds for one in self.leaving), default=0.0)


def drain_outlook(
    snapshot: Snapshot, policy: Policy, plan: Plan, hosts: Collection[HostId]
) -> DrainOutlook:
    """Classify every VM on `hosts` by what the plan makes of it."""
    steps: dict[VmId, list[Migration]] = {}
    for migration in plan.migrations:
        steps.setdefault(migration.vm, []).append(migration)
    reasons = {each.vm: each.reasons for each in plan.unmoved}
    leaving = []
    for vm in snapshot.vms:
        if vm.host not in hosts:
            continue
        # A plan may bring a VM to one of its hosts only on the way to another.
        if (moves := steps.get(vm.id)) and moves[-1].target not in hosts:
            leaving.append(_left(vm, moves))
        else:
            why = reasons.get(vm.id) or _of_its_host(snapshot.host_by_id[vm.host], plan)
            leaving.append(_stays(vm, snapshot, policy, why))
    order = {way: rank for rank, way in enumerate(Way)}
    place = {host: rank for rank, host in enumerate(hosts)}
    leaving.sort(key=lambda one: (place[one.host], order[one.way], one.vm_name, one.vm))
    ends = (one.finish_seconds for one in leaving if one.finish_seconds is not None)
    return DrainOutlook(
        hosts=tuple(hosts),
        leaving=tuple(leaving),
        ends_seconds=max(ends, default=0.0),
        waits=out_of_hours(plan, policy, plan.created_at),
    )


def _of_its_host(host: Host, plan: Plan) -> tuple[str, ...]:
    """Why a VM stays of which the plan itself says nothing."""
    if host.state is HostState.UNKNOWN:
        return (f"{host.name} did not answer, so nothing is moved off it",)
    return (plan.verdict.text,)


def _left(vm: Vm, moves: Sequence[Migration]) -> Leaving:
    ways = [_WAYS[move.mode] for move in moves]
    return Leaving(
        vm=vm.id,
        vm_name=vm.name,
        host=vm.host,
        way=max(ways, key=list(Way).index),
        modes=tuple(move.mode for move in moves),
        target=moves[-1].target,
        duration_seconds=sum(move.predicted.duration_seconds for move in moves),
        pause_seconds=sum(move.predicted.downtime_seconds for move in moves),
        finish_seconds=max(move.predicted.finish_seconds for move in moves),
        is_guess=any(move.predicted.confidence is Confidence.LOW for move in moves),
        why="; ".join(dict.fromkeys(move.mode_reason for move in moves)),
    )


def _stays(vm: Vm, snapshot: Snapshot, policy: Policy, reasons: Sequence[str]) -> Leaving:
    said = [reason for reason in reasons if not reason.startswith(CHEAPEST)]
    return Leaving(
        vm=vm.id,
        vm_name=vm.name,
        host=vm.host,
        way=Way.STAYS,
        why="; ".join(said),
        unlock="; and ".join(dict.fromkeys(_unlocks(vm, snapshot, policy, reasons))),
    )


def _unlocks(vm: Vm, snapshot: Snapshot, policy: Policy, reasons: Sequence[str]) -> Iterator[str]:
    """Say what is in a VM's way that somebody could take out of it."""
    if not vm.movable:
        yield "mark it as movable"
    yield from (f"an end to this: {blocker}" for blocker in vm.blockers)
    yield from (f"lift rule {name}" for name in _rules_in_the_way(vm, snapshot, policy))
    for reason in reasons:
        if reason.startswith(CHEAPEST):
            way_out = reason.removeprefix(CHEAPEST)
            flag = " (--allow-cold)" if f"allow {Mode.COLD}" in way_out else ""
            yield f"{way_out}{flag}"


def _rules_in_the_way(vm: Vm, snapshot: Snapshot, policy: Policy) -> Iterator[str]:
    """Hard rules about this VM alone without which it would have a host to go to."""
    others = [host for host in snapshot.hosts if host.id != vm.host and host.may_receive]
    pins = (rule for rule in policy.rules if rule.hard and isinstance(rule, Pin))
    yield from (pin.name for pin in pins if pin.vms.matches(vm))
    barring = [rule for rule in policy.rules if rule.hard and isinstance(rule, Fence | Ban)]

    def bars(host: Host) -> list[str]:
        return [rule.name for rule in barring if rule.forbids(vm, host)]

    barred = [bars(host) for host in others]
    if barred and all(barred):
        yield from min(barred, key=len)
