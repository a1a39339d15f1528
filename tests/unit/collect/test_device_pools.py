"""Pools of devices that libvirt networks are, and what VMs take of them."""

from __future__ import annotations

import pytest

from rebalancer.cluster.inventory import Vm
from rebalancer.collect.device_pools import read_device_pool
from tests.unit.collect.fakes import FakeHypervisor, FakeVm, a_domain_xml, a_source, hints

SRIOV = (
    "<network connections='1'><name>sriov</name><forward mode='hostdev' managed='yes'>"
    "<driver name='vfio'/><pf dev='eth3'/>"
    "<address type='pci' domain='0x0000' bus='0x3b' slot='0x02' function='0x0'/>"
    "<address type='pci' domain='0x0000' bus='0x3b' slot='0x02' function='0x1'/>"
    "</forward></network>"
)
MACVTAP = (
    "<network><name>fast</name><forward dev='eth10' mode='passthrough'>"
    "<interface dev='eth10'/><interface dev='eth11'/></forward></network>"
)
LAN = "<network><name>lan</name><forward mode='nat'/><bridge name='virbr1'/></network>"
FUNCTION = (
    "<source><address type='pci' domain='0x0000' bus='0x3b' slot='0x02' function='0x1'/></source>"
)


def the_vm(devices: str = "", metadata: str = "") -> Vm:
    vm = FakeVm("db1", xml=a_domain_xml(devices=devices, metadata=metadata))
    host = FakeHypervisor([vm], network_xmls=[SRIOV, MACVTAP, LAN])
    return a_source({"h1": host}).observe().vms[0]


def test_a_network_of_virtual_functions_is_a_pool_of_them() -> None:
    assert read_device_pool(SRIOV) == ("sriov", frozenset({"0000:3b:02.0", "0000:3b:02.1"}))


def test_a_network_of_interfaces_for_one_guest_each_is_a_pool_of_them() -> None:
    assert read_device_pool(MACVTAP) == ("fast", frozenset({"eth10", "eth11"}))


def test_other_networks_are_no_pools() -> None:
    assert read_device_pool(LAN) is None
    assert read_device_pool("<network><name>isolated</name></network>") is None


def test_a_host_has_as_many_devices_as_its_networks_list_and_its_owner_says() -> None:
    host = FakeHypervisor(network_xmls=[SRIOV, MACVTAP, LAN])

    snapshot = a_source({"h1": host}, configured={"h1": {"devices": {"vgpu": 4}}}).observe()

    assert snapshot.hosts[0].devices == {"sriov": 2, "fast": 2, "vgpu": 4}


@pytest.mark.parametrize(
    "devices",
    [
        f"<interface type='hostdev'><mac address='52:54:00:00:00:01'/>{FUNCTION}</interface>",
        f"<hostdev mode='subsystem' type='pci'>{FUNCTION}</hostdev>",
        "<interface type='network'><source network='sriov'/></interface>",
    ],
)
def test_a_vm_takes_a_function_by_its_address_or_through_its_network(devices: str) -> None:
    assert the_vm(devices).devices == {"sriov": 1}


def test_a_failover_pair_takes_a_function_and_can_move() -> None:
    vm = the_vm(
        f"<interface type='hostdev'>{FUNCTION}<teaming type='transient' persistent='ua-b'/>"
        "</interface>"
    )

    assert (vm.devices, vm.blockers) == ({"sriov": 1}, ())


def test_devices_that_no_pool_has_are_not_counted() -> None:
    device = FUNCTION.replace("0x3b", "0x99")

    assert the_vm(f"<hostdev mode='subsystem' type='pci'>{device}</hostdev>").devices == {}


def test_an_owner_tells_what_the_definition_does_not_show() -> None:
    mdev = (
        "<hostdev mode='subsystem' type='mdev'><source><address uuid='c2177883'/></source>"
        "</hostdev>"
    )
    told = hints("<rebalancer:device pool='vgpu' count='2'/>")
    migrates = hints(
        "<rebalancer:device pool='vgpu'/>"
        "<rebalancer:devices-migrate>yes</rebalancer:devices-migrate>"
    )

    fixed, free = the_vm(mdev, told), the_vm(mdev, migrates)

    assert (fixed.devices, fixed.blockers) == (
        {"vgpu": 2},
        ("it uses the host's mediated device c2177883",),
    )
    assert (free.devices, free.blockers) == ({"vgpu": 1}, ())


@pytest.mark.parametrize(
    "element",
    [
        "<rebalancer:device/>",
        "<rebalancer:device pool='vgpu' count='0'/>",
        "<rebalancer:device pool='vgpu' count='many'/>",
        "<rebalancer:device pool='vgpu'/><rebalancer:device pool='vgpu'/>",
        "<rebalancer:devices-migrate>maybe</rebalancer:devices-migrate>",
    ],
)
def test_a_hint_that_cannot_be_understood_keeps_the_vm_where_it_is(element: str) -> None:
    (blocker,) = the_vm(metadata=hints(element)).blockers

    assert "metadata cannot be understood" in blocker
