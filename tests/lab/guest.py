"""LabGuest: a small VM whose load a test sets, and whose heartbeat tells what happened to it."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from tests.lab.deadline import DeadlineError, call_within
from tests.lab.errors import LabError
from tests.lab.host import Connection, Domain, LabHost, libvirt
from tests.lab.shape import COMMAND_PORT, HEARTBEAT_PORT, MIB, LabShape, mac_address

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.heartbeat import HeartbeatRecorder
    from tests.lab.image import GuestImage

METADATA_URI = "https://rebalancer.dev/xmlns/domain/1.0"
"""Namespace of the labels that the rebalancer reads from a domain's metadata."""

_KERNEL_OPTIONS = (
    "console=ttyS0",
    "quiet",
    "oops=panic",  # trouble in the guest's kernel must stop its heartbeat
    "mitigations=off",  # they only slow emulation down ...
    # ... but for this one, which the guest's memory depends on: without it 4 of 62 live migrations
    # corrupted it ("virtio_net: id 0 is not a head", oopses), with it 0 of 170. Probably because an
    # emulating QEMU before 9.0 misses writes between a round of migration and the next reload of
    # the guest's page tables; page table isolation reloads them at every system call. It needs a
    # CPU model without PCID, such as Nehalem.
    "pti=on",
)

