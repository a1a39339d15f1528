"""A simulated hypervisor machine and the domains it knows, as libvirt would tell them.

Everything in here is one host's own business; what passes between hosts is in `migration`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, HostState, VmId, VmState
from rebalancer.rollout.sightings import Absent, DomainView, JobKind, StateReason
from rebalancer.simulation.specification import HostSpec


@dataclass(slots=True, kw_only=True)
class Process:
    """A QEMU process: one copy of a VM. It holds memory whether its CPUs run or not."""

    state: VmState
    reason: StateReason
    memory_bytes: int
    saved_at_seconds: float | None = None
    """Its memory is that of this second, and it has not run since; `None`: its own."""
    stuck: bool = False
    """It says that it runs and does not: post-copy pages do not arrive."""

    @property
    def runs(self) -> bool:
        """Whether its CPUs really execute."""
        return self.state is VmState.RUNNING and not self.stuck


@dataclass(slots=True, kw_only=True)
class Domain:
    """What one host knows of one VM: a definition, a process, or both."""

    vm: VmId
    memory_bytes: int
    persistent: bool = False
    autostart: bool = False
    process: Process | None = None
    off_reason: StateReason = StateReason.OTHER
    job: JobKind | None = None


type Noted = Callable[[VmId, HostId, str, bool], None]
"""Told of every change: which VM, where, what it is now in words, whether it runs."""


class SimulatedHost:
    """One host. It keeps its books; whether what is asked makes sense others have checked."""

    def __init__(self, spec: HostSpec, noted: Noted) -> None:
        """Begin without any VM, and with power unless it sleeps."""
        self.facts = spec.host
        self.base_cpu = spec.base_cpu
        self.domains: dict[VmId, Domain] = {}
        self.foreign_names: set[str] = set()
        """Names that other people's domains of another UUID already have here."""
        self.taken_memory_bytes = 0
        """Memory for guests that something else than guests has taken."""
        self.asleep = spec.host.state is HostState.ASLEEP
        self.powered = not self.asleep
        self.unreachable_until = 0.0
        """Up to this second the controller gets no answer; the VMs know nothing of it."""
        self._noted = noted

    @property
    def id(self) -> HostId:
        """The host's id."""
        return self.facts.id

    @property
    def used_memory_bytes(self) -> int:
        """Memory that all processes hold together, incoming copies included."""
        return self.taken_memory_bytes + sum(
            domain.process.memory_bytes for domain in self.domains.values() if domain.process
        )

    def process_of(self, vm: VmId) -> Process | None:
        """Return the VM's process here, if it has one."""
        domain = self.domains.get(vm)
        return domain.process if domain else None

    def view(self, vm: VmId) -> DomainView | Absent:
        """Return what libvirt would say of the VM."""
        domain = self.domains.get(vm)
        if domain is None:
            return Absent()
        process = domain.process
        return DomainView(
            state=process.state if process else _off_state(domain.off_reason),
            reason=process.reason if process else domain.off_reason,
            job=domain.job,
            persistent=domain.persistent,
            memory_bytes=domain.memory_bytes,
            autostart=domain.autostart,
        )

    def define(self, vm: VmId, memory_bytes: int, *, autostart: bool = False) -> None:
        """Know the VM from now on, started or not."""
        domain = self.domains.setdefault(vm, Domain(vm=vm, memory_bytes=memory_bytes))
        domain.persistent = True
        domain.autostart = autostart

    def undefine(self, vm: VmId) -> None:
        """Forget the definition; without a process nothing is left of it."""
        domain = self.domains[vm]
        domain.persistent = domain.autostart = False
        self._drop_if_nothing_left(domain)

    def begin_process(
        self, vm: VmId, memory_bytes: int, state: VmState, reason: StateReason
    ) -> None:
        """Start a process, its CPUs running or not."""
        domain = self.domains.setdefault(vm, Domain(vm=vm, memory_bytes=memory_bytes))
        domain.process = Process(state=state, reason=reason, memory_bytes=memory_bytes)
        self._note(domain)

    def set_state(
        self, vm: VmId, state: VmState, reason: StateReason, *, stuck: bool = False
    ) -> None:
        """Give the VM's process another state."""
        domain = self.domains[vm]
        assert domain.process is not None, f"{vm} has no process on {self.id}"
        domain.process.state, domain.process.reason = state, reason
        domain.process.stuck = stuck
        self._note(domain)

    def end_process(self, vm: VmId, reason: StateReason) -> None:
        """End the VM's process, if there is one; a transient domain goes with it."""
        domain = self.domains.get(vm)
        if domain is None or domain.process is None:
            return
        domain.process, domain.job, domain.off_reason = None, None, reason
        self._note(domain)
        self._drop_if_nothing_left(domain)

    def set_job(self, vm: VmId, job: JobKind | None) -> None:
        """Say which job occupies the VM here, if it is known here at all."""
        if vm in self.domains:
            self.domains[vm].job = job

    def _drop_if_nothing_left(self, domain: Domain) -> None:
        if not domain.persistent and domain.process is None:
            del self.domains[domain.vm]

    def _note(self, domain: Domain) -> None:
        process = domain.process
        if process:
            words = f"{process.state} ({process.reason})" + (" stuck" if process.stuck else "")
        else:
            words = f"off ({domain.off_reason})"
        self._noted(domain.vm, self.id, words, process is not None and process.runs)


def _off_state(reason: StateReason) -> VmState:
    return VmState.CRASHED if reason is StateReason.CRASHED else VmState.SHUTOFF
