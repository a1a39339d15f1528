"""Which storage two hosts mean the same by."""

from __future__ import annotations

import pytest

from rebalancer.collect.storage_identity import read_pool, storage_of_path
from tests.unit.collect.fakes import local_pool_xml, nfs_pool_xml

NFS = read_pool(nfs_pool_xml("/mnt/vms"))
LOCAL = read_pool(local_pool_xml())


@pytest.mark.parametrize(
    ("xml", "identity"),
    [
        (nfs_pool_xml(), "nfs:filer:/export/vms"),
        (nfs_pool_xml().replace("type='nfs'", "type='auto'"), "nfs:filer:/export/vms"),
        (nfs_pool_xml().replace("type='nfs'", "type='cifs'"), "cifs:filer:/export/vms"),
        (
            "<pool type='rbd'><source><host name='b'/><host name='a'/><name>vms</name></source>"
            "</pool>",
            "rbd:a,b/vms",
        ),
        ("<pool type='rbd'><source><name>vms</name></source></pool>", "rbd:vms"),
        (
            "<pool type='gluster'><source><host name='g1'/><name>vol</name></source></pool>",
            "gluster:g1/vol",
        ),
        (
            "<pool type='iscsi'><source><host name='san'/><device path='iqn.x'/></source></pool>",
            "iscsi:san/iqn.x",
        ),
        (local_pool_xml(), None),
        ("<pool type='logical'><source><name>vg0</name></source></pool>", None),
        ("<pool type='dir'/>", None),
    ],
)
def test_a_pool_is_called_by_its_source(xml: str, identity: str | None) -> None:
    assert read_pool(xml).identity == identity


def test_the_pool_called_default_is_not_shared_though_every_host_has_one() -> None:
    assert storage_of_path("/var/lib/libvirt/images/a.qcow2", {}, [LOCAL]) is None


def test_a_file_on_a_network_filesystem() -> None:
    found = storage_of_path("/mnt/vms/sub/a.qcow2", {}, [LOCAL, NFS])

    assert found == "nfs:filer:/export/vms"


def test_a_path_that_only_begins_alike_is_elsewhere() -> None:
    assert storage_of_path("/mnt/vms2/a.qcow2", {}, [NFS]) is None


def test_the_innermost_mount_decides() -> None:
    inner = read_pool(local_pool_xml("/mnt/vms/scratch", "scratch"))

    assert storage_of_path("/mnt/vms/scratch/a", {}, [NFS, inner]) is None


def test_what_the_operator_says_comes_first() -> None:
    images = {"san1": "/var/lib/libvirt/images"}

    assert storage_of_path("/var/lib/libvirt/images/a", images, [LOCAL]) == "san1"


def test_a_device_itself_may_be_shared() -> None:
    assert storage_of_path("/dev/mapper/lun7", {"lun7": "/dev/mapper/lun7"}, []) == "lun7"


def test_iscsi_devices_of_one_folder_are_told_apart() -> None:
    pool = read_pool(
        "<pool type='iscsi'><source><host name='san'/><device path='iqn.x'/></source>"
        "<target><path>/dev/disk/by-path</path></target></pool>"
    )
    device = "/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{}-lun-1"

    assert storage_of_path(device.format("iqn.x"), {}, [pool]) == "iscsi:san/iqn.x"
    assert storage_of_path(device.format("iqn.y"), {}, [pool]) is None
