"""The daemon that switches hosts, in a simulated datacentre on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.policy import Policy, PowerGoal
from rebalancer.cluster.rules import Ban
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.rollout.driver import Command, Migrate, Ticket
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.power import (
    PowerCommand,
    PowerReply,
    PowerReturned,
    PowerState,
    Sleep,
    Wake,
)
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, load_settings
from rebalancer.service.daemon import Daemon
from rebalancer.service.duty import Duty, Reach, rhythm_of
from rebalancer.service.notify import Notifier
from rebalancer.service.session import Session
from rebalancer.service.setup import Setup
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_power import SimulatedPower
from rebalancer.simulation.simulated_source import SimulatedSource
from rebalancer.simulation.specification import (
    DatacentreSpec,
    GuestSpec,
    HostSpec,
    memory_use_of,
)
from rebalancer.simulation.traces import Constant, CpuTrace, Steps
from tests.builders import NOON, a_host, a_policy, a_vm

NOWHERE = Path("/nonexistent/rebalancer.yaml")
INTERVAL_SECONDS = 300.0
HOSTS = ("h1", "h2", "h3", "h4")


@dataclass(kw_only=True)
class World:
    """A datacentre with a daemon that may switch its hosts."""

    datacentre: Datacentre
    power: SimulatedPower
    daemon: Daemon
    url: str

    def cycles(self, count: int) -> list[str]:
        verdicts = []
        for _ in range(count):
            verdicts.append(self.daemon.run_due("test"))
            self.datacentre.advance(INTERVAL_SECONDS)
        return verdicts

    def off(self) -> set[str]:
        return {host.id for host in self.datacentre.hosts.values() if not host.powered}

    def phases(self) -> dict[str, str]:
        with PowerJournal.open(self.url, VirtualClock(self.datacentre)) as journal:
            return {host: mark.phase.value for host, mark in journal.marks("dc").items()}

    def marks(self, act: Callable[[Journal], object]) -> None:
        with Journal.open(self.url, VirtualClock(self.datacentre)) as journal:
            act(journal)


def a_guest(name: str, on: str, cpu: CpuTrace, **changed: Any) -> GuestSpec:
    vm = a_vm(name, on=on, vcpus=8, **changed)
    return GuestSpec(vm=vm, cpu=cpu, memory=memory_use_of(vm))


def calm() -> tuple[GuestSpec, ...]:
    return tuple(a_guest(f"vm{n}", host, Constant(cores=0.5)) for n, host in enumerate(HOSTS))


def later_busy(from_second: float) -> tuple[GuestSpec, ...]:
    """Two hosts are enough until then; afterwards they are not."""
    steps = Steps(steps=((0.0, 0.5), (from_second, 5.0)))
    return tuple(a_guest(f"vm{n}", host, steps) for n, host in enumerate((*HOSTS, *HOSTS)))


def saving() -> Policy:
    return a_policy(goals=(PowerGoal(min_awake=2, spare_ratio=0.2),))


type MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> MakeWorld:
    def make(
        *guests: GuestSpec,
        policy: Policy | None = None,
        switch: bool = True,
        mode: RunMode = RunMode.AUTO,
        hosts: tuple[str, ...] = HOSTS,
        datacentre: Datacentre | None = None,
    ) -> World:
        datacentre = datacentre or Datacentre(
            DatacentreSpec(
                cluster="dc",
                start=NOON,
                hosts=tuple(HostSpec(host=a_host(name)) for name in hosts),
                guests=guests or calm(),
            )
        )
        url = f"sqlite:///{tmp_path / 'journal.db'}"
        power = {"redfish": "https://bmc.example.org"}
        flags = {
            "cluster": "dc",
            "journal": url,
            "placement.time_limit_seconds": 5.0,
            "mode": mode,
            "hosts": [{"name": name, "uri": f"test:///{name}", "power": power} for name in hosts],
            "power.switch": switch,
            "power.sleep_after_cycles": 3,
        }
        settings = load_settings(flags=flags, system_config=NOWHERE)
        session = Session(settings=settings, out=Console(), err=Console(stderr=True))
        wanted = policy or saving()
        rhythm = rhythm_of(wanted, INTERVAL_SECONDS)
        duty = Duty(name="test", policy=wanted, mode=mode, rhythm=rhythm)
        setup = Setup(session=session, duties={"test": duty})
        switches = SimulatedPower(datacentre)

        def read() -> ReadAccess:
            return ReadAccess(
                cluster="dc",
                host_names=hosts,
                source=SimulatedSource(datacentre),
                clock=VirtualClock(datacentre),
                uris={},
            )

        reach = Reach(
            for_reading=read,
            for_change=lambda: ChangeAccess(
                read=read(),
                driver=SimulatedDriver(datacentre),
                power=switches if settings.power.switch else None,
                census=switches.census if settings.power.switch else None,
            ),
            on_event=lambda _: None,
            should_stop=lambda: StopRequest.NO,
        )
        daemon = Daemon(lambda: setup, setup, Notifier({}), lambda _: reach)
        return World(datacentre=datacentre, power=switches, daemon=daemon, url=url)

    return make


def test_hosts_that_are_not_needed_sleep_after_some_cycles_and_no_vm_is_lost(
    make_world: MakeWorld,
) -> None:
    world = make_world()

    verdicts = world.cycles(5)

    assert verdicts[0].startswith("moved 2 VMs")
    assert [len(verdict.split("; sleep ")) - 1 for verdict in verdicts] == [0, 0, 2, 0, 0]
    assert len(world.off()) == 2
    assert set(world.phases().values()) == {"asleep"}
    for guest in world.datacentre.guests:
        (host,) = world.datacentre.record.running_on(guest)
        assert host not in world.off()


def test_by_default_the_plan_is_advice(make_world: MakeWorld) -> None:
    world = make_world(switch=False)

    world.cycles(5)

    assert world.off() == set()
    assert world.phases() == {}


def test_a_daemon_that_only_recommends_switches_nothing(make_world: MakeWorld) -> None:
    world = make_world(mode=RunMode.RECOMMEND)

    world.cycles(5)

    assert world.power.told == []


def test_hosts_are_woken_when_load_rises_and_the_next_plan_uses_them(
    make_world: MakeWorld,
) -> None:
    world = make_world(*later_busy(from_second=6 * INTERVAL_SECONDS))
    world.cycles(5)
    assert len(world.off()) == 2

    verdicts = world.cycles(5)

    woken = [verdict for verdict in verdicts if "; wake " in verdict]
    assert woken
    assert "it is awake" in woken[0]
    assert len(world.off()) < 2


def test_who_has_woken_a_host_looks_again_at_once(make_world: MakeWorld) -> None:
    world = make_world(*later_busy(from_second=6 * INTERVAL_SECONDS))
    told = world.cycles(5)
    assert not any("; wake " in verdict for verdict in told)
    assert not world.daemon.due

    while "; wake " not in world.cycles(1)[0]:
        assert not world.daemon.due

    assert world.daemon.due == ("test",)


def test_a_host_that_did_not_wake_is_no_reason_to_look_again_at_once(make_world: MakeWorld) -> None:
    world = make_world(*later_busy(from_second=6 * INTERVAL_SECONDS))
    world.cycles(5)
    world.power.broken = set(world.off())

    while "quarantined" not in world.phases().values():
        world.cycles(1)

    assert not world.daemon.due


def test_a_host_that_fails_to_wake_is_left_alone_and_another_one_is_woken(
    make_world: MakeWorld,
) -> None:
    world = make_world(*later_busy(from_second=6 * INTERVAL_SECONDS))
    world.cycles(5)
    first, second = sorted(world.off())
    world.power.broken = {first}

    world.cycles(4)

    assert world.phases()[first] == "quarantined"
    assert second not in world.off()
    woken = [command for command in world.power.told if isinstance(command, Wake)]
    assert woken.count(Wake(host=HostId(first))) == 1


def test_a_host_that_cannot_be_told_to_sleep_is_not_tried_in_each_cycle(
    make_world: MakeWorld,
) -> None:
    world = make_world()
    world.power.broken = set(HOSTS)

    world.cycles(9)

    tried = [command for command in world.power.told if isinstance(command, Sleep)]
    assert 1 <= len(tried) <= 4
    assert world.off() == set()


def test_a_drained_host_is_not_put_to_sleep(make_world: MakeWorld) -> None:
    world = make_world()
    world.marks(lambda journal: journal.mark_drain("dc", HostId("h4"), "memory to be changed"))

    world.cycles(5)

    assert "h4" not in world.off()


def test_a_paused_cluster_switches_nothing(make_world: MakeWorld) -> None:
    world = make_world()
    world.cycles(2)

    world.marks(
        lambda journal: journal.wish(
            "dc", lambda wishes: replace(wishes, paused_at=NOON, paused_by="ops")
        )
    )

    world.cycles(3)

    assert world.power.told == []


def test_autostart_keeps_hosts_on(make_world: MakeWorld) -> None:
    guests = [a_guest("vm1", "h1", Constant(cores=0.5)), a_guest("vm2", "h2", Constant(cores=0.5))]
    off = a_guest("off", "h3", Constant(cores=0.0), state="shutoff", autostart=True)
    world = make_world(*guests, off, hosts=("h1", "h2", "h3"))

    verdicts = world.cycles(4)

    assert world.off() == set()
    assert "it starts off when it boots (autostart)" in verdicts[-1]


def test_a_host_that_was_being_switched_when_the_daemon_died_is_looked_at(
    make_world: MakeWorld,
) -> None:
    class Killed(BaseException):
        pass

    world = make_world()
    world.cycles(2)

    def die(command: PowerCommand) -> PowerReply:
        SimulatedPower._carried_out(world.power, command)
        if command.changes:
            raise Killed
        return PowerReturned(state=PowerState.ON)

    world.power._carried_out = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        world.cycles(1)
    assert list(world.phases().values()) == ["falling asleep"]

    again = make_world(datacentre=world.datacentre)
    again.cycles(2)

    assert "falling asleep" not in again.phases().values()
    assert len(again.off()) == len(again.phases()) >= 1


def test_hosts_are_woken_before_vms_are_moved(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are due in one cycle: a VM has to leave its host, and a third host to be awake."""
    order: list[str] = []
    world = make_world(*calm())
    world.cycles(5)
    assert len(world.off()) == 2
    (here,) = world.datacentre.record.running_on(VmId("vm0"))
    ban = Ban(name="out", vms=VmSelector(names=("vm0",)), hosts=HostSelector(names=(here,)))
    wanting = a_policy(ban, goals=(PowerGoal(min_awake=3),))
    issue, tell = SimulatedDriver.issue, SimulatedPower.issue

    def move(self: SimulatedDriver, command: Command) -> Ticket:
        order.extend(["move"] if isinstance(command, Migrate) else [])
        return issue(self, command)

    def switch(self: SimulatedPower, command: PowerCommand) -> Ticket:
        order.extend(["wake"] if isinstance(command, Wake) else [])
        return tell(self, command)

    monkeypatch.setattr(SimulatedDriver, "issue", move)
    monkeypatch.setattr(SimulatedPower, "issue", switch)
    busier = make_world(policy=wanting, datacentre=world.datacentre)

    (verdict,) = busier.cycles(1)

    assert verdict.startswith("moved 1 VM")
    assert order == ["wake", "move"]
