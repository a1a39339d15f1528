"""What in a domain's XML keeps libvirt from migrating it, whatever the target.

After `qemuMigrationSrcIsAllowed` and `qemuMigrationSrcIsSafe` of libvirt and the migration
blockers of QEMU: devices whose state lives in the host, and work in progress. Each obstacle is
a clause about the VM that names the device, so that an operator knows what to detach.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from rebalancer.collect.device_pools import pci_address
from rebalancer.collect.xml_text import attribute, text_of


def obstacles(domain: ET.Element, *, devices_migrate: bool = False) -> Iterator[str]:
    """Yield everything in the definition that rules out moving the VM alive.

    `devices_migrate`: its owner knows that the drivers of its PCI and mediated devices can do it
    (VFIO migration, which libvirt allows from 8.6 on where QEMU does); nobody else can tell.
    """
    yield from _host_devices(domain, devices_migrate=devices_migrate)
    yield from _host_interfaces(domain, devices_migrate=devices_migrate)
    yield from _disks(domain)
    yield from _shared_with_host(domain)
    yield from _host_backed(domain)
    yield from _processor(domain)


def _host_devices(domain: ET.Element, *, devices_migrate: bool) -> Iterator[str]:
    for device in domain.iterfind("devices/hostdev"):
        if _is_replaced_while_moving(device):
            continue
        if devices_migrate and device.get("type") in {"pci", "mdev"}:
            continue
        kind = device.get("type") or device.get("mode") or "unknown"
        name = _host_device_name(device, kind)
        yield f"it uses the host's {_KINDS.get(kind, kind)} {name}".rstrip()


_KINDS = {
    "pci": "PCI device",
    "usb": "USB device",
    "scsi": "SCSI device",
    "scsi_host": "SCSI controller",
    "mdev": "mediated device",
}


def _host_device_name(device: ET.Element, kind: str) -> str:
    source = device.find("source")
    if source is None:
        return ""
    if kind == "usb" and (vendor := attribute(source, "vendor", "id")):
        return f"{vendor}:{attribute(source, 'product', 'id')}"
    if source.get("wwpn"):
        return str(source.get("wwpn"))
    address = source.find("address")
    return _address(address) if address is not None else ""


def _address(address: ET.Element) -> str:
    if uuid := address.get("uuid"):
        return uuid
    if address.get("slot"):
        return pci_address(address)
    return ":".join(address.attrib.values())


def _is_replaced_while_moving(device: ET.Element) -> bool:
    """A failover pair: QEMU unplugs the host's device and the guest goes on with the other."""
    return attribute(device, "teaming", "type") == "transient"


def _host_interfaces(domain: ET.Element, *, devices_migrate: bool) -> Iterator[str]:
    for interface in domain.iterfind("devices/interface"):
        kind, mac = interface.get("type"), attribute(interface, "mac", "address") or "?"
        if kind == "hostdev" and not (devices_migrate or _is_replaced_while_moving(interface)):
            address = interface.find("source/address")
            where = f" {_address(address)}" if address is not None else ""
            yield f"its network interface {mac} is the host's PCI device{where}"
        elif kind == "vdpa":
            yield f"its network interface {mac} is a vDPA device of the host"


def _disks(domain: ET.Element) -> Iterator[str]:
    for disk in domain.iterfind("devices/disk"):
        target = attribute(disk, "target", "dev") or "?"
        if disk.get("type") == "nvme":
            yield f"its disk {target} is an NVMe device of the host"
        elif disk.get("type") in {"vhostuser", "vhostvdpa", "dir"}:
            yield f"its disk {target} is of type {disk.get('type')}, which cannot be migrated"
        if disk.find("mirror") is not None:
            yield f"a block job runs on its disk {target}"


def _shared_with_host(domain: ET.Element) -> Iterator[str]:
    for filesystem in domain.iterfind("devices/filesystem"):
        folder = attribute(filesystem, "source", "dir") or attribute(filesystem, "source", "name")
        target = attribute(filesystem, "target", "dir")
        yield f"it shares the folder {folder or target or '?'} with its host"
    for shmem in domain.iterfind("devices/shmem"):
        # libvirt migrates ivshmem only as the master of a server, which frees the others
        if shmem.get("role") != "master":
            yield f"it shares the memory {shmem.get('name') or '?'} with others on its host"


def _host_backed(domain: ET.Element) -> Iterator[str]:
    for tpm in domain.iterfind("devices/tpm/backend[@type='passthrough']"):
        yield f"it uses the host's TPM {attribute(tpm, 'device', 'path') or ''}".rstrip()
    for kind in ("serial", "parallel", "console", "channel"):
        for device in domain.iterfind(f"devices/{kind}[@type='dev']"):
            yield f"its {kind} port is the host's {attribute(device, 'source', 'path') or 'own'}"
    for card in domain.iterfind("devices/smartcard"):
        if card.get("mode") in {"host", "host-certificates"}:
            yield "it uses the host's smart card"
    for memory in domain.iterfind("devices/memory"):
        if memory.get("model") in {"nvdimm", "virtio-pmem"}:
            path = text_of(memory, "source/path") or "a file"
            yield f"its memory device is backed by {path} on the host"
    if domain.find("devices/video/model/acceleration[@accel3d='yes']") is not None:
        yield "its 3D graphics run on the host"


def _processor(domain: ET.Element) -> Iterator[str]:
    security = domain.find("launchSecurity")
    if security is not None:
        yield f"its memory is protected by {security.get('type') or 'launch security'}"
    cpu = domain.find("cpu")
    if cpu is None:
        return
    if cpu.get("migratable") == "off":
        yield 'its CPU is set to migratable="off"'
    # QEMU refuses unless the guest was given a fixed frequency that the target can keep
    has_invtsc = cpu.find("feature[@name='invtsc'][@policy='require']") is not None
    if has_invtsc and domain.find("clock/timer[@name='tsc'][@frequency]") is None:
        yield "its CPU has an invariant TSC (invtsc) and no fixed TSC frequency"
