"""The driver over libvirt: the only module of a rollout that knows it.

Migrations are peer to peer: the source's libvirtd does the work, and goes on when this process
dies. Every call runs in a thread of its own with a time limit; a long one has a connection of
its own, so that it never keeps a short one from being answered.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.errors import RolloutError
from rebalancer.rollout import libvirt_definitions as definitions
from rebalancer.rollout import libvirt_disks, libvirt_images, libvirt_left_overs
from rebalancer.rollout.background import in_background
from rebalancer.rollout.calls import (
    NO_DOMAIN,
    OPERATION_INVALID,
    Call,
    LookCall,
    NoConnectionError,
    RefusedError,
)
from rebalancer.rollout.disk_files import why_not_remove
from rebalancer.rollout.driver import (
    Abort,
    Clock,
    Command,
    CopyDefinition,
    CreateDisk,
    DiscardImage,
    EndStaleCopy,
    Look,
    Migrate,
    MoveDefinition,
    Pending,
    ReadProgress,
    ReadResult,
    RemoveDisk,
    Reply,
    Restore,
    Save,
    Ticket,
    Undefine,
)
from rebalancer.rollout.left_over_commands import (
    DiskFile,
    LookAtFile,
    NoDiskFile,
    RemoveLeftOver,
)
from rebalancer.rollout.left_overs import why_not_remove_now
from rebalancer.rollout.libvirt_connections import CallLimits, Connections, HostAddress
from rebalancer.rollout.libvirt_event_loop import start_event_loop
from rebalancer.rollout.libvirt_one_call import call_domain
from rebalancer.rollout.libvirt_request import (
    Request,
    definition_request,
    migration_request,
    milliseconds,
)
from rebalancer.rollout.libvirt_states import job_of, progress_of, view_of
from rebalancer.rollout.sightings import Absent, HostView, JobKind, TransferProgress, Unreachable
from rebalancer.rollout.stale import why_not_end

OPERATION_UNSUPPORTED = 84
ONLY_ON_SOURCE = (OPERATION_INVALID, OPERATION_UNSUPPORTED)
"""Answers to who asks the target of a migration for its statistics; versions differ."""
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_COUNT = 3


class LibvirtDriver:
    """Changes a cluster through libvirt; see `HypervisorDriver`."""

    def __init__(
        self,
        hosts: Mapping[HostId, HostAddress],
        clock: Clock,
        *,
        limits: CallLimits | None = None,
        tls: bool = False,
        parallel_connections: int | None = None,
    ) -> None:
        """Prepare to talk to `hosts`; connections are made when they are needed.

        `tls` encrypts guests' memory and refuses to migrate without. `parallel_connections`
        sends memory over several TCP streams, which pays on links that one cannot fill.
        """
        self._libvirt = _import_libvirt()
        self._clock = clock
        self._limits = limits or CallLimits()
        self._tls = tls
        self._parallel_connections = parallel_connections
        self._reach = Connections(hosts, self._connect, clock, self._limits)
        self._calls: dict[Ticket, Call | LookCall] = {}
        self._issued = 0
        start_event_loop(self._libvirt)

    # The port ----------------------------------------------------------------------------------

    def issue(self, command: Command) -> Ticket:
        """Begin `command` and return at once; any failure comes as its reply."""
        self._issued += 1
        ticket = Ticket(self._issued)
        if isinstance(command, Look):
            self._calls[ticket] = self._begin_look(command)
        else:
            name = f"{type(command).__name__} {command.vm}"
            self._calls[ticket] = Call(
                name=name,
                future=in_background(name, partial(self._carry_out, command)),
                since=self._clock.now(),
                limit_seconds=self._limit_of(command),
            )
        return ticket

    def poll(self, ticket: Ticket) -> Reply:
        """Tell what became of a command; after `Returned` or `Failed` the ticket is spent."""
        if ticket not in self._calls:
            raise ValueError(f"ticket {ticket} is spent or was never issued")
        call = self._calls[ticket]
        now = self._clock.now()
        if isinstance(call, LookCall):
            reply = call.reply(now, self._limits.look_seconds)
        else:
            reply = call.reply(now, self._libvirt.libvirtError)
        if not isinstance(reply, Pending):
            del self._calls[ticket]
        return reply

    def close(self) -> None:
        """Let go of connections; what is being transferred goes on."""
        self._calls.clear()
        self._reach.close()

    def _limit_of(self, command: Command) -> float:
        match command:
            case Migrate() | MoveDefinition():
                return self._limits.migrate_seconds
            case Save() | Restore():
                return self._limits.image_seconds
            case Abort():
                return self._limits.abort_seconds
        return self._limits.call_seconds

    # Connections -------------------------------------------------------------------------------

    def _connect(self, host: HostId) -> Any:  # noqa: ANN401  libvirt has no types
        try:
            connection = self._libvirt.open(self._reach.address(host).uri)
        except self._libvirt.libvirtError as error:
            raise NoConnectionError(str(error)) from error
        # A local socket needs no keep-alive, and refuses it.
        with contextlib.suppress(self._libvirt.libvirtError):
            connection.setKeepAlive(KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_COUNT)
        return connection

    def _domain(self, host: HostId, vm: VmId) -> Any:  # noqa: ANN401
        return self._reach.shared(host).lookupByUUIDString(vm)

    # Looking -----------------------------------------------------------------------------------

    def _begin_look(self, command: Look) -> LookCall:
        return LookCall(
            vm=command.vm,
            since=self._clock.now(),
            views={
                host: in_background(f"look at {host}", partial(self._view, host, command.vm))
                for host in dict.fromkeys(command.hosts)
            },
        )

    def _view(self, host: HostId, vm: VmId) -> HostView:
        """Only "no such domain" means that it is absent; any other error means nothing."""
        try:
            return self._domain_view(self._domain(host, vm))
        except self._libvirt.libvirtError as error:
            if error.get_error_code() == NO_DOMAIN:
                return Absent()
            return Unreachable(why=str(error))
        except TimeoutError:
            return Unreachable(why="no connection in time")
        except (NoConnectionError, RefusedError) as error:
            return Unreachable(why=str(error))

    def _domain_view(self, domain: Any) -> HostView:  # noqa: ANN401
        state, reason = domain.state()
        has_process = bool(domain.isActive())
        persistent = bool(domain.isPersistent())
        return view_of(
            state=(state, reason),
            has_process=has_process,
            job=self._job(domain) if has_process else None,
            persistent=persistent,
            autostart=persistent and bool(domain.autostart()),
            memory_kib=domain.maxMemory(),
            has_managed_save=not has_process and bool(domain.hasManagedSaveImage()),
        )

    def _job(self, domain: Any) -> JobKind | None:  # noqa: ANN401
        """Ask for the job; that its statistics are kept elsewhere tells that it is incoming."""
        try:
            return job_of(domain.jobStats())
        except self._libvirt.libvirtError as error:
            if error.get_error_code() in ONLY_ON_SOURCE and domain.isActive():
                return JobKind.MIGRATION_IN
            raise

    # Commands ----------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> TransferProgress | DiskFile | NoDiskFile | None:
        match command:
            case Migrate():
                self._migrate(command)
            case MoveDefinition():
                self._move_definition(command)
            case Abort():
                self._abort(command)
            case CopyDefinition(host=host, target=target):
                there = self._reach.shared(target) if target != host else None
                definitions.copy(self._libvirt, self._domain(host, command.vm), there)
            case Undefine():
                definitions.remove(self._libvirt, self._domain(command.host, command.vm))
            case EndStaleCopy():
                self._end_stale_copy(command)
            case CreateDisk(host=host):
                libvirt_disks.create(self._libvirt, self._reach.shared(host), command)
            case RemoveDisk():
                self._remove_disk(command)
            case LookAtFile(host=host):
                return libvirt_left_overs.look_at(self._libvirt, self._reach.shared(host), command)
            case RemoveLeftOver():
                self._remove_left_over(command)
            case Save() | Restore() | DiscardImage():
                self._handle_image(command)
            case ReadProgress():
                return self._progress(command)
            case ReadResult():
                return self._result(command)
            case Look():
                raise AssertionError("a look goes another way")
            case _:
                call_domain(self._libvirt, self._domain(command.host, command.vm), command)
        return None

    def _migrate(self, command: Migrate) -> None:
        request = migration_request(
            self._libvirt,
            command,
            tls=self._tls,
            parallel_connections=self._parallel_connections,
            migration_uri=self._reach.address(command.target).migration_uri,
        )
        self._refuse_if_at_work(self._domain(command.host, command.vm))
        ended = threading.Event()
        in_background(f"set downtime of {command.vm}", partial(self._set_downtime, command, ended))
        try:
            self._migrate_to(command, request)
        finally:
            ended.set()

    def _refuse_if_at_work(self, domain: Any) -> None:  # noqa: ANN401
        """Libvirt would let us wait for the other job, which would look like ours meanwhile."""
        if job := job_of(domain.jobStats()):
            raise RefusedError(f"another job runs on it ({job})")

    def _migrate_to(self, command: Migrate | MoveDefinition, request: Request) -> None:
        """Make the long call, on a connection that nothing else uses."""
        target = self._reach.address(command.target)
        connection = self._reach.own(command.host)
        try:
            domain = connection.lookupByUUIDString(command.vm)
            domain.migrateToURI3(target.peer_uri or target.uri, request.parameters, request.flags)
        finally:
            connection.close()

    def _set_downtime(self, command: Migrate, ended: threading.Event) -> None:
        """Set the longest pause as soon as there is a job to set it on."""
        limit = milliseconds(command.max_downtime_seconds)
        domain = self._domain(command.host, command.vm)
        while not ended.wait(0.2):
            try:
                domain.migrateSetMaxDowntime(limit)
            except self._libvirt.libvirtError as error:
                if error.get_error_code() != OPERATION_INVALID:
                    return
            else:
                return

    def _move_definition(self, command: MoveDefinition) -> None:
        domain = self._domain(command.host, command.vm)
        if domain.isActive():
            raise RefusedError("it runs, so more than its definition would have to move")
        definitions.refuse_if_bound(
            self._libvirt, domain, "its definition alone would be of no use elsewhere"
        )
        self._migrate_to(command, definition_request(self._libvirt))

    def _abort(self, command: Abort) -> None:
        """Abort our job only: somebody else's backup is none of our business."""
        domain = self._domain(command.host, command.vm)
        stats = domain.jobStats()
        if job_of(stats) is not JobKind.MIGRATION_OUT:
            raise RefusedError("no migration out of this host is running on it")
        view = self._domain_view(domain)
        if "post-copy" in getattr(view, "reason", ""):
            raise RefusedError("it is in post-copy, where aborting would lose it")
        domain.abortJob()

    def _handle_image(self, command: Save | Restore | DiscardImage) -> None:
        """Save, load or delete a guest's memory: long calls, on a connection of their own."""
        if self._tls and isinstance(command, Save):
            raise RefusedError("memory must be encrypted on its way, and to storage it is not")
        folder = libvirt_images.image_folder(self._reach.address(command.host).storage, command)
        connection = self._reach.own(command.host)
        try:
            match command:
                case Save():
                    domain = connection.lookupByUUIDString(command.vm)
                    definitions.refuse_if_bound(
                        self._libvirt, domain, "its memory alone would be of no use elsewhere"
                    )
                    libvirt_images.save(self._libvirt, connection, domain, folder, command)
                case Restore():
                    libvirt_images.restore(self._libvirt, connection, folder, command)
                case DiscardImage():
                    libvirt_images.discard(self._libvirt, connection, folder, command)
        finally:
            connection.close()

    def _end_stale_copy(self, command: EndStaleCopy) -> None:
        """Destroy a paused process, after both hypervisors have said once more which it is."""
        kept = self._domain_view(self._domain(command.keep, command.vm))
        domain = self._domain(command.host, command.vm)
        if against := why_not_end(command, self._domain_view(domain), kept):
            raise RefusedError("; ".join(against))
        domain.destroy()

    def _remove_disk(self, command: RemoveDisk) -> None:
        """Delete a copy, after both hypervisors have said once more where the VM is."""
        there, kept = (self._view(host, command.vm) for host in (command.host, command.keep))
        if against := list(why_not_remove(there, kept)):
            raise RefusedError("; ".join(against))
        libvirt_disks.remove(self._libvirt, self._reach.shared(command.host), command)

    def _remove_left_over(self, command: RemoveLeftOver) -> None:
        """Delete an old disk, after both hypervisors have said once more where the VM is."""
        there, kept = (self._view(host, command.vm) for host in (command.host, command.keep))
        if against := list(why_not_remove_now(there, kept)):
            raise RefusedError("; ".join(against))
        libvirt_left_overs.remove(self._libvirt, self._reach.shared(command.host), command)

    def _progress(self, command: ReadProgress) -> TransferProgress | None:
        stats = self._domain(command.host, command.vm).jobStats()
        return progress_of(stats) if job_of(stats) is JobKind.MIGRATION_OUT else None

    def _result(self, command: ReadResult) -> TransferProgress | None:
        completed = self._libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED
        stats = self._domain(command.host, command.vm).jobStats(completed)
        return progress_of(stats) if stats.get("type", 0) else None


def _import_libvirt() -> Any:  # noqa: ANN401
    try:
        import libvirt
    except ImportError as error:
        raise RolloutError(
            "the libvirt bindings are missing: pip install 'vm-rebalancer[libvirt]' "
            "(needs the packages libvirt-dev and pkg-config)"
        ) from error
    return libvirt
