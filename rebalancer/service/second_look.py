"""Moves that a placement wants and that cannot be carried out: kept out of the next search.

The placement knows what fits where; whether a guest gets there in time, or at all on the way, only
planning finds out. To leave such a move out and to make the others all the same would be wrong:
some of them only make sense with it, such as one into the room that it would have left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from glob import escape
from itertools import groupby

from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import Placement, Plan, Unmoved
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Ban
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.service.wording import count_text

MOST_SEARCHES = 8
"""The first included, as long as the solver has time; each may find out about one more VM."""

LEAST_SHARE = 0.1
"""Of the solver's time that the second search gets, however much the first has used up."""

_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Impossible:
    """A move that was wanted, and what planning found against it."""

    vm: VmId
    target: HostId
    place: str
    """What the next search keeps the VM off: the target, or its site where that is another."""
    hosts: frozenset[HostId]
    """The hosts of that place."""
    reasons: tuple[str, ...]


def impossible_moves(
    placement: Placement, plan: Plan, snapshot: Snapshot
) -> Mapping[VmId, Impossible]:
    """Find the moves of a placement that the plan had to leave out for good, by VM.

    One that only waits for a maintenance window is possible. Between sites it is the way there
    that speaks against a move, so the whole site is meant, as long as there is a host at home.
    """
    moved = plan.final_assignment
    return {
        one.vm: _impossible(one, placement.assignment[one.vm], snapshot)
        for one in plan.unmoved
        if not one.waits_for_window
        and one.vm not in moved
        and placement.assignment[one.vm] != snapshot.assignment[one.vm]
    }


def _impossible(one: Unmoved, target_id: HostId, snapshot: Snapshot) -> Impossible:
    source = snapshot.host_by_id[snapshot.assignment[one.vm]]
    target = snapshot.host_by_id[target_id]
    at_home = any(
        host.may_receive and host.site == source.site and host.id != source.id
        for host in snapshot.hosts
    )
    whole_site = at_home and target.site is not None and target.site != source.site
    hosts = {host.id for host in snapshot.hosts if whole_site and host.site == target.site}
    return Impossible(
        vm=one.vm,
        target=target_id,
        place=(target.site or "") if whole_site else target.name,
        hosts=frozenset(hosts or {target_id}),
        reasons=one.reasons,
    )


def without_impossible(policy: Policy, found: Mapping[tuple[VmId, str], Impossible]) -> Policy:
    """The policy of a search that does not want them again; rules for each place, not each VM."""
    in_order = sorted(found.values(), key=lambda one: (one.place, sorted(one.hosts), one.vm))
    taken = {rule.name for rule in policy.rules}
    bans = []
    for (place, hosts), group in groupby(in_order, key=lambda one: (one.place, sorted(one.hosts))):
        name = f"no way to {place}"
        while name in taken:
            name += "'"
        taken.add(name)
        bans.append(
            Ban(
                name=name,
                vms=VmSelector(names=tuple(escape(one.vm) for one in group)),
                hosts=HostSelector(names=tuple(escape(host) for host in hosts)),
            )
        )
    return replace(policy, rules=(*policy.rules, *bans))


def with_impossible(
    plan: Plan, snapshot: Snapshot, found: Mapping[tuple[VmId, str], Impossible]
) -> Plan:
    """The plan of the last search, with the VMs that could not get anywhere and the true reasons.

    What that search itself says of such a VM is only that it was kept off.
    """
    moved = set(plan.final_assignment)
    reasons: dict[VmId, dict[str, None]] = {}
    for one in found.values():
        if one.vm not in moved:
            reasons.setdefault(one.vm, {}).update(dict.fromkeys(one.reasons))
    others = [one for one in plan.unmoved if one.vm not in reasons]
    unmoved = [
        Unmoved(vm=vm, vm_name=snapshot.vm_by_id[vm].name, reasons=tuple(why))
        for vm, why in reasons.items()
    ]
    return replace(plan, unmoved=(*others, *unmoved))


def without_bans(placement: Placement, policy: Policy, wanted: Policy) -> Placement:
    """The placement, saying nothing of the rules that only `wanted` has: nobody wrote them."""
    made_up = {rule.name for rule in wanted.rules} - {rule.name for rule in policy.rules}

    def is_about_those(*texts: str) -> bool:
        return any(name in text for text in texts for name in made_up)

    told = placement.explanation
    return replace(
        placement,
        explanation=replace(
            told,
            conflicts=tuple(
                one for one in told.conflicts if not is_about_those(one.text, *one.members)
            ),
            rejected_moves=tuple(
                one for one in told.rejected_moves if not is_about_those(*one.reasons)
            ),
        ),
    )


def second_look_note(snapshot: Snapshot, found: Mapping[tuple[VmId, str], Impossible]) -> str:
    """Say which moves were given up, and what that means for the proof; empty if none was."""
    if not found:
        return ""
    named = [
        f"{snapshot.vm_by_id[one.vm].name} to {one.place} ({one.reasons[0]})"
        for one in list(found.values())[:_NAMED]
    ]
    left = len(found) - len(named)
    more = f", and {count_text(left, 'move')} more" if left else ""
    return (
        f"searched again without what cannot be carried out: {', '.join(named)}{more}; "
        "what is said of the best possible is said without it"
    )
