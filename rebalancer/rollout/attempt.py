"""What a rollout has asked for in one migration, and how the VM was before it asked.

It is what the journal keeps of a migration: with it and a fresh look at the hosts anybody can
tell how the migration ended, after a crash as well as without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rebalancer.cluster.inventory import HostId, VmId, VmState
from rebalancer.cluster.plan import Migration
from rebalancer.rollout.disk_files import NO_FILES, DiskFiles
from rebalancer.rollout.driver import (
    Abort,
    Command,
    CopyDefinition,
    CreateDisk,
    DiscardImage,
    EndStaleCopy,
    Migrate,
    MoveDefinition,
    Pause,
    RemoveDisk,
    Restore,
    Resume,
    Save,
    SetAutostart,
    SetBandwidth,
    SetMaxDowntime,
    ShutDown,
    Start,
    SwitchToPostCopy,
    Undefine,
)
from rebalancer.rollout.sightings import DomainView, StateReason
from rebalancer.rollout.stale import StaleProof


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The VM on its source, as it was seen just before anything was changed."""

    state: VmState
    persistent: bool
    autostart: bool
    memory_bytes: int
    target_had_definition: bool = False
    """The target had a definition of it already, which is then not ours to remove."""

    @classmethod
    def of(cls, view: DomainView, *, target_had_definition: bool) -> Before:
        """Keep what has to be the same afterwards."""
        return cls(
            state=view.state,
            persistent=view.persistent,
            autostart=view.autostart,
            memory_bytes=view.memory_bytes,
            target_had_definition=target_had_definition,
        )

    @property
    def was_running(self) -> bool:
        """Whether its CPUs ran, so that they have to run afterwards."""
        return self.state is VmState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to carry out a migration."""

    migration: Migration
    before: Before
    issued: tuple[Command, ...] = ()
    """Changing commands in the order in which they were journalled. Each may or may not have
    reached a hypervisor, so they say what *may* have happened."""
    open_call: bool = False
    """The end of the call that moves the VM was not seen: it timed out, or the controller that
    waited for it died. It may still have an effect."""
    stale_on_source: bool = False
    """Two copies ran, and we paused the source's, which must never run again."""
    stale_proof: StaleProof | None = None
    """What the journal has of an earlier process that proves the source's copy to be the older."""
    may_end_stale: bool = False
    """The operator has seen the proof, and wants that copy to be ended."""
    issued_before: int = 0
    """How many of the commands in `issued` an earlier process had journalled."""
    image_is_gone: bool = False
    """The file with the guest's memory was deleted."""
    disk_files: DiskFiles = NO_FILES
    """What became of the files on the target that disks were to be copied into."""
    is_error_vague: bool = False
    """The last error may only mean that the connection broke: what was asked may go on."""
    error: str = ""
    """What the call said when it failed; for people, never to decide by."""

    @property
    def vm(self) -> VmId:
        """The VM that is moved."""
        return self.migration.vm

    @property
    def source(self) -> HostId:
        """The host that it was on."""
        return self.migration.source

    @property
    def target(self) -> HostId:
        """The host that it should be on."""
        return self.migration.target

    def has_issued(self, kind: type[object], host: HostId | None = None) -> bool:
        """Whether such a command was issued, to `host` if that is given."""
        return self.times_issued(kind, host) > 0

    def times_issued(self, kind: type[object], host: HostId | None = None) -> int:
        """How often such a command was issued."""
        return sum(1 for c in self.issued if isinstance(c, kind) and host in (None, _host_of(c)))

    @property
    def image(self) -> Save | None:
        """The command that wrote the guest's memory to a file, if there was one."""
        return next((c for c in reversed(self.issued) if isinstance(c, Save)), None)

    @property
    def paused_by_us(self) -> bool:
        """Whether the last thing we asked of the source's CPUs was to stand still."""
        asked = [c for c in self.issued if isinstance(c, Pause | Resume) and c.host == self.source]
        return bool(asked) and isinstance(asked[-1], Pause)

    def with_issued(self, commands: tuple[Command, ...]) -> Attempt:
        """Remember that these are being issued."""
        changing = tuple(c for c in commands if c.changes)
        return replace(self, issued=(*self.issued, *changing)) if changing else self


def _host_of(command: Command) -> HostId | None:
    return getattr(command, "host", None)


_CHANGING: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Migrate,
        CreateDisk,
        RemoveDisk,
        MoveDefinition,
        Abort,
        Pause,
        Resume,
        SetMaxDowntime,
        SetBandwidth,
        SwitchToPostCopy,
        ShutDown,
        Save,
        Restore,
        DiscardImage,
        CopyDefinition,
        Start,
        Undefine,
        EndStaleCopy,
        SetAutostart,
    )
}


_REASONS = frozenset({"stale_reason", "kept_reason"})
_LISTED = frozenset({"disks"})


def command_to_json(command: Command) -> dict[str, Any]:
    """Write a command as the journal keeps it."""
    written = {"do": type(command).__name__, **asdict(command)}
    if not written.get("disks", True):
        del written["disks"]  # so that programs of before there were any can read it
    return written


def command_from_json(written: Mapping[str, Any]) -> Command:
    """Read a changing command back from the journal."""
    fields = {name: _field(name, value) for name, value in written.items() if name != "do"}
    command: Command = _CHANGING[written["do"]](**fields)
    return command


def _field(name: str, value: object) -> object:
    if name in _REASONS:
        return StateReason(str(value))
    return tuple(value) if name in _LISTED and isinstance(value, list | tuple) else value


def before_to_json(before: Before) -> dict[str, Any]:
    """Write how a VM was, as the journal keeps it."""
    return asdict(before)


def before_from_json(written: Mapping[str, Any]) -> Before:
    """Read back how a VM was."""
    return Before(**{**written, "state": VmState(written["state"])})
