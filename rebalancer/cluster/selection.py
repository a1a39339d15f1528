"""Selectors: which hosts or VMs a rule or policy is about.

Everything given in a selector must match; within one field any of the values will do. An
empty selector matches everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

from rebalancer.cluster.inventory import Host, Vm

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


def _any_glob(globs: tuple[str, ...], *texts: str) -> bool:
    return not globs or any(fnmatchcase(text, glob) for glob in globs for text in texts)


def _labels_match(wanted: LabelPatterns, found: Mapping[str, str]) -> bool:
    return all(
        name in found and any(fnmatchcase(found[name], glob) for glob in globs)
        for name, globs in wanted.items()
    )
