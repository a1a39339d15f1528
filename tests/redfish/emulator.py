"""A real Redfish service on a free port of 127.0.0.1: the emulator of sushy-tools."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.real_servers import free_port, running

_BESIDE_PYTHON = Path(sys.executable).with_name("sushy-emulator")
BINARY = str(_BESIDE_PYTHON) if _BESIDE_PYTHON.exists() else shutil.which("sushy-emulator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redfish:
    """Where it is, and which systems it has."""

    root: str
    systems: Mapping[str, str]

    def url(self, name: str) -> str:
        """The address of one system."""
        return f"{self.root}/redfish/v1/Systems/{self.systems[name]}"


@contextmanager
def redfish(
    folder: Path, powers: Mapping[str, str], *, auth_file: Path | None = None
) -> Iterator[Redfish]:
    """Start it with systems that are `On` or `Off`; it is ended by its own handle."""
    assert BINARY is not None
    folder.mkdir(exist_ok=True)
    systems = {
        name: f"00000000-0000-0000-0000-{number:012d}" for number, name in enumerate(powers, 1)
    }
    fakes = [
        {"uuid": systems[name], "name": name, "power_state": power, "nics": []}
        for name, power in powers.items()
    ]
    config = folder / "emulator.conf"
    lines = [
        f"SUSHY_EMULATOR_FAKE_SYSTEMS = {fakes!r}",
        f"SUSHY_EMULATOR_STATE_DIR = {str(folder)!r}",
    ]
    if auth_file is not None:
        lines.append(f"SUSHY_EMULATOR_AUTH_FILE = {str(auth_file)!r}")
    config.write_text("\n".join(lines), encoding="utf-8")
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    command = [BINARY, "--fake", "--config", str(config), "-i", "127.0.0.1", "-p", str(port)]
    with running(command, ready_url=f"{root}/redfish/v1/", log=folder / "log"):
        yield Redfish(root=root, systems=systems)
