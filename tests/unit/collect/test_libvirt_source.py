"""A cluster of hosts that answer, fail and hang; VMs that several of them know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rebalancer.cluster.inventory import Host, HostState, Mode, Snapshot, Vm, VmState
from rebalancer.collect.hypervisor import DomainState, HypervisorError, Job, JobOperation
from rebalancer.errors import ObservationError
from tests.builders import GIB
from tests.unit.collect.fakes import (
    FakeHypervisor,
    FakeVm,
    a_disk,
    a_domain_xml,
    a_source,
    hints,
    nfs_pool_xml,
)

REFUSED = HypervisorError("Connection refused")
INCOMING: dict[str, Any] = {"state": DomainState.PAUSED, "reason": 2}
OFF: dict[str, Any] = {"state": DomainState.SHUTOFF}


def observed(
    hypervisors: Mapping[str, FakeHypervisor | HypervisorError],
    configured: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Snapshot:
    return a_source(hypervisors, configured=configured, **options).observe()


def hosts_with(**vms: list[FakeVm]) -> dict[str, FakeHypervisor]:
    return {name: FakeHypervisor(found, hostname=name) for name, found in vms.items()}


def only_vm(snapshot: Snapshot) -> Vm:
    (vm,) = snapshot.vms
    return vm


def only_host(**configured: Any) -> Host:
    return observed({"h1": FakeHypervisor([FakeVm()])}, {"h1": configured}).hosts[0]


def one_vm(xml: str = "", configured: Mapping[str, Any] | None = None, **facts: Any) -> Vm:
    return only_vm(observed({"h1": FakeHypervisor([FakeVm(xml=xml, **facts)])},
                            {"h1": configured or {}}))  # fmt: skip


# ---- hosts


def test_a_host_as_libvirt_and_its_owner_describe_it() -> None:
    host = only_host(site="tokyo", rack="r1", labels={"tier": "gold"}, idle_watts=120.0)

    assert (host.id, host.name, host.state) == ("h1", "h1", HostState.UP)
    assert (host.cpu_cores, host.memory_bytes) == (16, 64 * GIB)
    assert (host.site, host.rack, host.labels, host.idle_watts) == (
        "tokyo", "r1", {"tier": "gold"}, 120.0,
    )  # fmt: skip
    assert host.storage == frozenset({"nfs:filer:/export/vms"})
    assert host.networks == frozenset({"br0", "lan", "virbr1"})
    assert host.nic_bytes_per_second == 1.25e9
    assert host.cpu_used_cores is not None


def test_the_hypervisor_keeps_some_of_measured_memory_to_itself() -> None:
    assert only_host().reserved_memory_bytes == 4 * GIB


@pytest.mark.parametrize(
    ("memory_bytes", "reserved"), [(8 * GIB, 2 * GIB), (1000 * GIB, 50 * GIB), (2 * GIB, GIB // 2)]
)
def test_the_reserve_follows_the_size(memory_bytes: int, reserved: int) -> None:
    snapshot = observed({"h1": FakeHypervisor(memory_bytes=memory_bytes)})

    assert snapshot.hosts[0].reserved_memory_bytes == reserved


def test_capacity_that_was_configured_is_taken_as_it_is() -> None:
    host = only_host(cpu_cores=2.0, memory_bytes=GIB, nic_bytes_per_second=1e8)

    assert (host.cpu_cores, host.memory_bytes, host.reserved_memory_bytes) == (2, GIB, 0)
    assert host.nic_bytes_per_second == 1e8
    assert host.numa_nodes is None


def test_a_configured_reserve_is_taken_as_it_is() -> None:
    assert only_host(reserved_memory_bytes=GIB).reserved_memory_bytes == GIB


def test_use_of_a_host_that_sees_more_than_itself_is_that_of_its_guests() -> None:
    snapshot = observed(
        {"h1": FakeHypervisor([FakeVm("a"), FakeVm("b")])}, {"h1": {"cpu_from_guests": True}}
    )

    assert snapshot.hosts[0].cpu_used_cores == sum(vm.cpu_used_cores for vm in snapshot.vms)


def test_a_dead_host_is_unknown_with_the_reason_and_the_others_are_complete() -> None:
    snapshot = observed({"h1": FakeHypervisor([FakeVm()]), "h2": REFUSED})

    dead = snapshot.hosts[1]
    assert dead.state is HostState.UNKNOWN
    assert dead.state_reason == "fake://h2: Connection refused"
    assert dead.cpu_cores == 0
    assert [vm.host for vm in snapshot.vms] == ["h1"]


@pytest.mark.parametrize("call", ["stats", "domains", "capabilities_xml", "pool_xmls"])
def test_a_host_that_hangs_at_any_call_blocks_nobody(call: str) -> None:
    hanging = FakeHypervisor([FakeVm("b")], hanging=[call], hostname="other")
    try:
        snapshot = observed({"h1": FakeHypervisor([FakeVm()]), "h2": hanging}, timeout_seconds=2.0)
    finally:
        hanging.released.set()

    assert [host.state for host in snapshot.hosts] == [HostState.UP, HostState.UNKNOWN]
    assert "no answer within" in snapshot.hosts[1].state_reason
    assert [vm.name for vm in snapshot.vms] == ["db1"]


def test_a_host_that_still_hangs_is_not_asked_again() -> None:
    hanging = FakeHypervisor(hanging=["stats"], hostname="other")
    source = a_source({"h1": FakeHypervisor(), "h2": hanging}, timeout_seconds=1.0)
    try:
        source.observe()
        snapshot = source.observe()
    finally:
        hanging.released.set()

    assert "still hangs" in snapshot.hosts[1].state_reason
    assert hanging.calls == ["stats"]


def test_a_host_that_fails_half_way_is_unknown() -> None:
    broken = FakeHypervisor([FakeVm("b")], failing=["domains"], hostname="other")

    snapshot = observed({"h1": FakeHypervisor(), "h2": broken})

    assert snapshot.hosts[1].state is HostState.UNKNOWN
    assert snapshot.vms == ()


def test_when_nobody_answers_there_is_no_snapshot() -> None:
    with pytest.raises(ObservationError, match=r"not one of 2 hosts answered(?s:.*)h2: .*refused"):
        observed({"h1": REFUSED, "h2": REFUSED})


def test_connections_are_closed_whatever_happens() -> None:
    good, bad = FakeHypervisor(), FakeHypervisor(failing=["domains"], hostname="other")

    observed({"h1": good, "h2": bad})

    assert (good.closed, bad.closed) == (1, 1)


@pytest.mark.parametrize("state", [HostState.DRAINING, HostState.MAINTENANCE])
def test_what_the_operator_says_a_host_is(state: HostState) -> None:
    assert only_host(state=state).state is state


@pytest.mark.parametrize("state", [HostState.ASLEEP, HostState.DOWN])
def test_a_host_without_power_is_not_asked(state: HostState) -> None:
    asleep = FakeHypervisor(hostname="other")

    snapshot = observed(
        {"h1": FakeHypervisor(), "h2": asleep}, {"h2": {"state": state, "cpu_cores": 8.0}}
    )

    assert asleep.calls == []
    assert (snapshot.hosts[1].state, snapshot.hosts[1].cpu_cores) == (state, 8.0)


def test_a_draining_host_that_does_not_answer_is_unknown_but_one_in_maintenance_may_be_off() -> (
    None
):
    snapshot = observed(
        {"h1": FakeHypervisor(), "h2": REFUSED, "h3": REFUSED},
        {"h2": {"state": HostState.DRAINING}, "h3": {"state": HostState.MAINTENANCE}},
    )

    assert [host.state for host in snapshot.hosts[1:]] == [
        HostState.UNKNOWN,
        HostState.MAINTENANCE,
    ]


def test_one_machine_under_two_names_is_counted_once() -> None:
    machine = FakeHypervisor([FakeVm()], hostname="same")

    snapshot = observed({"h1": machine, "h2": machine})

    assert snapshot.hosts[1].state is HostState.UNKNOWN
    assert "same machine as h1" in snapshot.hosts[1].state_reason
    assert only_vm(snapshot).blockers == ()


def test_boards_with_the_same_uuid_by_mistake_are_two_machines() -> None:
    hypervisors = {
        "h1": FakeHypervisor(hostname="a", host_uuid="same"),
        "h2": FakeHypervisor(hostname="b", host_uuid="same"),
    }

    assert [host.state for host in observed(hypervisors).hosts] == [HostState.UP] * 2


# ---- VMs


def test_a_vm_with_all_that_its_owner_says_about_it() -> None:
    said = (
        "<label name='app' value='db'/><movable>no</movable>"
        "<modes>live</modes><max-downtime seconds='0.3'/>"
    )

    vm = one_vm(a_domain_xml(metadata=hints(said)), record={"autostart": True})

    assert (vm.id, vm.name, vm.host) == ("uuid-db1", "db1", "h1")
    assert (vm.memory_bytes, vm.vcpus, vm.resident_bytes) == (4 * GIB, 2, 3 * GIB)
    assert vm.labels == {"app": "db"}
    assert not vm.movable
    assert vm.allowed_modes == frozenset({Mode.LIVE})
    assert vm.max_downtime_seconds == 0.3
    assert vm.autostart


def test_control_characters_in_a_name_do_not_reach_terminals_and_files() -> None:
    snapshot = observed(hosts_with(h1=[FakeVm(name="tab\tname", xml=a_domain_xml())]))

    assert only_vm(snapshot).name == "tab\N{REPLACEMENT CHARACTER}name"


def test_hints_that_cannot_be_understood_keep_the_vm_where_it_is() -> None:
    vm = one_vm(a_domain_xml(metadata=hints("<moveable>no</moveable>")))

    assert not vm.can_move
    assert "rebalancer metadata" in vm.blockers[0]


def test_a_definition_that_cannot_be_read_keeps_the_vm_where_it_is() -> None:
    vm = one_vm("<domain")

    assert vm.memory_bytes == 4 * GIB
    assert "cannot be read" in vm.blockers[0]


@pytest.mark.parametrize(
    ("facts", "blocker"),
    [
        ({"record": {"job": Job(operation=JobOperation.BACKUP)}}, "a backup of it is running"),
        ({"record": {"job": Job(operation=JobOperation.MIGRATION_OUT)}}, "it is being migrated"),
        (
            {"record": {"job": Job(operation=JobOperation.UNKNOWN)}},
            "libvirt is busy with it, or does not say whether it is",
        ),
        ({"record": {"has_snapshots": True}}, "it has snapshots, which libvirt cannot move"),
        (
            {"record": {"has_checkpoints": True}},
            "it has backup checkpoints, which would be lost",
        ),
        (
            {"record": {"has_saved_state": True}, **OFF},
            "its memory is saved in a file of its host (managed save)",
        ),
        (
            {"state": DomainState.PAUSED, "reason": 5},
            "an I/O error of a disk has stopped it",
        ),
        ({"reason": 10}, "it is in the post-copy phase of a migration"),
    ],
)
def test_work_in_progress_keeps_a_vm_where_it_is(facts: Any, blocker: str) -> None:
    assert one_vm(**facts).blockers == (blocker,)


def test_every_kind_of_job_has_words() -> None:
    for operation in JobOperation:
        assert one_vm(record={"job": Job(operation=operation)}).blockers


def test_a_paused_vm_may_move() -> None:
    vm = one_vm(state=DomainState.PAUSED, reason=1)

    assert vm.state is VmState.PAUSED
    assert vm.can_move


def test_a_disk_on_shared_storage_needs_that_storage() -> None:
    vm = one_vm(a_domain_xml(devices=a_disk("/mnt/vms/db1.qcow2")))

    assert vm.storage == {"nfs:filer:/export/vms"}
    assert vm.local_disk_bytes == 0


def test_a_disk_elsewhere_is_local() -> None:
    vm = one_vm(
        a_domain_xml(devices=a_disk("/var/lib/libvirt/images/db1.qcow2")),
        stats={"block.count": 1, "block.0.name": "vda", "block.0.capacity": 9 * GIB},
    )

    assert vm.storage == frozenset()
    assert vm.local_disk_bytes == 9 * GIB
    assert vm.can_move


def test_storage_that_only_its_operator_knows_of() -> None:
    vm = one_vm(a_domain_xml(devices=a_disk("/srv/db1.img")), {"storage": {"san": "/srv"}})

    assert vm.storage == {"san"}


def test_a_local_disk_of_unknown_size_keeps_the_vm_where_it_is() -> None:
    assert "unknown size, vda" in one_vm(a_domain_xml(devices=a_disk("/a"))).blockers[0]


def test_a_shared_image_with_a_local_base_is_local() -> None:
    disk = (
        "<disk type='file'><source file='/mnt/vms/a'/><target dev='vda'/>"
        "<backingStore type='file'><source file='/base'/></backingStore></disk>"
    )
    stats = {"block.count": 1, "block.0.name": "vda", "block.0.capacity": GIB}

    vm = one_vm(a_domain_xml(devices=disk), stats=stats)

    assert vm.local_disk_bytes == GIB
    assert vm.storage == {"nfs:filer:/export/vms"}


def test_a_volume_is_where_its_pool_is() -> None:
    volume = "<disk type='volume'><source pool='{}' volume='v'/><target dev='vda'/></disk>"
    stats = {"block.count": 1, "block.0.name": "vda", "block.0.capacity": GIB}

    shared = one_vm(a_domain_xml(devices=volume.format("vms")), stats=stats)
    local = one_vm(a_domain_xml(devices=volume.format("default")), stats=stats)

    assert shared.storage == {"nfs:filer:/export/vms"}
    assert (shared.local_disk_bytes, local.local_disk_bytes) == (0, GIB)


def test_network_storage_that_no_pool_tells_of_binds_a_vm_to_no_host() -> None:
    disk = "<disk type='network'><source protocol='rbd' name='vms/a'/><target dev='vda'/></disk>"

    vm = one_vm(a_domain_xml(devices=disk))

    assert vm.storage == frozenset()
    assert vm.local_disk_bytes == 0
    assert vm.can_move


@pytest.mark.parametrize(
    ("source", "can_move"),
    [
        ("<source file='/iso/debian.iso'/>", False),
        ("<source file='/iso/debian.iso' startupPolicy='optional'/>", True),
        ("<source file='/mnt/vms/debian.iso'/>", True),
        ("", True),
    ],
)
def test_a_medium_in_a_drive(source: str, can_move: bool) -> None:
    drive = f"<disk type='file' device='cdrom'>{source}<target dev='sda'/></disk>"

    assert one_vm(a_domain_xml(devices=drive)).can_move is can_move


def test_two_default_pools_are_two_storages() -> None:
    snapshot = observed(hosts_with(h1=[], h2=[]))

    assert snapshot.hosts[0].storage == frozenset({"nfs:filer:/export/vms"})
    assert snapshot.hosts[0].storage == snapshot.hosts[1].storage


NEHALEM = (
    "<cpu mode='custom'><model>Nehalem</model><feature policy='require' name='hypervisor'/>"
    "<feature policy='require' name='avx2'/><feature policy='disable' name='popcnt'/></cpu>"
)


def test_cpu_features_are_those_that_a_cpu_must_have_and_kvm_does_not_add() -> None:
    vm = one_vm(a_domain_xml(cpu=NEHALEM))

    assert vm.cpu_model == "Nehalem"
    assert vm.cpu_features == {"sse4.2", "avx2"}


def test_a_guest_with_its_hosts_own_cpu_needs_all_of_it() -> None:
    vm = one_vm(a_domain_xml(cpu="<cpu mode='host-passthrough'/>"))

    assert vm.cpu_model == "host-passthrough"
    assert vm.cpu_features == {"sse4.2", "popcnt", "avx2", "aes"}


def test_a_model_that_not_even_its_own_host_lists_binds_to_nothing() -> None:
    cpu = "<cpu mode='custom'><model>EPYC-Milan</model></cpu>"
    hypervisor = FakeHypervisor([FakeVm(xml=a_domain_xml(cpu=cpu))], cpu_model_names=["Nehalem"])

    assert only_vm(observed({"h1": hypervisor})).cpu_model is None


def test_an_emulated_guest_asks_nothing_of_the_cpu() -> None:
    vm = one_vm(a_domain_xml(kind="qemu", cpu=NEHALEM))

    assert (vm.cpu_model, vm.cpu_features, vm.arch) == (None, frozenset(), "x86_64")
    assert vm.machine_type == "pc-q35-7.2"


def test_a_guest_of_a_foreign_architecture_may_go_wherever_it_can_be_emulated() -> None:
    xml = a_domain_xml(kind="qemu").replace("arch='x86_64'", "arch='ppc64'")

    vm = one_vm(xml)

    assert (vm.arch, vm.machine_type) == (None, None)


def test_networks_that_libvirt_can_tell_of_are_asked_for() -> None:
    devices = (
        "<interface type='bridge'><source bridge='br0'/></interface>"
        "<interface type='bridge'><source bridge='ovs-hidden'/></interface>"
    )

    assert one_vm(a_domain_xml(devices=devices)).networks == {"br0"}


def test_configured_networks_take_the_place_of_those_that_libvirt_lists() -> None:
    devices = "<interface type='bridge'><source bridge='ovs'/></interface>"
    xml = a_domain_xml(devices=devices)

    vm = one_vm(xml, {"networks": frozenset({"ovs"})})

    assert vm.networks == {"ovs"}


def test_memory_in_huge_pages_is_not_counted_with_the_process() -> None:
    vm = one_vm(a_domain_xml(extra="<memoryBacking><hugepages/></memoryBacking>"))

    assert vm.hugepage_bytes == 2 * 2**20
    assert vm.resident_bytes is None


def test_a_process_larger_than_its_guest_has_no_more_than_its_guest_to_send() -> None:
    assert one_vm(stats={"balloon.rss": 5 * 2**20}).resident_bytes == 4 * GIB


# ---- VMs that several hosts know


def test_the_incoming_copy_of_a_migration_is_not_a_second_vm() -> None:
    snapshot = observed(
        hosts_with(
            h1=[FakeVm(record={"job": Job(operation=JobOperation.MIGRATION_OUT)})],
            h2=[FakeVm(**INCOMING)],
        )
    )

    vm = only_vm(snapshot)
    assert (vm.host, vm.state) == ("h1", VmState.RUNNING)
    assert vm.blockers[0] == "it is being migrated"
    assert "h2 has a paused copy" in vm.blockers[1]
    assert (vm.is_migrating, vm.migrating_to) == (True, "h2")


def test_a_migration_to_a_host_that_is_not_ours_is_seen_at_its_source() -> None:
    job = Job(operation=JobOperation.MIGRATION_OUT, bytes_per_second=5e7)
    vm = one_vm(record={"job": job})

    assert (vm.is_migrating, vm.migrating_to) == (True, None)
    assert vm.migrating_bytes_per_second == 5e7


@pytest.mark.parametrize("reason", [2, 11])
def test_whether_the_copy_starts_up_or_waits(reason: int) -> None:
    incoming = FakeVm(state=DomainState.PAUSED, reason=reason)

    assert only_vm(observed(hosts_with(h1=[incoming], h2=[FakeVm()]))).host == "h2"


def test_after_the_switch_over_the_running_side_is_the_vm() -> None:
    source, target = FakeVm(**INCOMING), FakeVm(reason=2)

    vm = only_vm(observed(hosts_with(h1=[source], h2=[target])))

    assert (vm.host, vm.state) == ("h2", VmState.RUNNING)
    assert not vm.can_move


def test_during_the_switch_over_both_stand_still_and_the_source_is_the_vm() -> None:
    source = FakeVm(**INCOMING, record={"job": Job(operation=JobOperation.MIGRATION_OUT)})

    vm = only_vm(observed(hosts_with(h1=[FakeVm(**INCOMING)], h2=[source])))

    assert (vm.host, vm.state) == ("h2", VmState.PAUSED)
    assert not vm.can_move


def test_an_incoming_copy_whose_source_is_not_seen_is_kept_off() -> None:
    snapshot = observed({"h1": FakeHypervisor([FakeVm(**INCOMING)]), "h2": REFUSED})

    vm = only_vm(snapshot)
    assert vm.host == "h1"
    assert vm.blockers == ("it stands still for a migration whose other side was not seen",)


def test_in_post_copy_the_running_side_is_the_vm() -> None:
    source = FakeVm(state=DomainState.PAUSED, reason=12)

    vm = only_vm(observed(hosts_with(h1=[source], h2=[FakeVm(reason=10)])))

    assert vm.host == "h2"
    assert not vm.can_move


def test_a_vm_that_runs_twice_is_told_with_both_hosts_and_kept_off() -> None:
    snapshot = observed(hosts_with(h1=[FakeVm(reason=6)], h2=[FakeVm(reason=2)]))

    vm = only_vm(snapshot)
    assert vm.host == "h2"  # the target resumed it; the source went on later
    assert vm.blockers == ("it runs on two hosts: h1, h2; stop one of the two by hand",)


def test_of_two_active_copies_the_running_one_is_the_vm() -> None:
    paused = FakeVm(state=DomainState.PAUSED, reason=1)

    vm = only_vm(observed(hosts_with(h1=[paused], h2=[FakeVm()])))

    assert (vm.host, vm.state) == ("h2", VmState.RUNNING)
    assert "runs on two hosts" in vm.blockers[0]


def test_a_migration_that_ends_while_hosts_are_asked_is_no_vm_that_runs_twice() -> None:
    hypervisors = hosts_with(h1=[FakeVm()], h2=[FakeVm(reason=2)])
    hypervisors["h1"].later = iter([[FakeVm()], [FakeVm()], []])

    vm = only_vm(observed(hypervisors))

    assert vm.host == "h2"
    assert vm.can_move


def test_a_definition_that_was_left_behind_is_not_a_second_vm() -> None:
    vm = only_vm(observed(hosts_with(h1=[FakeVm(**OFF, reason=4)], h2=[FakeVm()])))

    assert (vm.host, vm.state) == ("h2", VmState.RUNNING)
    assert vm.can_move


def test_a_vm_that_is_off_is_told_as_such() -> None:
    vm = only_vm(observed(hosts_with(h1=[FakeVm(**OFF)], h2=[])))

    assert vm.state is VmState.SHUTOFF
    assert vm.can_move


def test_a_vm_that_is_off_and_defined_twice_is_kept_off() -> None:
    vm = only_vm(observed(hosts_with(h1=[FakeVm(**OFF, reason=4)], h2=[FakeVm(**OFF)])))

    assert vm.host == "h2"
    assert "defined on two hosts: h1, h2" in vm.blockers[0]


def test_a_vm_that_is_off_here_may_run_on_a_host_that_does_not_answer() -> None:
    vm = only_vm(observed({"h1": FakeHypervisor([FakeVm(**OFF)]), "h2": REFUSED}))

    assert vm.blockers == ("it is off here, but may run on h2: no answer from there",)


def test_a_host_that_was_declared_to_be_off_runs_nothing() -> None:
    snapshot = observed(
        {"h1": FakeHypervisor([FakeVm(**OFF)]), "h2": REFUSED}, {"h2": {"state": HostState.DOWN}}
    )

    assert only_vm(snapshot).can_move


def test_a_running_vm_is_not_held_up_by_a_host_that_does_not_answer() -> None:
    assert only_vm(observed({"h1": FakeHypervisor([FakeVm()]), "h2": REFUSED})).can_move


def test_a_pool_of_another_filer_is_another_storage() -> None:
    other = FakeHypervisor(pool_xmls=[nfs_pool_xml(server="other")], hostname="b")

    hosts = observed({"h1": FakeHypervisor(), "h2": other}).hosts

    assert hosts[0].storage != hosts[1].storage
