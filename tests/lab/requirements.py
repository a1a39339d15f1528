"""What a machine must have for the lab, and how it gets it (Debian and Ubuntu)."""

from __future__ import annotations

import grp
import importlib.util
import os
import platform
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.lab.errors import LabError, LabUnavailableError
from tests.lab.image import find_kernel_version

APT_PACKAGES = (
    "bindfs",  # a folder that libvirt takes for a cluster file system
    "busybox-static",  # the guests' user space
    "cpio",
    "gcc",  # the guests' agent, and libvirt-python
    "iproute2",
    "kmod",  # which modules a guest's kernel needs, in which order
    "libc6-dev",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-dev",  # libvirt-python is compiled against it
    "openssl",  # certificates
    "pkg-config",
    "postgresql",  # for a journal of two daemons; tests run a server of their own
    "prometheus",
    "qemu-system-x86",
    "qemu-utils",
    "xz-utils",  # newer kernels come with compressed modules
    "zstd",
)

# Only guests boot it. Debian's and Ubuntu's small kernels; the first that can be had is taken.
_KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")

_COMMANDS = (
    *("bindfs", "busybox", "cpio", "gcc", "ip", "libvirtd", "modprobe", "openssl"),
    *("qemu-img", "qemu-system-x86_64", "setsid", "strip", "tc", "unshare", "virsh"),
)

MOUNT_POINTS = tuple(
    Path(folder)
    for folder in ("/etc/libvirt", "/var/cache/libvirt", "/var/lib/libvirt", "/var/log/libvirt")
)
"""Each host covers these with folders of its own; `libvirt-daemon-system` would have made them."""

# libvirt's QEMU driver does not start without its default user, even if told to use another.
_USER = "libvirt-qemu"
_GROUPS = ("kvm", _USER)

_INSTALL = "as root, run: python -m tests.lab install"


def find_obstacle() -> str | None:
    """Say in one line why the lab cannot run here, or None if it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"the lab needs Linux on x86_64, this is {platform.system()} {platform.machine()}"
    if os.geteuid() != 0:
        return "the lab needs root, for network namespaces"
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    if missing:
        return f"missing commands: {', '.join(missing)}; {_INSTALL}"
    unmountable = [str(folder) for folder in MOUNT_POINTS if not folder.is_dir()]
    if unmountable:
        return f"missing folders: {', '.join(unmountable)}; {_INSTALL}"
    if not _has_user(_USER) or not all(_has_group(group) for group in _GROUPS):
        return f"missing user {_USER} or one of the groups {', '.join(_GROUPS)}; {_INSTALL}"
    if find_kernel_version() is None:
        return f"no kernel with its modules in /boot and /lib/modules; {_INSTALL}"
    if importlib.util.find_spec("libvirt") is None:
        return "this Python has no libvirt-python: pip install libvirt-python"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun: the kernel must offer tap interfaces"
    if subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode != 0:
        return "namespaces cannot be made here (a container without privileges?)"
    return None


def require() -> None:
    """Raise LabUnavailableError if the lab cannot run here."""
    obstacle = find_obstacle()
    if obstacle is not None:
        raise LabUnavailableError(obstacle)


def install() -> None:
    """Install the packages, and what a system package of libvirt would set up.

    `libvirt-daemon-system` itself is left out: it would start a libvirtd for this machine.
    """
    if os.geteuid() != 0:
        raise LabError("installing packages needs root")
    if shutil.which("apt-get") is None:
        raise LabError(f"no apt-get here; install by your own means: {' '.join(APT_PACKAGES)}")
    _apt_get("update")
    kernel = next((package for package in _KERNEL_PACKAGES if _is_in_archive(package)), None)
    if kernel is None:
        raise LabError(f"apt knows none of the kernels {', '.join(_KERNEL_PACKAGES)}")
    _keep_services_from_starting()
    _apt_get("install", "--yes", "--no-install-recommends", *APT_PACKAGES, kernel)
    for folder in MOUNT_POINTS:
        folder.mkdir(parents=True, exist_ok=True)
    for group in _GROUPS:
        if not _has_group(group):
            _succeed("groupadd", "--system", group)
    if not _has_user(_USER):
        _succeed("useradd", "--system", "--gid", _USER, "--groups", "kvm", _USER)


def _keep_services_from_starting() -> None:
    """Have the package of PostgreSQL make no database of its own, which would be served."""
    settings = Path("/etc/postgresql-common/createcluster.conf")
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text("create_main_cluster = false\n", encoding="ascii")


def _apt_get(*arguments: str) -> None:
    _succeed("apt-get", "-q", *arguments)


def _is_in_archive(package: str) -> bool:
    shown = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package], capture_output=True, check=False
    )
    return shown.returncode == 0


def _succeed(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise LabError(f"failed: {' '.join(command)}")


def _has_group(name: str) -> bool:
    return any(group.gr_name == name for group in grp.getgrall())


def _has_user(name: str) -> bool:
    return any(user.pw_name == name for user in pwd.getpwall())
