"""LabHost: one libvirtd in a network, mount and host-name namespace of its own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import shlex
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import network
from tests.lab.deadline import call_within, wait_until
from tests.lab.errors import LabError
from tests.lab.process import (
    RecordedProcess,
    is_in_namespace,
    kill_in_namespace,
    pids_in_namespace,
)
from tests.lab.requirements import MOUNT_POINTS
from tests.lab.shape import LabShape, Setting, host_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# libvirt-python has no types; these names at least say which of its objects is meant.
type Connection = Any
type Domain = Any

# A libvirtd without a cache asks every QEMU binary what it can do: 5 to 10 s on an idle machine.
_START_SECONDS = 300
_ANSWER_SECONDS = 60
_LIBVIRTD_PID = "libvirtd.pid"

# The lab's folder may itself lie below /run, which this covers: so it is first made visible there.
_START_SCRIPT = """\
#!/bin/sh
# Becomes the libvirtd of lab host {name}: run by `ip netns exec` and `unshare --mount --uts`.
set -eu
mount --make-rprivate /
hostname {name}
case {lab} in
    /run/*)
        mkdir -p {folder}/run/{lab_below_run}
        mount --rbind {lab} {folder}/run/{lab_below_run} ;;
esac
mount --rbind {folder}/run /run
{binds}
mount --bind {folder}/hosts /etc/hosts
echo $$ > {folder}/{pid_file}
exec libvirtd --listen
"""


@functools.cache
def libvirt() -> Any:
    """The libvirt module, imported when the lab runs: elsewhere it need not be installed."""
    module: Any = importlib.import_module("libvirt")
    # By default each error is printed as well as raised.
    module.registerErrorHandler(lambda _context, _error: None, None)
    return module


@contextlib.contextmanager
def opened(uri: str) -> Iterator[Connection]:
    """A connection to libvirt, closed in the end."""
    connection = libvirt().open(uri)
    try:
        yield connection
    finally:
        with contextlib.suppress(libvirt().libvirtError):
            connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabHost:
    """A libvirt host of the lab."""

    name: str
    shape: LabShape
    lab_dir: Path
    """The folder of the whole lab; every host sees it under this path."""

    @property
    def namespace(self) -> str:
        """Its network namespace: `ip netns exec NAMESPACE ...` runs a command on its network."""
        return self.name

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return self.shape.host_address(self.name)

    @property
    def uri(self) -> str:
        """How others reach its libvirtd, over the lab's network."""
        return f"qemu+tcp://{self.address}/system"

    @property
    def local_uri(self) -> str:
        """How the lab itself does, whether or not the host's link is cut."""
        return f"qemu+unix:///system?socket={self._socket_file}"

    @property
    def state_dir(self) -> Path:
        """Its folders (run, etc, var, log, cache) and what libvirtd printed, in libvirtd.log."""
        return self.lab_dir / self.name

    # ---- libvirtd

    def prepare(self) -> None:
        """Write its configuration and make its folders."""
        for folder in ("run/libvirt", "etc", "var", "log", "cache"):
            (self.state_dir / folder).mkdir(parents=True, exist_ok=True)
        (self.state_dir / "hosts").write_text(_hosts_file(self.shape))
        etc = self.state_dir / "etc"
        (etc / "libvirtd.conf").write_text(_settings_file(self._libvirtd_settings()))
        (etc / "qemu.conf").write_text(_settings_file(self._qemu_settings()))
        (self.state_dir / "start.sh").write_text(self._start_script())

    def start_libvirtd(self) -> None:
        """Start it, and return at once."""
        (self.state_dir / _LIBVIRTD_PID).unlink(missing_ok=True)
        with (self.state_dir / "libvirtd.log").open("ab") as log:
            subprocess.run(
                [
                    *("setsid", "--fork", "ip", "netns", "exec", self.namespace),
                    *("unshare", "--mount", "--uts", "sh", str(self.state_dir / "start.sh")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )

    def wait_for_libvirtd(self) -> None:
        """Return once it answers.

        Raises:
            LabError: it ended, or did not answer in time; the message has its last words.
        """
        try:
            wait_until(
                (self.state_dir / _LIBVIRTD_PID).exists,
                within_seconds=_ANSWER_SECONDS,
                what=f"the libvirtd of {self.name} to start",
            )
            wait_until(
                lambda: self._listens() or self.libvirtd is None,
                within_seconds=_START_SECONDS,
                what=f"the libvirtd of {self.name} to listen",
            )
            call_within(_START_SECONDS, self._ask, what=f"the libvirtd of {self.name}")
        except (LabError, libvirt().libvirtError) as error:
            raise LabError(f"{self.name}: {error}; its log ends: {self._last_words()}") from error

    @property
    def libvirtd(self) -> RecordedProcess | None:
        """Its libvirtd, or None if that does not run."""
        process = RecordedProcess.load(self.state_dir / _LIBVIRTD_PID)
        if process is None or not is_in_namespace(process.pid, self.namespace):
            return None
        return process

    def kill_libvirtd(self) -> None:
        """End libvirtd as a crash would (SIGKILL). Its guests run on."""
        process = self.libvirtd
        if process is not None:
            process.kill()

    def restart_libvirtd(self) -> None:
        """Kill libvirtd if it runs, start it anew and wait until it answers. Its guests run on."""
        self.kill_libvirtd()
        self.start_libvirtd()
        self.wait_for_libvirtd()

    def connect(self) -> contextlib.AbstractContextManager[Connection]:
        """Connect for the lab's own use (`with host.connect() as connection`); see `local_uri`."""
        return opened(self.local_uri)

    def answers(self) -> bool:
        """Whether its libvirtd runs and answers."""
        if self.libvirtd is None:
            return False
        try:
            call_within(_ANSWER_SECONDS, self._ask, what=f"the libvirtd of {self.name}")
        except (LabError, libvirt().libvirtError):
            return False
        return True

    # ---- its link

    def cut_link(self) -> None:
        """Cut the host off, as if its cable were pulled: libvirt, migrations and guests alike."""
        network.set_cable(self.shape, self.name, plugged_in=False)

    def restore_link(self) -> None:
        """Undo `cut_link`."""
        network.set_cable(self.shape, self.name, plugged_in=True)

    def shape_link(self, bytes_per_second: int | None) -> None:
        """Limit its link in each direction; None lifts the limit."""
        network.shape_cable(self.shape, self.name, bytes_per_second)

    # ---- its guests' QEMU

    def qemu_pid(self, guest: str) -> int | None:
        """The process id of a guest's QEMU on this host, None if none runs."""
        process = RecordedProcess.load(self.state_dir / "run/libvirt/qemu" / f"{guest}.pid")
        if process is None or not is_in_namespace(process.pid, self.namespace):
            return None
        return process.pid

    def kill_qemu(self, guest: str) -> None:
        """End a guest's QEMU on this host as a crash would (SIGKILL)."""
        pid = self.qemu_pid(guest)
        if pid is not None:
            kill_in_namespace(pid, self.namespace)

    def kill_everything(self) -> None:
        """End libvirtd and whatever else runs in the host's namespace."""
        self.kill_libvirtd()  # first, lest it start something
        for pid in pids_in_namespace(self.namespace):
            kill_in_namespace(pid, self.namespace)

    def forget_guest(self, guest: str) -> None:
        """Remove all traces of a guest without libvirt's help: for when libvirtd no longer answers.

        libvirtd is killed and started anew; it then finds no such guest.
        """
        self.kill_libvirtd()
        self.kill_qemu(guest)
        for remains in ("etc/qemu", "run/libvirt/qemu"):
            for suffix in (".xml", ".pid"):
                (self.state_dir / remains / f"{guest}{suffix}").unlink(missing_ok=True)
        self.restart_libvirtd()

    # ---- details

    @property
    def _socket_file(self) -> Path:
        return self.state_dir / "run/libvirt/libvirt-sock"

    def _ask(self) -> None:
        with self.connect() as connection:
            # Not a cheaper question: a fresh libvirtd asks QEMU only when somebody wants to know.
            connection.getCapabilities()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._socket_file))
            return True
        return False

    def _last_words(self) -> str:
        log = self.state_dir / "libvirtd.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " | ".join(lines[-3:]) or "(nothing)"

    def _start_script(self) -> str:
        binds = "\n".join(
            f"mount --bind {shlex.quote(str(self.state_dir / source))} {target}"
            for target, source in zip(MOUNT_POINTS, ("etc", "cache", "var", "log"), strict=True)
        )
        return _START_SCRIPT.format(
            name=self.name,
            lab=shlex.quote(str(self.lab_dir)),
            lab_below_run=shlex.quote(str(self.lab_dir).removeprefix("/run/")),
            folder=shlex.quote(str(self.state_dir)),
            binds=binds,
            pid_file=_LIBVIRTD_PID,
        )

    def _keepalive(self) -> dict[str, Setting]:
        return {
            "keepalive_interval": self.shape.keepalive_interval_seconds,
            "keepalive_count": self.shape.keepalive_count,
        }

    def _libvirtd_settings(self) -> Mapping[str, Setting]:
        return {
            "listen_tls": 0,
            "listen_tcp": 1,
            "listen_addr": self.address,
            "auth_tcp": "none",
            "auth_tls": "none",
            "auth_unix_rw": "none",
            "host_uuid": host_uuid(self.name, self.address),
            # One migration and its observers reach the default of 5; then keepalives wait too.
            "max_client_requests": 20,
            **self._keepalive(),
            **self.shape.libvirtd_settings,
        }

    def _qemu_settings(self) -> Mapping[str, Setting]:
        return {
            "security_driver": "none",
            "user": "root",
            "group": "root",
            "namespaces": [],
            "cgroup_controllers": [],
            "stdio_handler": "file",  # there is no virtlogd
            "remember_owner": 0,
            "migration_address": self.address,
            "migration_host": self.address,
            **self._keepalive(),
            **self.shape.qemu_settings,
        }


def libvirt_fingerprint() -> str:
    """Changes with whatever makes libvirt ask this machine's QEMU anew what it can do."""
    parts = [os.uname().release]
    for command in ("libvirtd", "qemu-system-x86_64"):
        binary = Path(shutil.which(command) or command).stat()
        parts.append(f"{binary.st_mtime_ns} {binary.st_size}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def save_libvirt_cache(host: LabHost, cache: Path) -> None:
    """Keep what a host's libvirtd found out about this machine's QEMU, so that others need not."""
    unfinished = cache.with_name(f"{cache.name}.{os.getpid()}")
    shutil.copytree(host.state_dir / "cache", unfinished)
    try:
        unfinished.rename(cache)
    except OSError:  # another program was faster
        shutil.rmtree(unfinished)


def load_libvirt_cache(cache: Path, host: LabHost) -> None:
    """Give a host that is not yet started what `save_libvirt_cache` kept."""
    shutil.copytree(cache, host.state_dir / "cache", dirs_exist_ok=True)


def _hosts_file(shape: LabShape) -> str:
    # A source looks up the destination's own name, which only means something inside the lab.
    lines = ["127.0.0.1 localhost"]
    lines += [f"{shape.host_address(name)} {name}" for name in shape.host_names]
    return "\n".join(lines) + "\n"


def _settings_file(settings: Mapping[str, Setting]) -> str:
    return "".join(f"{name} = {_setting_text(value)}\n" for name, value in settings.items())


def _setting_text(value: Setting) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
