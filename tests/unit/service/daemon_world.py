"""A datacentre with a daemon over it, on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rebalancer.cluster.inventory import Host
from rebalancer.cluster.policy import Policy, Trigger
from rebalancer.collect.sources import InventorySource
from rebalancer.rollout.hooks import NO_HOOKS, Hooks
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import Move
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
from rebalancer.simulation.simulated_source import SimulatedSource
from rebalancer.simulation.specification import (
    DatacentreSpec,
    GuestSpec,
    HostSpec,
    memory_use_of,
)
from rebalancer.simulation.traces import Constant, CpuTrace
from tests.builders import NOON, a_host, a_policy, a_vm

NOWHERE = Path("/nonexistent/rebalancer.yaml")
INTERVAL_SECONDS = 300.0


@dataclass(kw_only=True)
class World:
    """A datacentre with a daemon over it."""

    datacentre: Datacentre
    daemon: Daemon
    url: str
    sent: list[StopRequest] = field(default_factory=list)

    def cycle(self, policy: str = "test") -> str:
        """One cycle, then time until the next."""
        verdict = self.daemon.run_due(policy)
        self.datacentre.advance(INTERVAL_SECONDS)
        return verdict

    def moves(self) -> tuple[Move, ...]:
        with Journal.open(self.url, VirtualClock(self.datacentre)) as journal:
            return journal.moves_since(self.datacentre.spec.start, "dc")


def a_guest(name: str, on: str, cpu: CpuTrace | float, **changed: Any) -> GuestSpec:
    trace = Constant(cores=cpu) if isinstance(cpu, float) else cpu
    vm = a_vm(name, on=on, vcpus=8, **changed)
    return GuestSpec(vm=vm, cpu=trace, memory=memory_use_of(vm))


def hot_and_idle() -> tuple[GuestSpec, ...]:
    return tuple(a_guest(f"vm{n}", "h1", 3.0) for n in range(5))


type MakeWorld = Callable[..., World]
type Telemetry = Callable[[InventorySource, Callable[[], datetime]], InventorySource]


@pytest.fixture
def make_world(tmp_path: Path) -> MakeWorld:
    def make(
        *guests: GuestSpec,
        hosts: tuple[Host, ...] = (a_host("h1"), a_host("h2")),
        mode: RunMode = RunMode.AUTO,
        policy: Policy | None = None,
        should_stop: Callable[[], StopRequest] = lambda: StopRequest.NO,
        solve_seconds: float = 5.0,
        interval_seconds: float = INTERVAL_SECONDS,
        hooks: Hooks = NO_HOOKS,
        seen_through: Telemetry = lambda source, _: source,
        url: str = "",
    ) -> World:
        datacentre = Datacentre(
            DatacentreSpec(
                cluster="dc",
                start=NOON,
                hosts=tuple(HostSpec(host=host) for host in hosts),
                guests=guests or hot_and_idle(),
            )
        )
        url = url or f"sqlite:///{tmp_path / 'journal.db'}"
        settings = load_settings(
            flags={
                "cluster": "dc",
                "journal": url,
                "placement.time_limit_seconds": solve_seconds,
                "mode": mode,
            },
            system_config=NOWHERE,
        )
        session = Session(settings=settings, out=Console(), err=Console(stderr=True))
        wanted = policy or a_policy(trigger=Trigger(for_cycles=3))
        duty = Duty(
            name="test", policy=wanted, mode=mode, rhythm=rhythm_of(wanted, interval_seconds)
        )
        setup = Setup(session=session, duties={"test": duty})
        source = seen_through(SimulatedSource(datacentre), lambda: datacentre.now)

        def read() -> ReadAccess:
            return ReadAccess(
                cluster="dc",
                host_names=tuple(host.name for host in hosts),
                source=source,
                clock=VirtualClock(datacentre),
                uris={},
            )

        reach = Reach(
            for_reading=read,
            for_change=lambda: ChangeAccess(
                read=read(), driver=SimulatedDriver(datacentre), hooks=hooks
            ),
            on_event=lambda _: None,
            should_stop=should_stop,
        )
        daemon = Daemon(lambda: setup, setup, Notifier({}), lambda _: reach)
        return World(datacentre=datacentre, daemon=daemon, url=url)

    return make
