"""Pools of devices: libvirt networks that hand each guest a card, or part of one, of their own.

A network in mode `hostdev` has a list of PCI devices (the virtual functions of SR-IOV cards), one
in mode `passthrough` a list of interfaces; each is given to one guest at a time. Such a pool is
called like its network, which has to have the same name on all hosts anyway. Pools of other
devices, of virtual GPUs say, are told in the configuration of hosts and the metadata of VMs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree as ET

from rebalancer.collect.xml_text import attribute, parse, text_of


def pci_address(address: ET.Element) -> str:
    """Return a PCI address as everybody writes it: `0000:3b:02.1`."""
    domain, bus, slot, function = (
        (address.get(part) or "0").removeprefix("0x")
        for part in ("domain", "bus", "slot", "function")
    )
    return f"{domain:0>4}:{bus:0>2}:{slot:0>2}.{function}"


def read_device_pool(xml: str) -> tuple[str, frozenset[str]] | None:
    """Return name and members of a network that is a pool of devices; `None` for any other."""
    network = parse(xml)
    name, forward = text_of(network, "name"), network.find("forward")
    if name is None or forward is None:
        return None
    if forward.get("mode") == "hostdev":
        addresses = (each for each in forward.iterfind("address") if each.get("type") == "pci")
        return name, frozenset(map(pci_address, addresses))
    if forward.get("mode") == "passthrough":
        devices = (each.get("dev") for each in forward.iterfind("interface"))
        return name, frozenset(device for device in devices if device)
    return None


def devices_used(domain: ET.Element) -> tuple[str, ...]:
    """Return what may be a device out of a pool: PCI addresses, networks, and interfaces.

    A running VM tells the device that it was given, one that is off the network it asks.
    """
    return tuple(_devices_used(domain))


def _devices_used(domain: ET.Element) -> Iterator[str]:
    for device in domain.iterfind("devices/hostdev[@type='pci']"):
        address = device.find("source/address")
        if address is not None:
            yield pci_address(address)
    for interface in domain.iterfind("devices/interface"):
        address = interface.find("source/address")
        named = attribute(interface, "source", "network") or attribute(interface, "source", "dev")
        if interface.get("type") == "hostdev" and address is not None:
            yield pci_address(address)
        elif interface.get("type") in {"network", "direct"} and named:
            yield named


def taken_from(
    pools: Mapping[str, frozenset[str]], used: Sequence[str], declared: Mapping[str, int]
) -> dict[str, int]:
    """Count what a VM takes of each pool: what its definition shows, or its owner says of it."""
    counts = Counter(
        name for each in used for name, members in pools.items() if each == name or each in members
    )
    return dict(counts) | dict(declared)
