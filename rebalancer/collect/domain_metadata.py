"""What the owner of a VM says about it in libvirt's domain metadata: labels and hints.

`docs/domain-metadata.md` tells operators how to write it. What cannot be understood keeps the
VM where it is until somebody has mended it: a misspelt `<movable>no</movable>` must not become
a permission.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from xml.etree import ElementTree as ET

from rebalancer.cluster.inventory import Mode
from rebalancer.collect.xml_text import whole_number

NAMESPACE = "https://rebalancer.dev/xmlns/domain/1.0"

_YES = {"yes", "true", "1"}
_NO = {"no", "false", "0"}
_NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_DEVICES: Mapping[str, int] = MappingProxyType({})
_MOST_DEVICES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the owner of a VM wants, as far as it could be understood."""

    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    movable: bool = True
    allowed_modes: frozenset[Mode] | None = None
    max_downtime_seconds: float | None = None
    devices: Mapping[str, int] = field(default_factory=lambda: _NO_DEVICES)
    """How many devices it takes of pools that its definition does not show."""
    devices_migrate: bool = False
    """Whether its passed-through devices can be migrated with it."""
    faults: tuple[str, ...] = ()
    """What could not be understood, in words."""


def read_hints(domain: ET.Element) -> Hints:
    """Read the hints of a domain. Elements of other programs are none of our business."""
    hints = Hints()
    for root in domain.findall(f"metadata/{{{NAMESPACE}}}vm"):
        for element in root:
            hints = _with(hints, element)
    for other in domain.findall(f"metadata/{{{NAMESPACE}}}*"):
        if _local_name(other) != "vm":
            hints = _with_fault(hints, f"<{_local_name(other)}> is not known, expected <vm>")
    return hints


def _with(hints: Hints, element: ET.Element) -> Hints:
    name = _local_name(element)
    reader = _READERS.get(name)
    if reader is None:
        return _with_fault(hints, f"<{name}> is not known, expected {', '.join(_READERS)}")
    try:
        return reader(hints, element)
    except ValueError as error:
        return _with_fault(hints, f"<{name}> {error}")


def _with_fault(hints: Hints, fault: str) -> Hints:
    return replace(hints, faults=(*hints.faults, fault))


def _local_name(element: ET.Element) -> str:
    """`virsh metadata --set` puts only the outermost element into the namespace."""
    return element.tag.rpartition("}")[2]


def _label(hints: Hints, element: ET.Element) -> Hints:
    name, value = element.get("name"), element.get("value")
    if not name or value is None:
        raise ValueError('needs a name and a value: <label name="app" value="db"/>')
    if not name.isprintable():
        raise ValueError(f"has an unprintable name, {name!r}")
    if name in hints.labels and hints.labels[name] != value:
        raise ValueError(f"{name!r} is there twice")
    return replace(hints, labels={**hints.labels, name: value})


def _movable(hints: Hints, element: ET.Element) -> Hints:
    word = _word(element)
    if word not in _YES | _NO:
        raise ValueError(f"is {word!r}, expected yes or no")
    return replace(hints, movable=word in _YES and hints.movable)


def _modes(hints: Hints, element: ET.Element) -> Hints:
    words = _word(element).replace("-", "_").replace(",", " ").split()
    if unknown := sorted(set(words) - set(Mode)):
        raise ValueError(f"has {', '.join(unknown)}, expected some of {', '.join(Mode)}")
    if not words:
        raise ValueError("is empty; to forbid moving write <movable>no</movable>")
    return replace(hints, allowed_modes=frozenset(map(Mode, words)))


def _max_downtime(hints: Hints, element: ET.Element) -> Hints:
    text = element.get("seconds", "")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f'is {text!r}, expected seconds: <max-downtime seconds="0.3"/>')
    return replace(hints, max_downtime_seconds=seconds)


def _device(hints: Hints, element: ET.Element) -> Hints:
    pool, count = element.get("pool"), whole_number(element.get("count", "1"))
    if not pool or not pool.isprintable() or count is None or not 1 <= count <= _MOST_DEVICES:
        raise ValueError('needs a pool and a number: <device pool="vgpu-a16" count="1"/>')
    if pool in hints.devices:
        raise ValueError(f"of pool {pool!r} is there twice")
    return replace(hints, devices={**hints.devices, pool: count})


def _devices_migrate(hints: Hints, element: ET.Element) -> Hints:
    word = _word(element)
    if word not in _YES | _NO:
        raise ValueError(f"is {word!r}, expected yes or no")
    return replace(hints, devices_migrate=word in _YES)


def _word(element: ET.Element) -> str:
    return (element.text or "").strip().lower()


_READERS: Mapping[str, Callable[[Hints, ET.Element], Hints]] = MappingProxyType(
    {
        "label": _label,
        "movable": _movable,
        "modes": _modes,
        "max-downtime": _max_downtime,
        "device": _device,
        "devices-migrate": _devices_migrate,
    }
)
