"""The driver over libvirt, where no hypervisor is needed to see what it does."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.calls import may_still_happen
from rebalancer.rollout.driver import (
    Command,
    Failed,
    Look,
    Pending,
    Reply,
    Returned,
    Save,
    Start,
)
from rebalancer.rollout.libvirt_connections import CallLimits, HostAddress
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.rollout.sightings import Sighting
from rebalancer.service.clock import SystemClock
from tests.lab.deadline import wait_until

pytest.importorskip("libvirt")

H1, VM1 = HostId("h1"), VmId("vm1")


def reply_of(driver: LibvirtDriver, command: Command) -> Reply:
    ticket = driver.issue(command)
    replies: list[Reply] = []

    def is_answered() -> bool:
        replies.append(driver.poll(ticket))
        return not isinstance(replies[-1], Pending)

    wait_until(is_answered, within_seconds=60.0, what="a reply", every_seconds=0.01)
    return replies[-1]


def test_of_a_start_without_a_connection_it_is_known_that_nobody_heard_of_it() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"qemu+tcp://127.0.0.1:{nobody.getsockname()[1]}/system"
        driver = LibvirtDriver({H1: HostAddress(uri=uri)}, SystemClock())

        start = reply_of(driver, Start(vm=VM1, host=H1))
        look = reply_of(driver, Look(vm=VM1, hosts=(H1,)))

    assert isinstance(start, Failed)
    assert "refused" in start.text
    assert not may_still_happen("Start", start)
    assert isinstance(look, Returned)
    assert isinstance(look.value, Sighting)
    assert look.value.unreachable == (H1,)


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

    reply = reply_of(driver, Save(vm=VM1, host=H1, storage="vmstore", file="vm1.save"))
    driver.is_open.set()

    assert reply == Failed(text="no connection in time")
    assert driver.late.is_closed.wait(60.0)
    assert driver.late.asked == []
