"""Lab: builds the whole cluster, finds a running one again, and removes it without a trace."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.lab import network, requirements
from tests.lab.deadline import wait_until
from tests.lab.errors import LabError
from tests.lab.guest import (
    GuestRecord,
    GuestSpec,
    LabGuest,
    disk_file,
    domain_xml,
    last_words,
    load_records,
    own_disk_file,
    record_file,
    save_record,
    serial_log,
)
from tests.lab.heartbeat import HeartbeatCollector
from tests.lab.host import LabHost, libvirt_fingerprint, load_libvirt_cache, save_libvirt_cache
from tests.lab.image import GuestImage, build_image
from tests.lab.process import pids_in_namespace, pids_mentioning
from tests.lab.shape import LabShape, default_cache_dir, default_state_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

BOOT_SECONDS = 300
"""Limit for a guest's first heartbeat: 3 to 5 s when the machine is idle, 20 s when it is not."""

_SHAPE_FILE = "lab.json"
_NETNS_MARK = "made-netns-folder"
# A UNIX socket's path has at most 107 characters, and the longest that outsiders use is this one.
_MAX_STATE_DIR_CHARACTERS = 107 - len("/abcdefghij64/run/libvirt/libvirt-sock")
# More guests than this booting at once make each other slow on a small machine, and end no sooner.
_BOOTING_AT_ONCE = 2


@contextlib.contextmanager
def claim(prefix: str) -> Iterator[None]:
    """Keep other programs from starting or stopping the lab of that name meanwhile.

    Raises:
        LabError: another program has claimed it.
    """
    # An abstract socket vanishes with its program, however that ends, and leaves no lock file.
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0rebalancer-lab-{prefix}")
        except OSError as error:
            raise LabError(
                f"another program is at work on lab {prefix}; try again later"
            ) from error
        yield


