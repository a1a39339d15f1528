"""The guests' kernel and initramfs, which is built once and kept under a hash of its parts."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError

_SOURCES = Path(__file__).parent / "guest"
_BOOT = Path("/boot")
_MODULES = Path("/lib/modules")
_BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestImage:
    """What a guest boots."""

    kernel: Path
    initramfs: Path


def find_kernel_version() -> str | None:
    """The newest installed kernel whose modules are there too; one made for clouds if possible."""
    versions = [
        kernel.name.removeprefix("vmlinuz-")
        for kernel in _BOOT.glob("vmlinuz-*")
        if (_MODULES / kernel.name.removeprefix("vmlinuz-") / "kernel").is_dir()
    ]
    return max(versions, key=lambda version: ("cloud" in version, _numbers(version)), default=None)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def build_image(cache_dir: Path) -> GuestImage:
    """Return the guests' image, built now unless one of the very same parts is in the cache.

    Raises:
        LabError: it cannot be built; the message has the compiler's words.
    """
    version = find_kernel_version()
    if version is None:
        raise LabError("no kernel with modules in /boot; run: python -m tests.lab install")
    initramfs = cache_dir / f"initramfs-{_fingerprint(version)}.gz"
    if not initramfs.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        built = subprocess.run(
            [_SOURCES / "build-initramfs.sh", version, initramfs],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode != 0:
            raise LabError(f"the guests' initramfs could not be built: {built.stderr.strip()}")
    return GuestImage(kernel=_BOOT / f"vmlinuz-{version}", initramfs=initramfs)


def _fingerprint(kernel_version: str) -> str:
    digest = hashlib.sha256(kernel_version.encode())
    # A rebuilt kernel package may keep its version; its modules.dep then has another time.
    digest.update(str((_MODULES / kernel_version / "modules.dep").stat().st_mtime_ns).encode())
    for part in (*sorted(_SOURCES.iterdir()), _BUSYBOX):
        digest.update(part.name.encode())
        digest.update(part.read_bytes())
    return digest.hexdigest()[:16]
