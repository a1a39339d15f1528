"""Old disks as the journal has them, in what is seen of a cluster and said of it."""

from __future__ import annotations

from datetime import timedelta

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.left_overs import LeftOver
from rebalancer.service.old_disks import left_overs_text, with_left_overs
from tests.builders import GIB, NOON, a_disk, a_host, a_snapshot


def left_on(host: str, target: str = "vda") -> LeftOver:
    return LeftOver(
        vm=VmId("vm1"),
        vm_name="vm1",
        host=HostId(host),
        disk=a_disk(target, 2 * GIB),
        moved_to=HostId("h3"),
        left_at=NOON - timedelta(hours=1),
        rollout=1,
        migration="m1",
    )


def test_hosts_have_the_files_that_a_stale_pool_does_not_list() -> None:
    listed = frozenset({a_disk("vdb").path})
    snapshot = a_snapshot([a_host("h1", disk_files=listed), a_host("h2")])

    seen = with_left_overs(snapshot, [left_on("h1"), left_on("gone")])

    assert seen.hosts[0].disk_files == {a_disk("vda").path, a_disk("vdb").path}
    assert seen.hosts[1].disk_files == frozenset()
    assert with_left_overs(snapshot, []) == snapshot


def test_one_sentence_says_how_much_lies_where() -> None:
    assert left_overs_text([]) == ""
    assert left_overs_text([left_on("h2"), left_on("h1"), left_on("h1", "vdb")]) == (
        "3 old disks of VMs that moved away, 6.00 GiB, lie on h1, h2: rebalancer leftovers"
    )
