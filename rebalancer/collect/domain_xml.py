"""A domain's XML -> what has to be known to place and move it. Pure; libvirt is not asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from rebalancer.cluster.compatibility import HOST_CPU
from rebalancer.cluster.inventory import NumaNode
from rebalancer.collect.device_pools import devices_used
from rebalancer.collect.disk_copies import why_not_copied
from rebalancer.collect.domain_metadata import Hints, read_hints
from rebalancer.collect.domain_numa import numa_nodes, pinned_cpus
from rebalancer.collect.domain_obstacles import obstacles
from rebalancer.collect.storage_identity import network_identity
from rebalancer.collect.xml_text import attribute, byte_count, parse, text_of, whole_number

_SMALL_PAGE_BYTES = 64 * 1024
"""Ordinary pages: 4 KiB, or 16 and 64 KiB on some ARM and POWER machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuWish:
    """The CPU that a guest sees, as far as it binds the VM to certain hosts."""

    model: str | None = None
    """A named model, or `host-passthrough`; `None` goes everywhere."""
    required: frozenset[str] = frozenset()
    """Features on top of the model."""
    disabled: frozenset[str] = frozenset()
    """Features of the model that it does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskImage:
    """One file, device or volume that a disk consists of: its image, or a backing image."""

    path: str | None = None
    pool: str | None = None
    """Name of the storage pool, where the definition names pool and volume."""
    network: str | None = None
    """Identity of the storage, where the disk is reached through a network protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk or drive with something in it."""

    target: str
    device: str
    """`disk`, `lun`, `cdrom` or `floppy`."""
    images: tuple[DiskImage, ...]
    may_be_dropped: bool
    """The VM goes on without it where it is missing (`startupPolicy`)."""
    format: str = ""
    why_not_copied: str = ""
    """What keeps it from being copied to another host, as the end of a sentence about it."""

    @property
    def is_removable(self) -> bool:
        """Whether it is a drive, whose medium nobody would copy along."""
        return self.device in {"cdrom", "floppy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainFacts:
    """What a definition says."""

    uuid: str
    name: str
    memory_bytes: int
    """All it may ever use, plugged modules included."""
    vcpus: int
    is_emulated: bool
    """Its CPU is made in software (TCG), so that the host's CPU does not matter to it."""
    arch: str | None
    machine_type: str | None
    cpu: CpuWish
    disks: tuple[Disk, ...]
    networks: frozenset[str]
    numa_nodes: tuple[NumaNode, ...]
    """Cells of the guest that each need a cell of the host."""
    pinned_cpus: frozenset[int]
    tsc_hertz: float | None
    """Frequency that the guest's time stamp counter was fixed at."""
    devices_used: tuple[str, ...]
    """What may be a device out of a pool of its host."""
    uses_hugepages: bool
    hugepage_bytes: int | None
    """`None` with `uses_hugepages`: the host's default size."""
    hints: Hints
    obstacles: tuple[str, ...]


def read_domain(xml: str) -> DomainFacts:
    """Read a domain's definition; raise `UnreadableXmlError` when it is none."""
    domain = parse(xml)
    page_bytes = _page_sizes(domain)
    is_emulated = domain.get("type") == "qemu"
    memory_bytes, vcpus = byte_count(domain.find("memory")) or 0, _vcpus(domain)
    hints = read_hints(domain)
    return DomainFacts(
        uuid=text_of(domain, "uuid") or "",
        name=text_of(domain, "name") or "",
        memory_bytes=memory_bytes,
        vcpus=vcpus,
        is_emulated=is_emulated,
        arch=attribute(domain, "os/type", "arch"),
        machine_type=attribute(domain, "os/type", "machine"),
        cpu=CpuWish() if is_emulated else _cpu(domain.find("cpu")),
        disks=tuple(_disks(domain)),
        networks=frozenset(_networks(domain)),
        numa_nodes=numa_nodes(domain, vcpus, memory_bytes),
        pinned_cpus=pinned_cpus(domain),
        tsc_hertz=None if is_emulated else _tsc_hertz(domain),
        devices_used=devices_used(domain),
        uses_hugepages=bool(page_bytes),
        hugepage_bytes=max((size for size in page_bytes if size), default=None),
        hints=hints,
        obstacles=tuple(obstacles(domain, devices_migrate=hints.devices_migrate)),
    )


def _vcpus(domain: ET.Element) -> int:
    vcpu = domain.find("vcpu")
    if vcpu is None:
        return 1
    return max(1, whole_number(vcpu.get("current")) or whole_number(vcpu.text) or 1)


def _cpu(cpu: ET.Element | None) -> CpuWish:
    mode = cpu.get("mode", "custom") if cpu is not None else "none"
    if cpu is None or mode == "host-model":
        # A running VM's XML has the model that it became; a stopped one takes what it finds.
        return CpuWish()
    if mode in {"host-passthrough", "maximum"}:
        return CpuWish(model=HOST_CPU)
    features = [(each.get("name") or "", each.get("policy")) for each in cpu.iterfind("feature")]
    return CpuWish(
        model=text_of(cpu, "model"),
        required=frozenset(name for name, policy in features if policy in {"require", "force"}),
        disabled=frozenset(name for name, policy in features if policy in {"disable", "forbid"}),
    )


def _disks(domain: ET.Element) -> Iterator[Disk]:
    for disk in domain.iterfind("devices/disk"):
        images = tuple(_images(disk))
        if images:
            yield Disk(
                target=attribute(disk, "target", "dev") or "?",
                device=disk.get("device", "disk"),
                images=images,
                may_be_dropped=attribute(disk, "source", "startupPolicy")
                in {"requisite", "optional"},
                format=attribute(disk, "driver", "type") or "",
                why_not_copied=why_not_copied(disk),
            )


def _images(disk: ET.Element) -> Iterator[DiskImage]:
    """Yield the image of a disk and those it is based on."""
    layer: ET.Element | None = disk
    while layer is not None:
        source = layer.find("source")
        if source is not None and (image := _image(layer.get("type"), source)):
            yield image
        layer = layer.find("backingStore")


def _image(kind: str | None, source: ET.Element) -> DiskImage | None:
    if kind == "network":
        return DiskImage(network=network_identity(source))
    if pool := source.get("pool"):
        return DiskImage(pool=pool, path=source.get("volume"))
    path = source.get("file") or source.get("dev") or source.get("dir")
    return DiskImage(path=path) if path else None


def _networks(domain: ET.Element) -> Iterator[str]:
    for interface in domain.iterfind("devices/interface"):
        source = interface.find("source")
        if source is None or interface.get("type") not in {"network", "bridge", "direct"}:
            continue
        # A running VM on a libvirt network has that network's bridge in its XML as well.
        if name := source.get("network") or source.get("bridge") or source.get("dev"):
            yield name


def _tsc_hertz(domain: ET.Element) -> float | None:
    timer = domain.find("clock/timer[@name='tsc'][@frequency]")
    return None if timer is None else float(whole_number(timer.get("frequency")) or 0) or None


def _page_sizes(domain: ET.Element) -> list[int | None]:
    """Return the sizes of huge pages asked for; `None` in it is the host's default size."""
    element = domain.find("memoryBacking/hugepages")
    if element is None:
        return []
    pages = element.findall("page")
    sizes = [byte_count(page, "size") for page in pages] if pages else [None]
    return [size for size in sizes if size is None or size > _SMALL_PAGE_BYTES]
