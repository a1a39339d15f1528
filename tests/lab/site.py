"""Site: a rollout's view of the lab, which the tests of rollouts on real hosts share.

The fixture `site` is in `conftest.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome
from rebalancer.cluster.policy import Limits
from rebalancer.rollout.driver import Look, Pending, Returned
from rebalancer.rollout.events import Event, StageChanged
from rebalancer.rollout.executor import RolloutResult, Settings, execute, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.libvirt_connections import HostAddress
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.rollout.sightings import Sighting
from rebalancer.rollout.track import Times
from tests.builders import a_host, a_snapshot, a_vm
from tests.lab.deadline import wait_until
from tests.lab.errors import LabError
from tests.lab.host import libvirt
from tests.lab.shape import MIB, LabShape
from tests.unit.rollout.plans import a_migration, a_plan

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

TIMES = Times(settle_seconds=5.0, unknown_patience_seconds=120.0)
"""Nothing here waits for a lock of another job, so a quiet picture is believed sooner."""


class WallClock:
    """Real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Site:
    """A rollout's view of the lab."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.clock = WallClock()
        self.url = f"sqlite:///{folder}/journal.db"
        self.journal = Journal.open(self.url, self.clock)
        self.driver = self.new_driver()
        self.events: list[Event] = []

    @property
    def addresses(self) -> dict[HostId, HostAddress]:
        return {HostId(host.name): HostAddress(uri=host.uri) for host in self.lab.hosts}

    def new_driver(self) -> LibvirtDriver:
        return LibvirtDriver(self.addresses, self.clock)

    def close(self) -> None:
        self.driver.close()
        self.journal.close()

    def snapshot(self, guest: LabGuest, on: LabHost, **changed: Any) -> Snapshot:
        facts: dict[str, Any] = {"id": VmId(guest.uuid), "memory_bytes": guest.memory_bytes}
        hosts = [a_host(host.name) for host in self.lab.hosts]
        return a_snapshot(
            hosts=hosts, vms=[replace(a_vm(guest.name, on=on.name), **(facts | changed))]
        )

    def roll_out(
        self,
        migration: Migration,
        snapshot: Snapshot | Callable[[], Snapshot],
        plan: str = "p1",
        **options: Any,
    ) -> RolloutResult:
        defaults: dict[str, Any] = {
            "driver": self.driver,
            "settings": Settings(times=TIMES),
            "on_event": self.events.append,
        }
        return execute(
            a_plan(migration, id=plan),
            clock=self.clock,
            journal=self.journal,
            snapshot=snapshot,
            **(defaults | options),
        )

    def recover(self, snapshot: Snapshot) -> Outcome:
        result = recover(
            cluster="test",
            driver=self.driver,
            clock=self.clock,
            journal=self.journal,
            snapshot=snapshot,
            settings=Settings(times=TIMES),
        )
        return result[0].outcomes[0]

    def look(self, guest: LabGuest) -> Sighting:
        hosts = tuple(HostId(host.name) for host in self.lab.hosts)
        ticket = self.driver.issue(Look(vm=VmId(guest.uuid), hosts=hosts))
        while isinstance(reply := self.driver.poll(ticket), Pending):
            time.sleep(0.05)
        assert isinstance(reply, Returned)
        assert isinstance(reply.value, Sighting)
        return reply.value

    def stages(self) -> list[MigrationState]:
        return [event.after for event in self.events if isinstance(event, StageChanged)]


def a_move(guest: LabGuest, source: LabHost, target: LabHost, **changed: Any) -> Migration:
    facts: dict[str, Any] = {
        "vm_name": guest.name,
        "memory_bytes": guest.memory_bytes,
        "bytes_per_second": 50.0 * MIB,
    }
    return a_migration(guest.uuid, source.name, target.name, **(facts | changed))


def assert_runs_once(guest: LabGuest, on: LabHost) -> None:
    """It runs on that host, is defined there, and no other host has anything of it."""
    assert guest.hosts_running() == (on,)
    assert guest.hosts_knowing() == (on,)
    with on.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        assert domain.state()[0] == libvirt().VIR_DOMAIN_RUNNING, domain.state()
        assert domain.isPersistent(), "it would be gone once it stops"


def assert_ran_through(guest: LabGuest) -> None:
    """It beats now, and all beats since the mark came from one guest that never began anew."""
    guest.heartbeat.wait_for_beat()
    heard = guest.heartbeat.report()
    assert heard.ran_through, heard


def hosts_from(guest: LabGuest) -> tuple[LabHost, LabHost, LabHost]:
    """The host that a guest runs on, and two others: where it is to go, and one more."""
    (source,) = guest.hosts_running()
    target, third = (host for host in guest.hosts if host != source)
    return source, target, third


def runs_as_it_should(guest: LabGuest) -> bool:
    """Whether it runs on one host without a job, is known to no other, and beats.

    What is just coming to its end, such as a migration that was called off, is waited for.
    """
    try:
        wait_until(lambda: not _is_moving(guest), within_seconds=10, what="its jobs to end")
        if not _runs(guest):
            return False
        guest.heartbeat.wait_for_beat(within_seconds=30)
    except LabError:
        return False
    return True


def _is_moving(guest: LabGuest) -> bool:
    """Whether a job is on it, or several hosts know it, which a migration's end puts right."""
    if len(guest.hosts_knowing()) > 1:
        return True
    return any(_asked_of(guest, host, lambda domain: domain.jobStats()) for host in guest.hosts)


def _runs(guest: LabGuest) -> bool:
    running = libvirt().VIR_DOMAIN_RUNNING
    states = [_asked_of(guest, host, lambda domain: domain.state()[0]) for host in guest.hosts]
    return [state for state in states if state is not None] == [running]


def _asked_of(guest: LabGuest, host: LabHost, ask: Callable[[Any], Any]) -> Any:
    """What a host says of it; `None` if it knows no such guest, or nothing runs."""
    with host.connect() as connection:
        try:
            found = ask(connection.lookupByUUIDString(guest.uuid))
        except libvirt().libvirtError:
            return None
    is_idle = isinstance(found, dict) and not found.get("type")
    return None if is_idle else found


def with_links_of(bytes_per_second: float, snapshot: Snapshot) -> Snapshot:
    """The same hosts, with NICs of which migrations may use so much."""
    nic = bytes_per_second / Limits().link_share
    hosts = tuple(replace(host, nic_bytes_per_second=nic) for host in snapshot.hosts)
    return replace(snapshot, hosts=hosts)


def changes_asked_for(site: Site) -> list[str]:
    """The commands that were written to the journal before they were issued, in order."""
    records = site.journal.records(1)
    return [r.payload["command"]["do"] for r in records if r.kind == "intent"]


def beside(session: LabShape, letter: str) -> LabShape:
    """A second lab of two hosts for the same session, which nobody else can have."""
    first, second, third, rest = session.network.split(".")
    network = f"{first}.{second}.{int(third) + 20 * (1 + ord(letter) % 8)}.{rest}"
    return LabShape(prefix=session.prefix + letter, network=network, hosts=2)


def ask_qemu(guest: LabGuest, host: LabHost, question: str) -> dict[str, Any]:
    """What QEMU itself says of the migration that is under way; nothing if it has just left."""
    import libvirt_qemu

    with host.connect() as connection:
        try:
            domain = connection.lookupByUUIDString(guest.uuid)
            asked = json.dumps({"execute": question})
            answer: dict[str, Any] = json.loads(libvirt_qemu.qemuMonitorCommand(domain, asked, 0))
        except libvirt().libvirtError:
            return {}
        found: dict[str, Any] = answer["return"]
        return found
