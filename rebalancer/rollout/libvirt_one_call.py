"""The commands that are one call to libvirt about one VM."""

from __future__ import annotations

from typing import Any, assert_never

from rebalancer.rollout import libvirt_definitions as definitions
from rebalancer.rollout.calls import RefusedError
from rebalancer.rollout.driver import (
    Pause,
    Resume,
    SetAutostart,
    SetBandwidth,
    SetMaxDowntime,
    ShutDown,
    Start,
    SwitchToPostCopy,
)
from rebalancer.rollout.libvirt_request import mib_per_second, milliseconds

type OneCall = (
    Pause
    | Resume
    | SetMaxDowntime
    | SetBandwidth
    | SwitchToPostCopy
    | ShutDown
    | Start
    | SetAutostart
)


def call_domain(lv: Any, domain: Any, command: OneCall) -> None:  # noqa: ANN401
    """Do what a command says to the domain that it is about."""
    match command:
        case Pause():
            domain.suspend()
        case Resume():
            domain.resume()
        case SetMaxDowntime(seconds=seconds):
            domain.migrateSetMaxDowntime(milliseconds(seconds))
        case SetBandwidth(bytes_per_second=rate):
            domain.migrateSetMaxSpeed(mib_per_second(rate))
        case SwitchToPostCopy():
            domain.migrateStartPostCopy()
        case ShutDown():
            definitions.refuse_if_bound(lv, domain, "shutting it down to move it would be in vain")
            domain.shutdown()
        case Start():
            if domain.hasManagedSaveImage():
                raise RefusedError("it has a managed save image, which starting would restore")
            domain.create()
        case SetAutostart(enabled=enabled):
            domain.setAutostart(int(enabled))
        case _:
            assert_never(command)
