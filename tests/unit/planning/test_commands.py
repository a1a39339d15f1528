import shlex

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostId, Mode, VmState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.planning.planner import make_plan
from tests.builders import GIB, MIB, a_host, a_policy, a_snapshot, a_vm
from tests.unit.planning.plans import a_placement, a_plan

VIRSH = ("virsh", "-c", "qemu+ssh://h1/system")
UUID = "6e8bb9a5-4a6e-4a44-8a0c-2f8c8c2f0e11"


def words(*lines: str) -> list[list[str]]:
    return [shlex.split(line) for line in lines]


def test_a_live_migration_sets_the_pause_and_then_migrates_with_a_bandwidth() -> None:
    plan = a_plan(a_snapshot(vms=[a_vm("db 1")]), {"db 1": "h2"})
    downtime, migrate = words(*plan.commands["m1"])
    rate = plan.migrations[0].bytes_per_second / MIB

    assert downtime == [*VIRSH, "migrate-setmaxdowntime", "--domain", "db 1", "--downtime", "233"]
    assert migrate == [
        *VIRSH,
        "migrate",
        "--live",
        "--p2p",
        "--persistent",
        "--undefinesource",
        "--bandwidth",
        f"{rate:.0f}",
        "--verbose",
        "--domain",
        "db 1",
        "--desturi",
        "qemu+ssh://h2/system",
    ]


def test_a_vm_is_named_by_its_uuid_where_that_is_known() -> None:
    plan = a_plan(a_snapshot(vms=[a_vm(UUID)]), {UUID: "h2"})

    assert f"--domain {UUID}" in plan.commands["m1"][1]


def test_hosts_are_reached_where_the_configuration_says() -> None:
    snapshot = a_snapshot(vms=[a_vm("db")])
    empty = a_plan(snapshot, {})
    plan = make_plan(
        snapshot,
        Demand.as_measured(snapshot),
        a_policy(),
        a_placement(snapshot, {"db": "h2"}),
        plan_id="p",
        creator="c",
        created_at=empty.created_at,
        expires_at=empty.expires_at,
        verdict=empty.verdict,
        uris={HostId("h1"): "qemu+tls://one/system?x=1&y=2", HostId("h2"): "qemu:///system"},
    )

    assert plan.commands["m1"][1].startswith("virsh -c 'qemu+tls://one/system?x=1&y=2' ")
    assert plan.commands["m1"][1].endswith("--desturi qemu:///system")


def test_a_transient_vm_is_not_made_persistent() -> None:
    plan = a_plan(a_snapshot(vms=[a_vm("db", persistent=False)]), {"db": "h2"})

    assert "--persistent" not in plan.commands["m1"][1]
    assert "--undefinesource" not in plan.commands["m1"][1]


def test_suspend_waits_for_the_stall_and_then_pauses() -> None:
    vm = a_vm("db", dirty_bytes_per_second=5000.0 * MIB, working_set_bytes=2 * GIB)
    plan = a_plan(a_snapshot(vms=[vm]), {"db": "h2"})
    line = shlex.split(plan.commands["m1"][1])

    assert plan.migrations[0].mode is Mode.SUSPEND
    assert "--timeout-suspend" in line
    wait = int(line[line.index("--timeout") + 1])
    assert 4 * GIB / plan.migrations[0].bytes_per_second < wait
    assert wait < plan.migrations[0].predicted.duration_seconds


def test_a_throttled_migration_says_so() -> None:
    vm = a_vm("db", dirty_bytes_per_second=1000.0 * MIB, working_set_bytes=2 * GIB)
    plan = a_plan(a_snapshot(vms=[vm]), {"db": "h2"})

    assert plan.migrations[0].mode is Mode.AUTO_CONVERGE
    assert "--auto-converge" in shlex.split(plan.commands["m1"][1])


def test_a_definition_moves_without_a_bandwidth() -> None:
    plan = a_plan(a_snapshot(vms=[a_vm("db", state=VmState.SHUTOFF)]), {"db": "h2"})

    assert plan.commands["m1"] == (
        "virsh -c qemu+ssh://h1/system migrate --offline --p2p --persistent --undefinesource "
        "--domain db --desturi qemu+ssh://h2/system",
    )


def test_cold_ends_on_the_source_last() -> None:
    cold = a_policy(migration=MigrationPermissions(allow=frozenset({Mode.COLD})))
    plan = a_plan(a_snapshot(vms=[a_vm("db", autostart=True)]), {"db": "h2"}, cold)

    assert plan.commands["m1"] == (
        "virsh -c qemu+ssh://h1/system shutdown --domain db --mode acpi",
        "until virsh -c qemu+ssh://h1/system domstate --domain db | grep -q 'shut off'; "
        "do sleep 2; done",
        "virsh -c qemu+ssh://h1/system dumpxml --domain db --inactive --security-info | "
        "virsh -c qemu+ssh://h2/system define /dev/stdin",
        "virsh -c qemu+ssh://h2/system start --domain db",
        "virsh -c qemu+ssh://h2/system autostart --domain db",
        "virsh -c qemu+ssh://h1/system undefine --domain db --keep-nvram",
    )


def test_a_saved_memory_is_restored_before_the_definition_follows() -> None:
    permissions = MigrationPermissions(allow=frozenset({Mode.COLD}), save_to="vmstore")
    hosts = [a_host(name, storage=frozenset({"vmstore"})) for name in ("h1", "h2")]
    vm = a_vm("db", autostart=True)
    plan = a_plan(a_snapshot(hosts, [vm]), {"db": "h2"}, a_policy(migration=permissions))
    there = "virsh -c qemu+ssh://h2/system"

    assert plan.migrations[0].saved_to == "vmstore"
    assert plan.commands["m1"] == (
        ': "${SAVED:?the folder where both hosts have storage vmstore}"',
        "virsh -c qemu+ssh://h1/system autostart --domain db --disable",
        'virsh -c qemu+ssh://h1/system save --domain db --file "$SAVED"/db.save',
        f'{there} restore --file "$SAVED"/db.save',
        "virsh -c qemu+ssh://h1/system dumpxml --domain db --inactive --security-info | "
        f"{there} define /dev/stdin",
        f"{there} autostart --domain db",
        "virsh -c qemu+ssh://h1/system undefine --domain db --keep-nvram",
        'rm "$SAVED"/db.save',
    )
