"""Telling systemd how a service is: ready, reloading, stopping, alive.

The protocol of sd_notify(3): lines of `NAME=value` in a datagram to the socket that the variable
`NOTIFY_SOCKET` names. Without the variable nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

MICRO = 1e-6


class Notifier:
    """Sends states to the service manager that started this process, if one did."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take the address from the environment; `@` begins one in the abstract namespace."""
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def ready(self, status: str) -> None:
        """Say that the service is up, or that it has reloaded."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """Say in one line what the service is doing; `systemctl status` shows it."""
        self._send(f"STATUS={_line(text)}")

    def reloading(self) -> None:
        """Say that settings are being read anew; `ready` ends that."""
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now / MICRO:.0f}")

    def stopping(self, status: str) -> None:
        """Say that the service is on its way down."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def alive(self) -> None:
        """Keep the watchdog from ending the service."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(message.encode(), self._address)
        except OSError:
            # Nobody is there to be told, and work goes on; a watchdog draws its own conclusion.
            return


def watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """How often the service manager wants to hear something; `None`: it has no watchdog on us."""
    limit = environment.get("WATCHDOG_USEC", "")
    for_process = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not limit.isdigit() or int(limit) == 0 or for_process != str(os.getpid()):
        return None
    return int(limit) * MICRO


def _line(text: str) -> str:
    return " ".join(text.split())
