"""The contract of hypervisor drivers, held against real hosts and a real guest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.libvirt_connections import CallLimits, HostAddress
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from tests.contract.test_hypervisor_driver import *  # noqa: F403  the suite itself
from tests.contract.test_hypervisor_driver import STORAGE, Bench
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB
from tests.lab.site import WallClock, hosts_from

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.conftest import KeepGuest

pytestmark = pytest.mark.lab

NOBODY = "qemu+tcp://{network}.250/system"
"""An address in the lab's network that nobody has."""


@pytest.fixture  # type: ignore[no-redef]
def bench(lab: Lab, keep_guest: KeepGuest) -> Iterator[Bench]:
    """A guest on one of three hosts, and a fourth that is not there."""
    guest = keep_guest(GuestSpec(dirty_bytes_per_second=1_000_000))
    source, target, _ = hosts_from(guest)
    network = source.address.rpartition(".")[0]
    storage = {STORAGE: str(lab.state_dir / "shared")}
    addresses = {
        HostId(host.name): HostAddress(uri=host.uri, storage=storage) for host in lab.hosts
    }
    addresses[HostId("nobody")] = HostAddress(uri=NOBODY.format(network=network))
    clock = WallClock()
    opened: list[LibvirtDriver] = []

    def open_driver() -> LibvirtDriver:
        opened.append(LibvirtDriver(addresses, clock, limits=CallLimits(look_seconds=10.0)))
        return opened[-1]

    yield Bench(
        driver=open_driver(),
        reopen=open_driver,
        pass_time=time.sleep,
        vm=VmId(guest.uuid),
        source=HostId(source.name),
        target=HostId(target.name),
        dead_host=HostId("nobody"),
        slow_bytes_per_second=2.0 * MIB,
        fast_bytes_per_second=100.0 * MIB,
        patience_seconds=180.0,
    )
    for driver in opened:
        driver.close()