class Lab:
    """A running lab. Use `Lab.start` or `Lab.attach`; as a context manager it stops in the end."""

    def __init__(self, shape: LabShape, state_dir: Path, cache_dir: Path) -> None:
        """Describe a lab; nothing is started."""
        self.shape = shape
        self.state_dir = state_dir
        self.cache_dir = cache_dir
        self.hosts = tuple(
            LabHost(name=name, shape=shape, lab_dir=state_dir) for name in shape.host_names
        )
        self._guests: dict[str, LabGuest] = {}

    # ---- beginning and end

    @classmethod
    def start(
        cls,
        shape: LabShape | None = None,
        *,
        state_dir: Path | None = None,
        cache_dir: Path | None = None,
    ) -> Self:
        """Start a lab and wait until every host answers. Whatever stops it half way is undone.

        Raises:
            LabUnavailableError: this machine cannot run one.
            LabError: something of the lab's name or address exists, or a host did not start.
        """
        requirements.require()
        shape = shape or LabShape()
        lab = cls(
            shape,
            (state_dir or default_state_dir(shape.prefix)).resolve(),
            (cache_dir or default_cache_dir()).resolve(),
        )
        lab._refuse_conflicts()
        try:
            lab._build()
        except BaseException:
            lab.stop()
            raise
        return lab

    @classmethod
    def attach(cls, state_dir: Path, *, cache_dir: Path | None = None) -> Self | None:
        """Find the lab that keeps its state in a folder, in whatever condition it is."""
        state_dir = state_dir.resolve()
        try:
            shape = LabShape.from_json((state_dir / _SHAPE_FILE).read_text())
        except FileNotFoundError:
            return None
        return cls(shape, state_dir, (cache_dir or default_cache_dir()).resolve())

    @classmethod
    def find_orphan(cls, prefix: str) -> Self | None:
        """Find a lab whose state folder is gone (it may have been swept away) by its namespaces."""
        present = network.namespaces()
        if LabShape(prefix=prefix).switch not in present:
            return None
        matches = (re.fullmatch(rf"{prefix}(\d+)", name) for name in present)
        hosts = max((int(match[1]) for match in matches if match), default=1)
        shape = LabShape(prefix=prefix, hosts=hosts)
        return cls(shape, default_state_dir(prefix), default_cache_dir())

    def stop(self) -> None:
        """Remove the lab: guests, hosts, network and state. Works on what is left of one, too.

        Every process in the lab's namespaces ends, a shell that somebody opened in one included.
        """
        self.close()
        for host in self.hosts:
            host.kill_everything()
        network.remove(self.shape)
        self._unmount_shared_storage()
        if (self.state_dir / _NETNS_MARK).exists():
            network.unmount_netns_folder()
        shutil.rmtree(self.state_dir, ignore_errors=True)

    def close(self) -> None:
        """Leave the lab running and let go of it."""
        if "heartbeats" in self.__dict__:
            self.heartbeats.close()
            del self.__dict__["heartbeats"]
        self._guests.clear()

    def __enter__(self) -> Self:
        """Nothing to do: it runs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    def is_healthy(self) -> bool:
        """Whether every host's libvirtd answers."""
        return all(host.answers() for host in self.hosts)

    def heal(self) -> None:
        """Undo what tests do to it: restore and unshape links, start libvirtds that are dead."""
        for host in self.hosts:
            host.restore_link()
            host.shape_link(None)
            if not host.answers():
                host.restart_libvirtd()

    def traces(self) -> tuple[str, ...]:
        """Whatever of the lab is on this machine now; nothing after `stop`."""
        names = {self.shape.switch, *self.shape.host_names}
        found = [f"network namespace {name}" for name in sorted(network.namespaces() & names)]
        found += [
            f"process {pid} in {name}" for name in sorted(names) for pid in pids_in_namespace(name)
        ]
        found += [f"process {pid} on its files" for pid in pids_mentioning(self.state_dir)]
        if self.shape.uplink in network.links():
            found.append(f"network interface {self.shape.uplink}")
        found += [
            f"mount {mount}" for mount in network.mount_points() if self.state_dir in mount.parents
        ]
        if self.state_dir.exists():
            found.append(f"folder {self.state_dir}")
        return tuple(found)

    # ---- guests

    @cached_property
    def heartbeats(self) -> HeartbeatCollector:
        """Hears the guests' heartbeats, from its first use on; only one program at a time can."""
        return HeartbeatCollector(self.shape.collector_address)

    def listen(self, seconds: float) -> None:
        """Hear all guests for a while, from a fresh mark on."""
        for guest in self.guests:
            guest.heartbeat.mark()
        time.sleep(seconds)

    @cached_property
    def image(self) -> GuestImage:
        """What the guests boot."""
        return build_image(self.cache_dir)

    @property
    def guests(self) -> tuple[LabGuest, ...]:
        """All guests of the lab, those that other programs started included."""
        return tuple(self._guest(record) for record in load_records(self.state_dir))

    def start_guest(self, host: LabHost, spec: GuestSpec | None = None) -> LabGuest:
        """Define and start a guest on a host; `wait_for_boot` waits until it is up."""
        spec = spec or GuestSpec()
        if spec.disk_bytes and not (spec.has_own_disk or self.shape.shared_storage):
            raise LabError("a guest with a disk needs a lab with shared_storage=True")
        record = self._new_record(spec)
        save_record(self.state_dir, record)
        if spec.has_own_disk:
            own = own_disk_file(host, record.name)
            own.parent.mkdir(exist_ok=True)
            make = ("qemu-img", "create", "-q", "-f", "qcow2", str(own), str(spec.disk_bytes))
            subprocess.run(make, check=True)
        elif spec.disk_bytes:
            with disk_file(self.state_dir, record.name).open("wb") as image:
                image.truncate(spec.disk_bytes)
        guest = self._guest(record)
        xml = domain_xml(record, spec, shape=self.shape, image=self.image, lab_dir=self.state_dir)
        try:
            with host.connect() as connection:
                connection.defineXML(xml).create()
        except BaseException:
            self.remove_guest(guest)
            raise
        return guest

    def start_guests(
        self, count: int, spec: GuestSpec | None = None, *, hosts: Sequence[LabHost] | None = None
    ) -> tuple[LabGuest, ...]:
        """Start guests on the hosts (all, unless given) in turn, and wait until every one beats."""
        hosts = hosts or self.hosts
        started: list[LabGuest] = []
        for number in range(count):
            self.wait_for_boot(started[: max(0, number - _BOOTING_AT_ONCE + 1)])
            started.append(self.start_guest(hosts[number % len(hosts)], spec))
        self.wait_for_boot(started)
        return tuple(started)

    def wait_for_boot(self, guests: Sequence[LabGuest]) -> None:
        """Return once each of these guests has been heard.

        Raises:
            LabError: one was not; the message has the end of its serial line.
        """
        for guest in guests:
            try:
                wait_until(
                    partial(_has_been_heard, guest),
                    within_seconds=BOOT_SECONDS,
                    what=f"{guest.name} to boot",
                )
            except LabError as error:
                words = last_words(self.state_dir, guest.name)
                raise LabError(f"{error}; its serial line ends: {words}") from error

    def remove_guest(self, guest: LabGuest) -> None:
        """Remove a guest from every host, with its disk and its serial log."""
        guest.remove()
        self._guests.pop(guest.name, None)
        serial_log(self.state_dir, guest.name).unlink(missing_ok=True)
        disk_file(self.state_dir, guest.name).unlink(missing_ok=True)
        for host in self.hosts:
            own_disk_file(host, guest.name).unlink(missing_ok=True)
        record_file(self.state_dir, guest.name).unlink(missing_ok=True)

    def _new_record(self, spec: GuestSpec) -> GuestRecord:
        used = {record.number for record in load_records(self.state_dir)}
        number = next(number for number in range(len(used) + 1) if number not in used)
        return GuestRecord(
            name=f"vm{number + 1}",
            uuid=str(uuid.uuid4()),
            number=number,
            memory_bytes=spec.memory_bytes,
        )

    def _guest(self, record: GuestRecord) -> LabGuest:
        if record.name not in self._guests or self._guests[record.name].record != record:
            self._guests[record.name] = LabGuest(
                record=record,
                shape=self.shape,
                hosts=self.hosts,
                heartbeat=self.heartbeats.follow(
                    record.name, partial(last_words, self.state_dir, record.name)
                ),
            )
        return self._guests[record.name]

    # ---- building

    def _refuse_conflicts(self) -> None:
        if len(str(self.state_dir)) > _MAX_STATE_DIR_CHARACTERS:
            raise LabError(
                f"{self.state_dir}: too long for the sockets in it; "
                f"choose a state folder of at most {_MAX_STATE_DIR_CHARACTERS} characters"
            )
        if (self.state_dir / _SHAPE_FILE).exists():
            raise LabError(
                f"a lab has its state in {self.state_dir} already; "
                f"run: python -m tests.lab down --prefix {self.shape.prefix}"
            )
        if self.state_dir.exists() and any(self.state_dir.iterdir()):
            # `stop` removes the whole folder.
            raise LabError(f"{self.state_dir} holds something else; choose an empty state folder")
        conflict = network.find_conflict(self.shape)
        if conflict:
            raise LabError(f"{conflict}; choose another --prefix and --network")

    def _build(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        # Before anything else exists: from here on `attach(...).stop()` knows what to remove.
        (self.state_dir / _SHAPE_FILE).write_text(self.shape.to_json())
        for folder in ("guests", "serial", "shared"):
            (self.state_dir / folder).mkdir()
        if not network.is_netns_folder_mounted():
            (self.state_dir / _NETNS_MARK).touch()
        _ = self.image
        network.create(self.shape)
        if self.shape.shared_storage:
            self._mount_shared_storage()  # before the hosts copy this machine's mounts
        self._start_hosts()

    def _start_hosts(self) -> None:
        cache = self.cache_dir / f"libvirt-{libvirt_fingerprint()}"
        for number, host in enumerate(self.hosts):
            host.prepare()
            if cache.is_dir():
                load_libvirt_cache(cache, host)
            host.start_libvirtd()
            if number == 0 and not cache.is_dir():
                # It alone asks QEMU what it can do, which takes seconds; the others take its word.
                host.wait_for_libvirtd()
                save_libvirt_cache(host, cache)
        for host in self.hosts:
            host.wait_for_libvirtd()

    def _mount_shared_storage(self) -> None:
        backing = self.state_dir / "shared-backing"
        backing.mkdir()
        # libvirt only believes in shared storage of file systems it knows to be shared.
        subprocess.run(
            ["bindfs", "-o", "subtype=glusterfs,fsname=lab:shared", backing, self._shared_dir],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    @property
    def _shared_dir(self) -> Path:
        return self.state_dir / "shared"

    def _unmount_shared_storage(self) -> None:
        if self._shared_dir in network.mount_points():
            network.run("umount", str(self._shared_dir))
            # Another lab's hosts copied this machine's mounts, and with them keep it from ending.
            for pid in pids_mentioning(self.state_dir):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            wait_until(
                lambda: not pids_mentioning(self.state_dir),
                within_seconds=30,
                what="the shared storage's file system to end",
            )


def _has_been_heard(guest: LabGuest) -> bool:
    return guest.heartbeat.last is not None
