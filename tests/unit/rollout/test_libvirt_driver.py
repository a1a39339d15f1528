"""The driver over libvirt, where no hypervisor is needed to see what it does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.driver import Failed, Pending, Save
from rebalancer.rollout.libvirt_connections import CallLimits, HostAddress
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.service.clock import SystemClock
from tests.lab.deadline import wait_until

pytest.importorskip("libvirt")

H1 = HostId("h1")


class LateConnection:
    """Says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_closed = threading.Event()

    def close(self) -> None:
        self.is_closed.set()

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        raise AttributeError(name)


class SlowToConnect(LibvirtDriver):
    """A driver whose host lets nobody in until the test says so."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.late = LateConnection()
        super().__init__(
            {H1: HostAddress(uri="test:///default", storage={"vmstore": "/mnt/vmstore"})},
            SystemClock(),
            limits=CallLimits(connect_seconds=0.05),
        )

    def _connect(self, host: HostId) -> Any:
        self.is_open.wait()
        return self.late


def test_a_call_whose_connection_comes_too_late_is_not_made_any_more() -> None:
    driver = SlowToConnect()
    ticket = driver.issue(Save(vm=VmId("vm1"), host=H1, storage="vmstore", file="vm1.save"))
    replies: list[Any] = []

    def is_answered() -> bool:
        replies.append(driver.poll(ticket))
        return not isinstance(replies[-1], Pending)

    wait_until(is_answered, within_seconds=60.0, what="a reply", every_seconds=0.01)
    driver.is_open.set()

    assert replies[-1] == Failed(text="no connection in time")
    assert driver.late.is_closed.wait(60.0)
    assert driver.late.asked == []
