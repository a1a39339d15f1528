"""Which disks of a host could be copied to another one, by what their definitions say.

Files in a directory can be. For everything else libvirt would need something on the target that
only its operator can make (volumes of LVM, LUNs, keys), or would leave a part of it behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from rebalancer.collect.xml_text import attribute


def why_not_copied(disk: ET.Element) -> str:
    """Say what in its definition keeps a disk from being copied; empty if nothing does."""
    return " and ".join(_reasons(disk))


def _reasons(disk: ET.Element) -> Iterator[str]:
    kind = disk.get("type", "file")
    if kind != "file":
        yield f"it is of type {kind}, not a file"
    if disk.get("device", "disk") != "disk":
        yield f"it is a {disk.get('device')}"
    for element, words in _MARKS.items():
        if disk.find(element) is not None:
            yield words
    if base := attribute(disk, "backingStore/source", "file"):
        yield f"it is based on another image, {base}"
    elif disk.find("backingStore/source") is not None:
        yield "it is based on another image"


_MARKS = {
    "readonly": "it is read-only, and libvirt copies no such disk",
    "shareable": "other VMs may use it",
    "transient": "it is transient",
    "encryption": "it is encrypted",
    "source/encryption": "it is encrypted",
    "source/slices": "it is a part of its file",
    "source/dataStore": "its data is in another file",
}