_COMMAND_SECONDS = 60
_COMMAND_RETRY_SECONDS = 1.0
_REMOVE_SECONDS = 30
# A kernel and the agent need about 62 MiB; below 80 MiB the kernel does not even boot.
_OVERHEAD_BYTES = 62 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """What a guest is made of. The defaults are the smallest and quietest guest that works."""

    memory_bytes: int = 96 * MIB
    """96 MiB holds a working set of 24 MiB; 128 MiB one of 48 MiB."""

    working_set_bytes: int = 16 * MIB
    """The part of its memory that it dirties."""

    dirty_bytes_per_second: float = 0
    """How fast; see `LabGuest.set_dirty_rate`."""

    cpu_load_ratio: float = 0
    """Share of its vCPU that it burns; see `LabGuest.set_cpu_load`."""

    vcpus: int = 1
    """2 vCPUs take almost twice as long to boot."""

    labels: Mapping[str, str] = field(default_factory=lambda: {"app": "lab"})
    """Its labels for the rebalancer's policies."""

    disk_bytes: int = 0
    """Size of its disk on the lab's shared storage; 0 means diskless."""

    has_own_disk: bool = False
    """Its disk is a qcow2 file of its host alone instead."""

    more_devices: str = ""
    """XML of further devices, whose files the test brings along."""

    heeds_power_button: bool = True
    """Whether it shuts down when it is asked to."""

    def __post_init__(self) -> None:
        """Refuse a guest that would not boot, or be killed by its own kernel."""
        if self.memory_bytes < self.working_set_bytes + _OVERHEAD_BYTES:
            raise LabError(
                f"a working set of {self.working_set_bytes // MIB} MiB needs "
                f"{(self.working_set_bytes + _OVERHEAD_BYTES) // MIB} MiB of memory"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRecord:
    """What the lab remembers of a guest, so that another program finds it again."""

    name: str
    uuid: str
    number: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabGuest:
    """A guest of the lab, wherever it runs."""

    record: GuestRecord
    shape: LabShape
    hosts: tuple[LabHost, ...]
    heartbeat: HeartbeatRecorder
    """Follows its heartbeats: `mark()`, do something to it, `report()`."""

    @property
    def name(self) -> str:
        """Its name in libvirt."""
        return self.record.name

    @property
    def uuid(self) -> str:
        """Its UUID in libvirt."""
        return self.record.uuid

    @property
    def address(self) -> str:
        """Its IPv4 address, the same on every host."""
        return self.shape.guest_address(self.record.number)

    @property
    def mac(self) -> str:
        """The MAC address of its interface."""
        return mac_address(self.address)

    @property
    def memory_bytes(self) -> int:
        """Its memory."""
        return self.record.memory_bytes

    def hosts_running(self) -> tuple[LabHost, ...]:
        """The hosts on which libvirt has it active, paused or not. Two are one too many."""
        return tuple(host for host in self.hosts if self._is_on(host, active=True))

    def hosts_knowing(self) -> tuple[LabHost, ...]:
        """The hosts on which libvirt knows it, active or merely defined."""
        return tuple(host for host in self.hosts if self._is_on(host, active=False))

    def _is_on(self, host: LabHost, *, active: bool) -> bool:
        with host.connect() as connection:
            domain = _find_domain(connection, self.uuid)
            return domain is not None and (not active or bool(domain.isActive()))

    # ---- its load

    def set_dirty_rate(self, bytes_per_second: float) -> None:
        """Let it dirty its working set, page after page and round again, at this rate."""
        self.command(f"dirty {bytes_per_second:.0f}")

    def set_cpu_load(self, ratio: float) -> None:
        """Let it burn this share of its vCPU, from 0 to 1."""
        self.command(f"cpu {ratio * 1000:.0f}")

    def command(self, text: str, *, within_seconds: float = _COMMAND_SECONDS) -> str:
        """Send its agent a command (see `guest/agent.c`) and return the answer.

        Raises:
            LabError: the agent refused it, or did not answer: it is paused, dead or cut off.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as commands:
            commands.bind((self.shape.collector_address, 0))
            commands.settimeout(_COMMAND_RETRY_SECONDS)
            deadline = time.monotonic() + within_seconds
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):  # unreachable now; perhaps not a moment later
                    commands.sendto(text.encode(), (self.address, COMMAND_PORT))
                    answer = commands.recv(512).decode(errors="replace")
                    if answer.startswith("ok"):
                        return answer
                    raise LabError(f"{self.name}: {answer}")
        raise DeadlineError(f"no answer within {within_seconds:.0f} s from {self.name} to {text!r}")

    # ---- its end

    def remove(self) -> None:
        """Remove it from every host, in whatever state it is there."""
        for host in self.hosts:
            host.kill_qemu(self.name)
            try:
                call_within(
                    _REMOVE_SECONDS,
                    functools.partial(self._undefine, host),
                    what=f"{host.name}, asked to undefine {self.name}",
                )
            except (DeadlineError, libvirt().libvirtError):
                host.forget_guest(self.name)

    def _undefine(self, host: LabHost) -> None:
        with host.connect() as connection:
            domain = _find_domain(connection, self.uuid)
            if domain is None:
                return
            if domain.isActive():
                with contextlib.suppress(
                    libvirt().libvirtError
                ):  # its QEMU is dead, so it may be gone by now
                    domain.destroy()
            domain = _find_domain(connection, self.uuid)  # a transient one went with its QEMU
            if domain is not None:
                domain.undefineFlags(libvirt().VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def domain_xml(
    record: GuestRecord, spec: GuestSpec, *, shape: LabShape, image: GuestImage, lab_dir: Path
) -> str:
    """The definition of a guest."""
    address = shape.guest_address(record.number)
    settings = {
        "lab_name": record.name,
        "lab_address": f"{address}/24",
        "lab_collector": shape.collector_address,
        "lab_collector_port": HEARTBEAT_PORT,
        "lab_command_port": COMMAND_PORT,
        "lab_working_set_bytes": spec.working_set_bytes,
        "lab_dirty_bytes_per_second": round(spec.dirty_bytes_per_second),
        "lab_cpu_permille": round(spec.cpu_load_ratio * 1000),
    }
    deaf = () if spec.heeds_power_button else ("module_blacklist=button",)
    words = [*_KERNEL_OPTIONS, *deaf, *(f"{name}={value}" for name, value in settings.items())]
    options = " ".join(words)
    labels = "".join(
        f"<rebalancer:label name={quoteattr(name)} value={quoteattr(value)}/>"
        for name, value in spec.labels.items()
    )
    # check='none': otherwise libvirt fills in CPU flags at the start, and the destination of a
    # migration is given another CPU than the source had.
    return f"""\
<domain type='qemu'>
  <name>{record.name}</name>
  <uuid>{record.uuid}</uuid>
  <metadata>
    <rebalancer:vm xmlns:rebalancer='{METADATA_URI}'>{labels}</rebalancer:vm>
  </metadata>
  <memory unit='b'>{spec.memory_bytes}</memory>
  <vcpu>{spec.vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{image.kernel}</kernel>
    <initrd>{image.initramfs}</initrd>
    <cmdline>{options}</cmdline>
  </os>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Nehalem</model></cpu>
  <features><acpi/></features>
  <devices>
    {_disk_xml(record, spec, lab_dir)}
    {spec.more_devices}
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <mac address='{mac_address(address)}'/><source bridge='br0'/><model type='virtio'/>
    </interface>
    <serial type='file'>
      <source path='{serial_log(lab_dir, record.name)}' append='on'/><target port='0'/>
    </serial>
    <memballoon model='virtio'><stats period='2'/></memballoon>
  </devices>
</domain>
"""


def serial_log(lab_dir: Path, guest: str) -> Path:
    """Where a guest's serial line ends, on whatever host it runs."""
    return lab_dir / "serial" / f"{guest}.log"


def last_words(lab_dir: Path, guest: str) -> str:
    """The end of what a guest wrote to its serial line, where its kernel says why it died."""
    log = serial_log(lab_dir, guest)
    return log.read_text(errors="replace")[-1500:] if log.exists() else "(nothing)"


def disk_file(lab_dir: Path, guest: str) -> Path:
    """A guest's disk image, as the hosts see it."""
    return lab_dir / "shared" / f"{guest}.img"


OWN_DISKS = "/var/lib/libvirt/images"
"""Where hosts have disks of their own; each sees a folder of its own there."""


def own_disk_file(host: LabHost, guest: str) -> Path:
    """The image of a guest's disk that only a host reaches, as this machine sees it."""
    return host.state_dir / "var/images" / f"{guest}.qcow2"


def record_file(lab_dir: Path, guest: str) -> Path:
    """Where the lab remembers a guest."""
    return lab_dir / "guests" / f"{guest}.json"


def save_record(lab_dir: Path, record: GuestRecord) -> None:
    """Remember a guest."""
    record_file(lab_dir, record.name).write_text(json.dumps(asdict(record)))


def load_records(lab_dir: Path) -> tuple[GuestRecord, ...]:
    """The guests that the lab remembers, in the order of their numbers."""
    records = (
        GuestRecord(**json.loads(file.read_text())) for file in (lab_dir / "guests").glob("*.json")
    )
    return tuple(sorted(records, key=lambda record: record.number))


def _disk_xml(record: GuestRecord, spec: GuestSpec, lab_dir: Path) -> str:
    if not spec.disk_bytes:
        return ""
    if spec.has_own_disk:
        return (
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source file='{OWN_DISKS}/{record.name}.qcow2'/>"
            "<target dev='vda' bus='virtio'/></disk>"
        )
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        f"<source file='{disk_file(lab_dir, record.name)}'/><target dev='vda' bus='virtio'/></disk>"
    )


def _find_domain(connection: Connection, uuid: str) -> Domain | None:
    try:
        return connection.lookupByUUIDString(uuid)
    except libvirt().libvirtError as error:
        if error.get_error_code() == libvirt().VIR_ERR_NO_DOMAIN:
            return None
        raise
