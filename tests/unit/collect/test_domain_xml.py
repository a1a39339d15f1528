"""Domain definitions: what is read from them, and that odd ones do no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.inventory import NumaNode
from rebalancer.collect.domain_xml import DiskImage, read_domain
from rebalancer.collect.xml_text import UnreadableXmlError
from tests.builders import GIB, MIB
from tests.unit.collect.fakes import a_disk, a_domain_xml


def test_size_and_platform() -> None:
    facts = read_domain(a_domain_xml("db1"))

    assert (facts.uuid, facts.name) == ("uuid-db1", "db1")
    assert (facts.memory_bytes, facts.vcpus) == (4 * GIB, 2)
    assert (facts.arch, facts.machine_type) == ("x86_64", "pc-q35-7.2")
    assert not facts.is_emulated


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("<memory>1024</memory>", MIB),
        ("<memory unit='GiB'>2</memory>", 2 * GIB),
        ("<memory unit='b'>4096</memory>", 4096),
        ("<memory unit='MB'>3</memory>", 3_000_000),
        ("<memory unit='parsec'>3</memory>", 0),
        ("<memory unit='KiB'>-3</memory>", 0),
        ("", 0),
    ],
)
def test_memory_in_any_unit(memory: str, expected: int) -> None:
    assert read_domain(a_domain_xml(memory=memory)).memory_bytes == expected


def test_vcpus_that_are_unplugged_do_not_count() -> None:
    assert read_domain(a_domain_xml(vcpu="<vcpu current='3'>8</vcpu>")).vcpus == 3


@pytest.mark.parametrize(
    ("cpu", "model"),
    [
        ("", None),
        ("<cpu mode='host-passthrough' migratable='on'/>", "host-passthrough"),
        ("<cpu mode='maximum'/>", "host-passthrough"),
        ("<cpu mode='host-model'/>", None),
        ("<cpu mode='custom'><model fallback='forbid'>Nehalem</model></cpu>", "Nehalem"),
        ("<cpu><model>Nehalem</model></cpu>", "Nehalem"),
    ],
)
def test_the_cpu_model_that_a_guest_sees(cpu: str, model: str | None) -> None:
    assert read_domain(a_domain_xml(cpu=cpu)).cpu.model == model


def test_features_that_a_running_guest_was_given_or_denied() -> None:
    cpu = (
        "<cpu mode='custom' match='exact' check='full'><model>Skylake-Client</model>"
        "<feature policy='require' name='ssbd'/><feature policy='force' name='x2apic'/>"
        "<feature policy='disable' name='hle'/><feature policy='optional' name='rtm'/></cpu>"
    )

    wish = read_domain(a_domain_xml(cpu=cpu)).cpu

    assert wish.required == {"ssbd", "x2apic"}
    assert wish.disabled == {"hle"}


def test_an_emulated_cpu_binds_a_guest_to_no_host() -> None:
    cpu = "<cpu mode='custom'><model>Nehalem</model></cpu>"

    facts = read_domain(a_domain_xml(kind="qemu", cpu=cpu))

    assert facts.is_emulated
    assert facts.cpu.model is None


def test_disks_wherever_their_images_are() -> None:
    devices = (
        a_disk("/mnt/vms/db1.qcow2", "vda")
        + "<disk type='block'><source dev='/dev/sdb'/><target dev='vdb'/></disk>"
        + "<disk type='volume'><source pool='p' volume='v'/><target dev='vdc'/></disk>"
        + "<disk type='network'><source protocol='rbd' name='vms/db1'>"
        "<host name='mon2'/><host name='mon1'/></source><target dev='vdd'/></disk>"
        + "<disk type='file' device='cdrom'><target dev='sda'/></disk>"
    )

    disks = read_domain(a_domain_xml(devices=devices)).disks

    assert [disk.images for disk in disks] == [
        (DiskImage(path="/mnt/vms/db1.qcow2"),),
        (DiskImage(path="/dev/sdb"),),
        (DiskImage(pool="p", path="v"),),
        (DiskImage(network="rbd:mon1,mon2/vms"),),
    ]


def test_what_an_image_is_based_on_belongs_to_the_disk() -> None:
    devices = (
        "<disk type='file'><source file='/mnt/vms/db1.qcow2'/><target dev='vda'/>"
        "<backingStore type='file'><source file='/var/base.qcow2'/>"
        "<backingStore type='file'><source file='/var/older.qcow2'/><backingStore/>"
        "</backingStore></backingStore></disk>"
    )

    (disk,) = read_domain(a_domain_xml(devices=devices)).disks

    paths = [image.path for image in disk.images]
    assert paths == ["/mnt/vms/db1.qcow2", "/var/base.qcow2", "/var/older.qcow2"]


@pytest.mark.parametrize(
    ("policy", "may_be_dropped"),
    [("", False), ("startupPolicy='mandatory'", False), ("startupPolicy='optional'", True)],
)
def test_a_medium_that_may_be_missing(policy: str, may_be_dropped: bool) -> None:
    devices = (
        f"<disk type='file' device='cdrom'><source file='/iso' {policy}/><target dev='sda'/></disk>"
    )

    (disk,) = read_domain(a_domain_xml(devices=devices)).disks

    assert disk.is_removable
    assert disk.may_be_dropped is may_be_dropped


def test_networks_by_the_name_that_a_target_must_have() -> None:
    devices = (
        "<interface type='bridge'><source bridge='br0'/></interface>"
        "<interface type='bridge'><source network='lan' portid='x' bridge='virbr1'/></interface>"
        "<interface type='network'><source network='dmz'/></interface>"
        "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>"
        "<interface type='user'/>"
    )

    assert read_domain(a_domain_xml(devices=devices)).networks == {"br0", "lan", "dmz", "eth1"}


GUEST_CELLS = (
    "<cpu mode='host-passthrough'><numa><cell id='0' cpus='0-1,4' memory='2' unit='GiB'/>"
    "<cell id='1' cpus='2-3,^3' memory='1048576'/></numa></cpu>"
)


def test_guest_cells_that_are_bound_to_cells_of_the_host() -> None:
    facts = read_domain(
        a_domain_xml(cpu=GUEST_CELLS, extra="<numatune><memory mode='strict'/></numatune>")
    )

    assert facts.numa_nodes == (
        NumaNode(cpu_cores=3, memory_bytes=2 * GIB),
        NumaNode(cpu_cores=1, memory_bytes=GIB),
    )


def test_guest_cells_that_only_the_guest_knows_bind_it_to_nothing() -> None:
    assert read_domain(a_domain_xml(cpu=GUEST_CELLS)).numa_nodes == ()


@pytest.mark.parametrize(
    ("backing", "uses", "size"),
    [
        ("", False, None),
        ("<hugepages/>", True, None),
        ("<hugepages><page size='1' unit='G'/></hugepages>", True, GIB),
        ("<hugepages><page size='2048' unit='KiB'/></hugepages>", True, 2 * MIB),
        ("<hugepages><page size='4' unit='KiB'/></hugepages>", False, None),
    ],
)
def test_huge_pages(backing: str, uses: bool, size: int | None) -> None:
    facts = read_domain(a_domain_xml(extra=f"<memoryBacking>{backing}</memoryBacking>"))

    assert (facts.uses_hugepages, facts.hugepage_bytes) == (uses, size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain>",
        "not xml",
        '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><domain>&b;</domain>',
        "<domain>" + " " * (17 * 2**20) + "</domain>",
    ],
)
def test_what_is_no_definition_is_refused(text: str) -> None:
    with pytest.raises(UnreadableXmlError):
        read_domain(text)


NUMBERISH = st.sampled_from(["", "x", "-1", "0", "1", "²", "99999999999999999999999999", "1e9"])


@given(memory=NUMBERISH, vcpu=NUMBERISH, cpus=NUMBERISH, unit=NUMBERISH)
def test_odd_numbers_never_stop_the_reading(memory: str, vcpu: str, cpus: str, unit: str) -> None:
    facts = read_domain(
        a_domain_xml(
            memory=f"<memory unit='{unit}'>{memory}</memory>",
            vcpu=f"<vcpu current='{vcpu}'>{vcpu}</vcpu>",
            cpu=f"<cpu><numa><cell cpus='{cpus}-{vcpu}' memory='{memory}'/></numa></cpu>",
            extra="<numatune><memnode/></numatune>",
        )
    )

    assert facts.memory_bytes >= 0
    assert facts.vcpus >= 1
