"""What can be made to go wrong in the datacentre, as data: what, to whom, when, for how long.

A fault strikes once: at a second of virtual time, or the next time that a migration or call
it is about reaches a stage. What it does is in `fault_effects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rebalancer.cluster.inventory import HostId, VmId


class Stage(StrEnum):
    """Where in the life of a migration, or in which call, a fault strikes."""

    REQUEST = "request"
    TRANSFER = "transfer"
    SWITCH_OVER = "switch-over"
    """The guest was stopped on the source and does not run on the target yet."""
    FINISH = "finish"
    """The guest runs on the target, the source has not heard of it."""
    POST_COPY = "post-copy"
    SHUT_DOWN = "shut-down"
    START = "start"
    CALL = "call"
    """Any call, named by `Fault.operation`."""


class FaultKind(StrEnum):
    """Everything that is known to go wrong with migrations."""

    REFUSE = "refuse"
    OUT_OF_MEMORY = "out-of-memory"
    """The target cannot allocate the guest's memory, whatever the books say."""
    STALE_DEFINITION = "stale-definition"
    """Another domain on the host already has the VM's name."""
    TRANSFER_BREAKS = "transfer-breaks"
    TARGET_QEMU_DIES = "target-qemu-dies"
    SOURCE_GUEST_DIES = "source-guest-dies"
    LINK_DROPS = "link-drops"
    """A host's migration network, or a link between sites, carries nothing."""
    LINK_SLOWS = "link-slows"
    """… or only `factor` of what it should."""
    HOST_UNREACHABLE = "host-unreachable"
    """The controller gets no answer from the host. Its VMs and migrations know nothing of it."""
    HOST_DIES = "host-dies"
    """Power is lost; it comes back after `duration_seconds` and starts what has autostart."""
    LIBVIRTD_RESTARTS = "libvirtd-restarts"
    CALL_HANGS = "call-hangs"
    """A call never returns, and nothing is done."""
    REPLY_LOST = "reply-lost"
    """A call never returns, although what was asked is done."""
    ERROR_THOUGH_MOVED = "error-though-moved"
    """The migration succeeds and its call says that it failed."""
    PERSIST_FAILS = "persist-fails"
    """The VM arrives, its definition does not."""
    SPLIT_BRAIN = "split-brain"
    """The source gives up at the switch-over while the target runs: two running copies.

    Guests with a shared disk are saved by its lock: their source stays paused.
    """
    IGNORES_SHUTDOWN = "ignores-shutdown"
    START_FAILS = "start-fails"
    START_COMES_LATE = "start-comes-late"
    """The connection breaks before a start, or the loading of a saved memory, is answered. The
    host carries it out all the same, `after_seconds` later."""
    DIRTIES_FASTER = "dirties-faster"
    """The guest writes `factor` times as fast."""
    IO_ERROR = "io-error"
    """The guest stands still because its disk does not answer."""
    BACKUP_RUNS = "backup-runs"
    """Somebody else's job occupies the VM."""
    ABORTED_BY_SOMEBODY = "aborted-by-somebody"
    MIGRATED_BY_SOMEBODY = "migrated-by-somebody"
    """Another administrator migrates the VM to `host`."""
    SHUT_DOWN_BY_OWNER = "shut-down-by-owner"
    RE_CREATED = "re-created"
    """The VM is deleted, and another one with its name is there instead."""
    MEMORY_GROWS = "memory-grows"
    """The VM is given `factor` times its memory."""
    MEMORY_TAKEN = "memory-taken"
    """Something else on the host takes the share `factor` of the memory for guests."""
    HOST_IN_MAINTENANCE = "host-in-maintenance"
    """Another administrator takes the host out of service; observations tell it."""


_USUAL_STAGE = {
    FaultKind.REFUSE: Stage.REQUEST,
    FaultKind.OUT_OF_MEMORY: Stage.REQUEST,
    FaultKind.ERROR_THOUGH_MOVED: Stage.FINISH,
    FaultKind.PERSIST_FAILS: Stage.FINISH,
    FaultKind.SPLIT_BRAIN: Stage.FINISH,
    FaultKind.IGNORES_SHUTDOWN: Stage.SHUT_DOWN,
    FaultKind.START_FAILS: Stage.START,
    FaultKind.START_COMES_LATE: Stage.START,
    FaultKind.CALL_HANGS: Stage.CALL,
    FaultKind.REPLY_LOST: Stage.CALL,
}

ONLY_THERE = frozenset(_USUAL_STAGE)
"""Kinds that make sense at their own stage only."""

HOST_KINDS = frozenset(
    {
        FaultKind.STALE_DEFINITION,
        FaultKind.HOST_UNREACHABLE,
        FaultKind.HOST_DIES,
        FaultKind.LIBVIRTD_RESTARTS,
        FaultKind.MIGRATED_BY_SOMEBODY,
        FaultKind.MEMORY_TAKEN,
        FaultKind.HOST_IN_MAINTENANCE,
    }
)
"""Kinds that must say which host they are about."""

