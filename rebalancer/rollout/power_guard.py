"""Everything that keeps a host from being switched. Pure; each reason is one sentence.

A plan says which hosts could sleep; that was minutes ago. What is judged here is a look at the
cluster right before the act.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot
from rebalancer.cluster.policy import Policy, PowerGoal
from rebalancer.cluster.power import awake_needs, power_goal
from rebalancer.cluster.violations import hard_violations, worsened
from rebalancer.rollout.power import Census, NoCensus
from rebalancer.rollout.power_steps import IN_TRANSIT, Phase, PowerMark

_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PowerScene:
    """The cluster around a host that is to be switched, as it was seen just now."""

    snapshot: Snapshot
    demand: Demand
    policy: Policy
    marks: Mapping[HostId, PowerMark]
    drained: Collection[HostId] = ()
    allow_autostart: bool = False
    """Whether a host may sleep that would start VMs when it boots."""
    allow_drained: bool = False
    """Whether the operator said that a drained host may be switched off."""


def reasons_to_stay_awake(
    host: Host, scene: PowerScene, guests: Census | NoCensus
) -> tuple[str, ...]:
    """Why a host must not be put to sleep now; empty if nothing speaks against it."""
    return (
        *_wrong_state(host, scene),
        *_marks_in_the_way(host, scene),
        *_guests_in_the_way(host, scene, guests),
        *_too_few_without(host, scene),
    )


def reasons_not_to_wake(
    host: HostId,
    marks: Mapping[HostId, PowerMark],
    drained: Collection[HostId],
    *,
    by_operator: bool,
) -> tuple[str, ...]:
    """Why a host must not be woken now; a quarantined or drained one only an operator wakes."""
    mark = marks.get(host)
    reasons = [*_others_in_transit(host, marks)]
    if mark is None and not by_operator:
        reasons.append(
            "rebalancer did not put it to sleep; for one that is off anyway: "
            f"rebalancer power sleep {host} --yes"
        )
    if mark is not None and mark.phase is Phase.QUARANTINED and not by_operator:
        reasons.append(f"it is quarantined: {mark.reason}")
    if host in drained and not by_operator:
        reasons.append("it is being drained")
    return tuple(reasons)


def _wrong_state(host: Host, scene: PowerScene) -> Iterator[str]:
    is_drained = host.id in scene.drained or host.state is HostState.DRAINING
    if is_drained and not scene.allow_drained:
        yield "it is drained, and stays on for its maintenance unless the operator says otherwise"
    fine = {HostState.UP, HostState.DRAINING} if is_drained else {HostState.UP}
    if host.state not in fine:
        why = f": {host.state_reason}" if host.state_reason else ""
        yield f"it is {host.state}{why}"
    if scene.snapshot.usage_fault:
        yield f"the load is not known well enough: {scene.snapshot.usage_fault}"


def _marks_in_the_way(host: Host, scene: PowerScene) -> Iterator[str]:
    if (mark := scene.marks.get(host.id)) is not None:
        yield f"it is {mark.phase}{f': {mark.reason}' if mark.reason else ''}"
    yield from _others_in_transit(host.id, scene.marks)


def _others_in_transit(host: HostId, marks: Mapping[HostId, PowerMark]) -> Iterator[str]:
    """One host at a time: each changes what the next one is judged by."""
    for mark in marks.values():
        if mark.host != host and mark.phase in IN_TRANSIT:
            yield f"one host at a time, and {mark.host} is {mark.phase}"


def _guests_in_the_way(host: Host, scene: PowerScene, guests: Census | NoCensus) -> Iterator[str]:
    """Two witnesses: the host's own libvirt right now, and the look at the whole cluster."""
    if isinstance(guests, NoCensus):
        yield f"its libvirt does not answer, so it may run VMs: {guests.why}"
        return
    there = {vm.name for vm in scene.snapshot.vms_by_host[host.id] if vm.is_active}
    if active := sorted(there.union(guests.active)):
        yield f"it has VMs: {_some(active)}"
    if guests.busy:
        yield f"a job runs on {_some(guests.busy)}"
    if guests.autostart and not scene.allow_autostart:
        yield (
            f"it starts {_some(guests.autostart)} when it boots (autostart); move the "
            "definition away, or set power.allow_autostart"
        )


def _too_few_without(host: Host, scene: PowerScene) -> Iterator[str]:
    """What must be awake is awake without it; hosts that are in doubt count for nothing."""
    snapshot, policy, demand = scene.snapshot, scene.policy, scene.demand
    if host.state is not HostState.UP:
        return  # nothing counts on it
    awake = {
        other.id
        for other in snapshot.hosts
        if other.state is HostState.UP and other.id not in scene.marks
    }
    goal = power_goal(policy) or PowerGoal()
    short = [
        need.what
        for need in awake_needs(snapshot, policy, goal, demand)
        if need.surplus(awake - {host.id}) < 0
    ]
    if short:
        yield f"without it too few hosts are awake for {'; '.join(short)}"
    elif _breaks_a_rule(host, scene):
        yield "without it a rule of the policy would be broken"


def _breaks_a_rule(host: Host, scene: PowerScene) -> bool:
    snapshot = scene.snapshot
    # Without a goal the oracle goes by the state of an empty host, and supposes nothing.
    plain = replace(scene.policy, goals=())
    hosts = tuple(
        replace(each, state=HostState.ASLEEP) if each.id == host.id else each
        for each in snapshot.hosts
    )
    then = replace(snapshot, hosts=hosts)
    before = hard_violations(snapshot, plain, scene.demand, snapshot.assignment)
    after = hard_violations(then, plain, scene.demand, then.assignment)
    return bool(worsened(before, after))


def _some(names: Collection[str]) -> str:
    named = ", ".join(sorted(names)[:_NAMED])
    more = len(names) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
