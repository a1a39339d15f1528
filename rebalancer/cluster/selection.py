"""Selectors: which hosts or VMs a rule or policy is about.

Everything given in a selector must match; within one field any of the values will do. An
empty selector matches everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType

from rebalancer.cluster.inventory import Host, Snapshot, Vm

type LabelPatterns = Mapping[str, tuple[str, ...]]
"""Label name -> globs, one of which the label's value must match."""

_ANY_LABELS: LabelPatterns = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSelector:
    """Hosts by name (globs), label, site and rack."""

    names: tuple[str, ...] = ()
    labels: LabelPatterns = field(default_factory=lambda: _ANY_LABELS)
    sites: tuple[str, ...] = ()
    racks: tuple[str, ...] = ()

    def matches(self, host: Host) -> bool:
        """Whether the selector means `host`."""
        return (
            _any_glob(self.names, host.name, host.id)
            and _labels_match(self.labels, host.labels)
            and (not self.sites or host.site in self.sites)
            and (not self.racks or host.rack in self.racks)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSelector:
    """VMs by name or id (globs) and label."""

    names: tuple[str, ...] = ()
    labels: LabelPatterns = field(default_factory=lambda: _ANY_LABELS)

    def matches(self, vm: Vm) -> bool:
        """Whether the selector means `vm`."""
        return _any_glob(self.names, vm.name, vm.id) and _labels_match(self.labels, vm.labels)


def members_of(selector: VmSelector, snapshot: Snapshot) -> tuple[Vm, ...]:
    """The VMs of a snapshot that a selector means, in the snapshot's order.

    The same as asking `matches` of each, but found by name or label and only once: a hundred
    rules about 20,000 VMs are asked about again and again.
    """
    key = (selector.names, tuple(sorted(selector.labels.items())))
    if key not in snapshot.selections:
        snapshot.selections[key] = tuple(
            vm for vm in _candidates(selector, snapshot) if selector.matches(vm)
        )
    return snapshot.selections[key]


def _candidates(selector: VmSelector, snapshot: Snapshot) -> Iterable[Vm]:
    """VMs that a selector may mean: all of those it does, and as few others as is easy."""
    if selector.labels:
        name, globs = next(iter(selector.labels.items()))
        values = snapshot.positions_by_label.get(name, {})
        places = {p for value, found in values.items() if _any_glob(globs, value) for p in found}
    elif selector.names and not _names_and_patterns(selector.names)[1]:
        names = snapshot.positions_by_name
        places = {place for name in selector.names for place in names.get(name, ())}
    else:
        return snapshot.vms
    return (snapshot.vms[place] for place in sorted(places))


def places_by_name(hosts: Sequence[Host]) -> Mapping[str, Sequence[int]]:
    """Places in `hosts` of those with a name or id, for `places_of`."""
    found: dict[str, list[int]] = {}
    for place, host in enumerate(hosts):
        for name in {host.name, host.id}:
            found.setdefault(name, []).append(place)
    return found


def places_of(
    selector: HostSelector, hosts: Sequence[Host], by_name: Mapping[str, Sequence[int]]
) -> list[int]:
    """Places in `hosts` of those that a selector means, in order.

    The same as asking `matches` of each, but where hosts are named only these are looked at.
    """
    looked_at: Iterable[int] = range(len(hosts))
    if selector.names and not _names_and_patterns(selector.names)[1]:
        looked_at = sorted({place for name in selector.names for place in by_name.get(name, ())})
    return [place for place in looked_at if selector.matches(hosts[place])]


def _any_glob(globs: tuple[str, ...], *texts: str) -> bool:
    if not globs:
        return True
    names, patterns = _names_and_patterns(globs)
    return any(text in names for text in texts) or any(
        fnmatchcase(text, pattern) for pattern in patterns for text in texts
    )


@lru_cache(maxsize=4096)
def _names_and_patterns(globs: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    # A rule may list hundreds of VMs by name, and be asked about thousands; and after a plan that
    # empties hundreds of hosts there is a rule for each of them.
    patterns = tuple(glob for glob in globs if any(sign in glob for sign in "*?["))
    return frozenset(globs) - set(patterns), patterns


def _labels_match(wanted: LabelPatterns, found: Mapping[str, str]) -> bool:
    return all(
        name in found and any(fnmatchcase(found[name], glob) for glob in globs)
        for name, globs in wanted.items()
    )
