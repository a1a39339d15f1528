"""What libvirt tells of disks that one host alone reaches, and of room for copies of them."""

from __future__ import annotations

from typing import Any

import pytest

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import Host, Vm
from tests.builders import GIB
from tests.unit.collect.fakes import (
    FakeHypervisor,
    FakeVm,
    a_disk,
    a_domain_xml,
    a_source,
    local_pool_xml,
    nfs_pool_xml,
)

IMAGES = "/var/lib/libvirt/images"
STATS: dict[str, Any] = {
    "block.count": 1,
    "block.0.name": "vda",
    "block.0.capacity": 9 * GIB,
    "block.0.physical": 2 * GIB,
}
POOL = (
    "<pool type='dir'><name>default</name><available unit='bytes'>5000</available>"
    "<source/><target><path>/var/lib/libvirt/images/</path></target></pool>"
)


def seen(xml: str, **answers: Any) -> tuple[Host, Vm]:
    vm = FakeVm(xml=xml, stats=STATS)
    snapshot = a_source({"h1": FakeHypervisor([vm], **answers)}).observe()
    return snapshot.hosts[0], snapshot.vms[0]


def a_file(inner: str = "", attributes: str = "type='file'", path: str = f"{IMAGES}/a") -> str:
    return a_domain_xml(
        devices=f"<disk {attributes}><driver name='qemu' type='qcow2'/>"
        f"<source file='{path}'/><target dev='vda'/>{inner}</disk>"
    )


def test_a_local_disk_is_known_with_its_file_its_size_and_what_it_takes_up() -> None:
    _, vm = seen(a_file())

    assert vm.local_disks == (
        LocalDisk(
            target="vda",
            capacity_bytes=9 * GIB,
            path=f"{IMAGES}/a",
            format="qcow2",
            allocated_bytes=2 * GIB,
        ),
    )
    assert vm.local_disk_bytes == 9 * GIB


def test_a_disk_on_shared_storage_is_none_of_them() -> None:
    _, vm = seen(a_domain_xml(devices=a_disk("/mnt/vms/db1.qcow2")))

    assert vm.local_disks == ()


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        (a_file("<readonly/>"), "it is read-only"),
        (a_file("<shareable/>"), "other VMs may use it"),
        (a_file("<transient/>"), "it is transient"),
        (a_file("<encryption format='luks'/>"), "it is encrypted"),
        (a_file(attributes="type='file' device='lun'"), "it is a lun"),
        (a_file("<backingStore type='file'><source file='/b'/></backingStore>"), "image, /b"),
        (
            a_domain_xml(
                devices="<disk type='block'><source dev='/dev/vg/a'/><target dev='vda'/></disk>"
            ),
            "it is of type block",
        ),
        (
            a_domain_xml(
                devices="<disk type='volume'><source pool='default' volume='v'/>"
                "<target dev='vda'/></disk>"
            ),
            "it is of type volume",
        ),
    ],
)
def test_a_disk_that_cannot_be_copied_says_why(xml: str, why: str) -> None:
    (disk,) = seen(xml)[1].local_disks

    assert why in disk.obstacle


def test_an_image_that_ends_its_chain_is_based_on_nothing() -> None:
    (disk,) = seen(a_file("<backingStore/>"))[1].local_disks

    assert disk.obstacle == ""


def test_a_host_tells_what_is_free_in_folders_of_its_own() -> None:
    shared = nfs_pool_xml().replace("<source>", "<available unit='bytes'>7</available><source>")
    host, _ = seen(a_file(), pool_xmls=[POOL, shared])

    assert host.disk_pools == {IMAGES: 5000}


def test_files_that_would_be_in_the_way_of_another_hosts_disk_are_told() -> None:
    vm = FakeVm(xml=a_file(), stats=STATS)
    source = FakeHypervisor([vm], pool_xmls=[POOL], files_in=["a", "b"])
    target = FakeHypervisor([], pool_xmls=[POOL], files_in=["a", "c"], hostname="h2")
    empty = FakeHypervisor([], pool_xmls=[local_pool_xml()], files_in=["a"], hostname="h3")
    hosts = a_source({"h1": source, "h2": target, "h3": empty}).observe().hosts

    assert [host.disk_files for host in hosts] == [set(), {f"{IMAGES}/a"}, set()]


def test_a_pool_that_does_not_say_what_is_free_and_a_host_without_pools_are_unknown() -> None:
    without = FakeHypervisor([FakeVm()])
    without.failing = {"pool_xmls"}

    assert seen(a_file(), pool_xmls=[local_pool_xml()])[0].disk_pools == {}
    assert a_source({"h1": without}).observe().hosts[0].disk_pools is None
