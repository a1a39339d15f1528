"""A tap on the cable of a lab's host: counts the packets that have some bytes in them.

`python -m tests.lab.wiretap INTERFACE HEX`, in the namespace of the switch, counts until its
standard input is closed, and prints how many there were.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.lab.shape import host_link

if TYPE_CHECKING:
    from types import TracebackType

    from tests.lab.host import LabHost

_EVERY_PROTOCOL = 3  # ETH_P_ALL
_LONGEST_BYTES = 1 << 17  # offloading hands over segments far longer than a packet
_BUFFER_BYTES = 1 << 24
_READY = "taps"
_ROOT = Path(__file__).parents[2]


class Wiretap:
    """Counts packets on a host's cable while it is open; may miss some where there are many."""

    def __init__(self, host: LabHost, pattern: bytes) -> None:
        """Tap the cable of a host, and look for `pattern`."""
        self.seen = 0
        self._process = subprocess.Popen(
            [
                *("ip", "netns", "exec", host.shape.switch, sys.executable),
                *("-m", "tests.lab.wiretap", host_link(host.name), pattern.hex()),
            ],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Return when it listens."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == _READY
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening, and know what was seen."""
        told, _ = self._process.communicate(timeout=30)
        self.seen = int(told)


def _count(interface: str, pattern: bytes) -> int:
    found = 0
    kind = socket.htons(_EVERY_PROTOCOL)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        tap.bind((interface, 0))
        print(_READY, flush=True)
        while True:
            ready, _, _ = select.select([tap, sys.stdin], [], [])
            if tap in ready:
                found += pattern in tap.recv(_LONGEST_BYTES)
            elif sys.stdin in ready:
                return found


if __name__ == "__main__":
    print(_count(sys.argv[1], bytes.fromhex(sys.argv[2])))
