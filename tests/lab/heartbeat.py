"""Heartbeats of guests: what a series of them says, and the collector that hears them.

Only from outside can one see that a guest stood still: its own clock stops with it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.lab.deadline import DeadlineError, wait_until
from tests.lab.errors import LabError
from tests.lab.shape import HEARTBEAT_PORT

if TYPE_CHECKING:
    from types import TracebackType

_SO_TIMESTAMPNS = 35  # Linux; Python's socket module does not name it
_TIMESPEC = struct.Struct("@ll")
_MAX_BEAT_BYTES = 512
_RECEIVE_BUFFER_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat."""

    guest: str
    boot_id: str
    """Drawn at random when the guest booted: another one means that it booted again."""

    sequence: int
    """0, 1, 2, ... since that boot."""

    dirtied_pages: int
    """Pages of 4 KiB the guest's agent has dirtied since that boot."""

    disk_mismatches: int
    """How often a block read from the guest's disk was not what it had written there."""

    clock_seconds: float
    """The guest's own clock. It stops with the guest, and goes on while the guest only waits for
    a CPU of a busy machine."""

    @classmethod
    def parse(cls, text: str) -> Beat:
        """Read what `guest/agent.c` sends."""
        try:
            _, guest, boot_id, sequence, dirtied_pages, disk_mismatches, clock = text.split(" ")
            return cls(
                guest=guest,
                boot_id=boot_id,
                sequence=int(sequence),
                dirtied_pages=int(dirtied_pages),
                disk_mismatches=int(disk_mismatches),
                clock_seconds=int(clock) / 1000,
            )
        except ValueError as error:
            raise LabError(f"not a heartbeat: {text!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReport:
    """What the heartbeats of one guest said from a mark until now."""

    seconds: float
    """From the mark until now."""

    beats: int
    longest_gap_seconds: float
    """Between two beats, from the mark to the first, or from the last until now."""

    longest_stop_seconds: float
    """Between two beats, the last one before the mark included, by how much the guest's clock fell
    behind: so long it was stopped. What it waited for a CPU does not count, nor what it was cut
    off: those are in the gaps."""

    lost_beats: int
    """Sequence numbers that were sent and never heard."""

    repeated_beats: int
    """Beats whose number was not higher than all before: two copies run, or an old one is back."""

    boots: int
    """How many boots were heard; the one known at the mark counts."""

    @property
    def restarted(self) -> bool:
        """Whether the guest booted again."""
        return self.boots > 1

    @property
    def ran_through(self) -> bool:
        """Whether all beats could have come from one guest that never died and never doubled."""
        return self.beats > 0 and not self.restarted and self.repeated_beats == 0


class _Boot:
    """The sequence numbers heard from one boot of a guest."""

    def __init__(self, sequence: int) -> None:
        self._first = sequence
        self._highest = sequence
        self._heard = 1

    def hear(self, sequence: int) -> bool:
        """Take note of a number; say whether it is a new one."""
        # There is one path from guest to collector at a time, so beats of one guest do not overtake
        # each other.
        if sequence <= self._highest:
            return False
        self._highest = sequence
        self._heard += 1
        return True

    @property
    def lost(self) -> int:
        """How many numbers in between were never heard."""
        return self._highest - self._first + 1 - self._heard


class HeartbeatRecorder:
    """Follows one guest. Times are the kernel's receive times, in seconds since the epoch."""

    def __init__(
        self,
        guest: str,
        *,
        now_seconds: float | None = None,
        last_words: Callable[[], str] = lambda: "",
    ) -> None:
        """Begin to follow a guest by name; `last_words` tells what else is known of it."""
        self.guest = guest
        self._last_words = last_words
        self._lock = threading.Lock()
        self._last: Beat | None = None
        self._last_received_seconds = 0.0
        self._beats_ever = 0
        self._start(time.time() if now_seconds is None else now_seconds)

    def _start(self, now_seconds: float) -> None:
        self._marked_seconds = now_seconds
        self._heard_seconds = now_seconds
        self._longest_gap_seconds = 0.0
        self._longest_stop_seconds = 0.0
        self._beats = 0
        self._repeated = 0
        self._boots: dict[str, _Boot] = {}
        if self._last is not None:
            # Known from before the mark, so that a restart or a repetition just after it is seen.
            self._boots[self._last.boot_id] = _Boot(self._last.sequence)

    @property
    def last(self) -> Beat | None:
        """The newest beat, also from before the mark; None if there never was one."""
        return self._last

    def mark(self, *, now_seconds: float | None = None) -> None:
        """Forget the past: reports tell what happened from here on."""
        with self._lock:
            self._start(time.time() if now_seconds is None else now_seconds)

    def record(self, beat: Beat, *, received_seconds: float) -> None:
        """Take note of a beat."""
        with self._lock:
            gap_seconds = received_seconds - self._heard_seconds
            self._longest_gap_seconds = max(self._longest_gap_seconds, gap_seconds)
            self._heard_seconds = max(self._heard_seconds, received_seconds)
            self._beats += 1
            boot = self._boots.get(beat.boot_id)
            if boot is None:
                self._boots[beat.boot_id] = _Boot(beat.sequence)
            elif not boot.hear(beat.sequence):
                self._repeated += 1
            stop_seconds = self._stop_before(beat, received_seconds)
            self._longest_stop_seconds = max(self._longest_stop_seconds, stop_seconds)
            self._last, self._last_received_seconds = beat, received_seconds
            self._beats_ever += 1

    def _stop_before(self, beat: Beat, received_seconds: float) -> float:
        last = self._last
        if last is None or last.boot_id != beat.boot_id:
            return 0.0
        passed_seconds = received_seconds - self._last_received_seconds
        return passed_seconds - (beat.clock_seconds - last.clock_seconds)

    def report(self, *, now_seconds: float | None = None) -> HeartbeatReport:
        """Say what was heard since the mark."""
        with self._lock:
            now = time.time() if now_seconds is None else now_seconds
            return HeartbeatReport(
                seconds=now - self._marked_seconds,
                beats=self._beats,
                longest_gap_seconds=max(self._longest_gap_seconds, now - self._heard_seconds),
                longest_stop_seconds=self._longest_stop_seconds,
                lost_beats=sum(boot.lost for boot in self._boots.values()),
                repeated_beats=self._repeated,
                boots=len(self._boots),
            )

    def wait_for_beat(self, *, within_seconds: float = 120) -> Beat:
        """Wait for the next beat, that is, for the guest to run."""
        before = self._beats_ever
        try:
            wait_until(
                lambda: self._beats_ever > before,
                within_seconds=within_seconds,
                what=f"a heartbeat of {self.guest}",
                every_seconds=0.02,
            )
        except DeadlineError as error:
            raise DeadlineError(f"{error}; its serial line ends: {self._last_words()}") from error
        assert self._last is not None
        return self._last


class HeartbeatCollector:
    """Listens on the lab's network and hands each beat to the recorder of its guest."""

    def __init__(self, address: str, *, port: int = HEARTBEAT_PORT) -> None:
        """Listen at once; one collector per lab at a time."""
        self._recorders: dict[str, HeartbeatRecorder] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            self._socket.bind((address, port))
            self._socket.settimeout(0.2)  # how long `close` may take
        except OSError as error:
            self._socket.close()
            raise LabError(
                f"cannot listen for heartbeats on {address} port {port}: {error}; "
                "is another collector running?"
            ) from error
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="lab heartbeats", daemon=True)
        self._thread.start()

    def follow(self, guest: str, last_words: Callable[[], str] = lambda: "") -> HeartbeatRecorder:
        """Return a fresh recorder for a guest; an older one of that name hears no more."""
        self._recorders[guest] = HeartbeatRecorder(guest, last_words=last_words)
        return self._recorders[guest]

    def close(self) -> None:
        """Stop listening."""
        self._is_closing.set()
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Self:
        """Nothing to do: it listens already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self.close()

    def _listen(self) -> None:
        while not self._is_closing.is_set():
            with contextlib.suppress(TimeoutError, LabError):
                self._receive()

    def _receive(self) -> None:
        payload, ancillary, _, _ = self._socket.recvmsg(
            _MAX_BEAT_BYTES, socket.CMSG_SPACE(_TIMESPEC.size)
        )
        beat = Beat.parse(payload.decode(errors="replace"))
        recorder = self._recorders.get(beat.guest)
        if recorder is not None:
            recorder.record(beat, received_seconds=_received_seconds(ancillary))


def _received_seconds(ancillary: list[tuple[int, int, bytes]]) -> float:
    """When the kernel received a datagram: this thread may run late on a busy machine."""
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(content[: _TIMESPEC.size])
            return float(seconds + nanoseconds / 1e9)
    return time.time()
