"""What keeps a unit where it is, or off a host: every reason, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.compatibility import misfits
from rebalancer.cluster.inventory import Host, HostState, Vm
from rebalancer.cluster.rules import Ban, Fence, Pin
from rebalancer.cluster.violations import LEAVABLE_STATES
from rebalancer.placement.arrays import Ints
from rebalancer.placement.explain.amounts import WORDS, amount_text
from rebalancer.placement.layout import Layout, Scale
from rebalancer.placement.problem import LIMITED, PlacementProblem, Resource

HOSTS_NAMED = 5
"""Hosts named with one reason; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One reason that keeps a unit off one host."""

    text: str
    """The same words on every host that it holds for."""
    resource: Resource | None = None
    """What there is no room for; `None` for any other reason."""
    needed: float = 0.0
    free: float = 0.0

    @property
    def full_text(self) -> str:
        """The reason with its numbers."""
        if self.resource is None:
            return self.text
        needed, free = amount_text(self.resource, self.needed), max(0.0, self.free)
        return f"{self.text}: {needed} needed, {amount_text(self.resource, free)} free"


class Obstacles:
    """Looks for reasons against having units elsewhere than where `x` has them."""

    def __init__(self, problem: PlacementProblem, x: Ints) -> None:
        """Take a placement; what it breaks already is no reason against anything."""
        self._problem = problem
        self._layout = Layout(problem, x, Scale(tiers=()))
        self._pins = [rule for rule in problem.policy.rules if isinstance(rule, Pin) and rule.hard]

    def own(self, unit: int) -> tuple[str, ...]:
        """What keeps the unit where it is, whatever the other hosts are like."""
        return tuple(self._own(self._problem.units[unit]))

    def company(self, unit: int, vm: Vm) -> tuple[str, ...]:
        """Remark who a VM of the unit moves with, which is no obstacle by itself."""
        others = [other.name for other in self._problem.units[unit] if other.id != vm.id]
        return (f"it only moves together with {listed(others)}",) if others else ()

    def at(self, unit: int, column: int) -> tuple[Obstacle, ...]:
        """What keeps the unit off one host; nothing keeps it from where it is."""
        if column == self._layout.x[unit]:
            return ()
        # A unit of several VMs may meet the same reason several times.
        return tuple(dict.fromkeys(self._at(unit, column)))

    def grouped(self, unit: int) -> tuple[str, ...]:
        """What keeps the unit off all other hosts: one sentence for each reason."""
        found: dict[str, list[tuple[str, Obstacle]]] = {}
        for column, name in enumerate(self._names()):
            for obstacle in self.at(unit, column):
                found.setdefault(obstacle.text, []).append((name, obstacle))
        return tuple(_summed_up(those) for those in found.values())

    def hosts_against(self, unit: int, hosts: Iterable[int]) -> Mapping[str, int]:
        """How many of the hosts each reason keeps the unit off, most frequent first."""
        counts: dict[str, int] = {}
        for column in hosts:
            for obstacle in self.at(unit, column):
                counts[obstacle.text] = counts.get(obstacle.text, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _names(self) -> list[str]:
        return [self._host(column).name for column in range(self._problem.host_count)]

    def _host(self, column: int) -> Host:
        return self._problem.snapshot.host_by_id[self._problem.host_ids[column]]

    def _own(self, vms: Sequence[Vm]) -> Iterator[str]:
        policy = self._problem.policy
        source = self._problem.snapshot.host_by_id[vms[0].host]
        for vm in vms:
            whose = "it" if len(vms) == 1 else vm.name
            prefix = "" if len(vms) == 1 else f"{vm.name}: "
            if not vm.movable:
                yield f"{whose} is marked as not movable"
            yield from (f"{prefix}{blocker}" for blocker in vm.blockers)
            pins = (pin for pin in self._pins if pin.vms.matches(vm))
            yield from (f"{whose} is pinned by {pin.name}" for pin in pins)
        if source.state not in LEAVABLE_STATES:
            yield f"{source.name} {state_text(source)}, nothing is moved off it"
        if not policy.applies.matches(source):
            yield f"policy {policy.name} is not about {source.name}"

    def _at(self, unit: int, column: int) -> Iterator[Obstacle]:
        problem, host = self._problem, self._host(column)
        if not problem.policy.applies.matches(host):
            yield Obstacle(text=f"not looked after by policy {problem.policy.name}")
        if not host.may_receive:
            is_silent = host.state is HostState.UNKNOWN
            yield Obstacle(text=state_text(host) if is_silent else str(host.state))
            if host.is_of_unknown_size:
                return  # It has never been looked at, so there is nothing else to be told of it.
        for vm in problem.units[unit]:
            source = problem.snapshot.host_by_id[vm.host]
            copies = problem.policy.migration.local_disks
            against = misfits(vm, source, host, copies_disks=copies)
            yield from (Obstacle(text=text) for text in against)
            for rule in problem.policy.rules:
                if isinstance(rule, Fence | Ban) and rule.hard and rule.forbids(vm, host):
                    yield Obstacle(text=f"{rule.name} forbids it")
        if host.state is not HostState.DRAINING:
            # What is on a draining host leaves it, so what is free there now means nothing.
            yield from self._no_room(unit, column)
        yield from (Obstacle(text=text) for text in self._layout.broken_rules(unit, column))

    def _no_room(self, unit: int, column: int) -> Iterator[Obstacle]:
        problem, layout = self._problem, self._layout
        for resource in LIMITED:
            needed = float(problem.needs[resource, unit])
            free = float(layout.limits[resource, column] - layout.load[resource, column])
            if needed > free:
                yield Obstacle(
                    text=f"no room for its {WORDS[resource]}",
                    resource=resource,
                    needed=needed,
                    free=free,
                )


def state_text(host: Host) -> str:
    """What a host is, behind its name: `is asleep`, `did not answer`."""
    match host.state:
        case HostState.UNKNOWN:
            return "did not answer"
        case HostState.MAINTENANCE:
            return "is in maintenance"
        case state:
            return f"is {state}"


def _summed_up(found: Sequence[tuple[str, Obstacle]]) -> str:
    """One sentence for the hosts of one reason; of those without room the roomiest is told."""
    names = listed(name for name, _ in found)
    roomiest = max(found, key=lambda each: each[1].free)
    obstacle = roomiest[1]
    if obstacle.resource is None or len(found) == 1:
        return f"{names}: {obstacle.full_text}"
    needed = amount_text(obstacle.resource, obstacle.needed)
    free = amount_text(obstacle.resource, max(0.0, obstacle.free))
    return f"{names}: {obstacle.text}: {needed} needed, at most {free} free (on {roomiest[0]})"


def listed(names: Iterable[str], most: int = HOSTS_NAMED) -> str:
    """Write names in order: `h1, h2, h3, h4, h5 and 12 more`."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