VM_KINDS = frozenset(
    {
        FaultKind.STALE_DEFINITION,
        FaultKind.MIGRATED_BY_SOMEBODY,
        FaultKind.SHUT_DOWN_BY_OWNER,
        FaultKind.RE_CREATED,
        FaultKind.MEMORY_GROWS,
    }
)
"""Kinds that must say which VM they are about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong once."""

    kind: FaultKind
    vm: VmId | None = None
    """Whose migration or call. `None`: the first that comes by."""
    host: HostId | None = None
    link: str | None = None
    stage: Stage | None = None
    """`None`: the kind's usual stage, or the start for what is about a host or a backup."""
    at_seconds: float | None = None
    after_seconds: float = 0.0
    """How long after the stage was reached; of a late start, how late it comes."""
    duration_seconds: float | None = None
    """`None`: for ever."""
    factor: float = 1.0
    operation: str | None = None
    """The call that hangs, by its class name in `rollout.driver`: `Abort`, `Look`."""
    code: int | None = None
    text: str = ""

    def __post_init__(self) -> None:
        """Refuse what could never strike."""
        if self.kind in HOST_KINDS and self.host is None:
            raise ValueError(f"fault {self.kind} must say which host")
        if self.kind in VM_KINDS and self.vm is None:
            raise ValueError(f"fault {self.kind} must say which vm")
        if self.kind in ONLY_THERE and (
            self.at_seconds is not None or self.stage not in (None, _USUAL_STAGE[self.kind])
        ):
            raise ValueError(f"fault {self.kind} strikes at stage {_USUAL_STAGE[self.kind]} only")

    @property
    def strikes_at(self) -> Stage | None:
        """The stage that it waits for; `None` when it waits for a time."""
        if self.stage is not None or self.at_seconds is not None:
            return self.stage if self.at_seconds is None else None
        if self.kind in (*HOST_KINDS, *VM_KINDS, FaultKind.BACKUP_RUNS):
            return None
        return _USUAL_STAGE.get(self.kind, Stage.TRANSFER)

    def concerns(self, vm: VmId, hosts: Iterable[HostId]) -> bool:
        """Whether it is about this VM, and about one of these hosts.

        A host or link named by a network fault is what breaks, not what is waited for.
        """
        waits_for_host = self.host is not None and self.kind not in (
            FaultKind.LINK_DROPS,
            FaultKind.LINK_SLOWS,
            *HOST_KINDS,
        )
        return self.vm in (None, vm) and (not waits_for_host or self.host in tuple(hosts))


class FaultScript:
    """The faults that have not struck yet."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        """Take the faults, in the order in which they are tried."""
        self._waiting = [fault for fault in faults if fault.strikes_at is not None]
        self.timed = tuple(fault for fault in faults if fault.strikes_at is None)

    def take(
        self,
        stage: Stage,
        vm: VmId,
        hosts: Sequence[HostId],
        operation: str | None = None,
    ) -> tuple[Fault, ...]:
        """Return the faults that strike here and now, and never again.

        Of equal faults one strikes at a time: two refusals refuse twice.
        """
        due: list[Fault] = []
        waiting: list[Fault] = []
        for fault in self._waiting:
            fits = (
                fault.strikes_at is stage
                and fault.concerns(vm, hosts)
                and fault.operation in (None, operation)
            )
            (due if fits and fault not in due else waiting).append(fault)
        self._waiting = waiting
        return tuple(due)


_RANDOM_KINDS = tuple(
    kind
    for kind in FaultKind
    if kind
    not in (
        FaultKind.SPLIT_BRAIN,
        FaultKind.HOST_DIES,
        FaultKind.MEMORY_TAKEN,
        FaultKind.HOST_IN_MAINTENANCE,
        FaultKind.START_COMES_LATE,
        *VM_KINDS,
    )
)
"""What a controller should come through without losing a VM or needing a person for it."""

_OPERATIONS = ("Migrate", "Abort", "Look", "Pause", "ReadProgress", "Start")


def random_faults(
    seed: int, vms: Sequence[VmId], hosts: Sequence[HostId], count: int
) -> tuple[Fault, ...]:
    """Draw `count` faults; the same seed draws the same ones."""
    rng = np.random.default_rng(seed)
    return tuple(_random_fault(rng, vms, hosts) for _ in range(count))


def _random_fault(rng: np.random.Generator, vms: Sequence[VmId], hosts: Sequence[HostId]) -> Fault:
    kind = _RANDOM_KINDS[int(rng.integers(len(_RANDOM_KINDS)))]
    is_host_kind = kind in HOST_KINDS or kind in (FaultKind.LINK_DROPS, FaultKind.LINK_SLOWS)
    is_call = kind in (FaultKind.CALL_HANGS, FaultKind.REPLY_LOST)
    return Fault(
        kind=kind,
        vm=None if is_host_kind else vms[int(rng.integers(len(vms)))],
        host=hosts[int(rng.integers(len(hosts)))] if is_host_kind else None,
        at_seconds=float(rng.uniform(0, 120)) if is_host_kind else None,
        after_seconds=0.0 if kind in ONLY_THERE else float(rng.exponential(3.0)),
        duration_seconds=float(rng.choice([2.0, 10.0, 60.0])),
        factor=float(rng.choice([0.1, 0.5])) if kind is FaultKind.LINK_SLOWS else 2.0,
        operation=str(rng.choice(_OPERATIONS)) if is_call else None,
    )
