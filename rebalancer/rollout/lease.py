"""Who is at work on a cluster: one process at a time, and how to tell that it is dead.

The lease is a row of the journal database. Its token grows with every new owner, and each
write to the journal carries the token of its writer: a process that lost its lease while it
was suspended cannot write any more, and nothing is ever done that was not written down first.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

STALE_AFTER_SECONDS = 120.0
"""An owner on another machine that was watched being silent for so long is taken for dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told apart from all others that ever had its number."""

    host: str
    pid: int
    boot: str = ""
    """The machine's boot id: after a reboot none of its processes lives."""
    namespace: str = ""
    """The process id namespace: numbers of another container mean nothing here."""
    started: str = ""
    """When the process started, in the kernel's ticks: process ids are used again."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def to_json(self) -> str:
        """Write it as the database keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Read it back."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to change a cluster, until somebody with a higher token has it."""

    cluster: str
    owner: Owner
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """Who holds a cluster's lease, as anybody may ask."""

    owner: Owner
    token: int
    heartbeat_at: datetime


def this_process() -> Owner:
    """Identify the running process."""
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot=_boot_id(),
        namespace=_namespace(),
        started=_started(os.getpid()),
    )


def child_process(pid: int) -> Owner:
    """Identify a process on this machine that has not been waited for."""
    return replace(this_process(), pid=pid, started=_started(pid))


def is_alive(owner: Owner) -> bool:
    """Whether `owner` is certain to run, on this machine; of others nothing is certain."""
    here = this_process()
    is_here = (owner.host, owner.boot, owner.namespace) == (here.host, here.boot, here.namespace)
    return is_here and bool(owner.boot) and not is_dead(owner)


def seconds_awake() -> float:
    """Seconds that nobody sets, and that stand still while the machine sleeps.

    Whoever waits for a sign of life must not count time in which all machines were suspended.
    """
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def this_clock() -> str:
    """Name the clock of `seconds_awake`: all processes that are told the same share it."""
    try:
        namespace = str(Path("/proc/self/ns/time").readlink())
    except OSError:
        namespace = ""
    boot = _boot_id()
    return f"{boot} {namespace}".strip() if boot else f"{socket.gethostname()} {os.getpid()}"


def is_dead(owner: Owner, *, may_be_elsewhere: bool = False) -> bool:
    """Whether `owner` is certain to have ended. Of other machines nothing is certain.

    `may_be_elsewhere`: the journal is shared, so a machine with our name need not be ours; two
    containers are often called the same. Only one that was booted when ours was is.
    """
    here = this_process()
    if owner.host != here.host:
        return False
    if may_be_elsewhere and (not owner.boot or owner.boot != here.boot):
        return False
    if owner.boot and here.boot and owner.boot != here.boot:
        return True
    if owner.namespace != here.namespace:
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(owner.started) and _started(owner.pid) not in ("", owner.started)


def _boot_id() -> str:
    return _first_line(Path("/proc/sys/kernel/random/boot_id"))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Field 22 of /proc/PID/stat; the name in field 2 may hold blanks and brackets."""
    stat = _first_line(Path(f"/proc/{pid}/stat"))
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
