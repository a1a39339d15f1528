"""Rules that no cluster of this shape can keep, whatever else is given up."""

from __future__ import annotations

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.rules import Ban, Domain, Fence, Presence, Rule, Spread, groups_in

NOWHERE_ELSE = "there is nowhere else"


def why_never(rule: Rule, snapshot: Snapshot) -> str:
    """Say what the rule asks for that there is not: `its 5 VMs have 3 racks, 1 in each at most`."""
    match rule:
        case Spread():
            largest = max(map(len, groups_in(rule, snapshot)), default=0)
            places = _places(rule.over, snapshot)
            if largest > places * rule.at_most:
                have = _counted(places, rule.over)
                return f"its {largest} VMs have {have}, {rule.at_most} in each at most"
        case Presence():
            largest = max(map(len, groups_in(rule, snapshot)), default=0)
            wanted, places = min(rule.at_least, largest), _places(rule.over, snapshot)
            if wanted > places:
                return f"it wants {_counted(wanted, rule.over)}, and there {_are(places)}"
        case Fence() if not any(map(rule.to.matches, snapshot.hosts)):
            return "no host is in its fence"
        case Ban() if all(map(rule.hosts.matches, snapshot.hosts)):
            return "it bans every host"
        case _:
            pass
    return NOWHERE_ELSE


def _places(over: Domain, snapshot: Snapshot) -> int:
    return len({snapshot.domain_of(host, over) for host in snapshot.hosts})


def _counted(count: int, over: Domain) -> str:
    return f"{count} {over}{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
