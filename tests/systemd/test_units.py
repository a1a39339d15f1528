"""The units under a real systemd: start, readiness, reload, watchdog, drain, stop."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.systemd.machines import PATIENCE_SECONDS, booted, obstacle, run_in

ROOT = Path(__file__).parents[2]
UNITS = ("rebalancer.service", "rebalancer-drain@.service")
CONFIG = """\
schema_version: 1
cluster: lab
mode: recommend
hosts:
  - {name: h1, uri: "qemu+tcp://127.0.0.1:9/system"}
collect: {sampling_seconds: 0.1s, timeout_seconds: 2s}
daemon: {interval_seconds: 2s}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A booted systemd."""

    pid: int

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run_in(self.pid, *command)

    def show(self, unit: str = "rebalancer") -> dict[str, str]:
        lines = self.run("systemctl", "show", unit).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def configure(self, text: str) -> None:
        Path(f"/proc/{self.pid}/root/etc/rebalancer/rebalancer.yaml").write_text(text)

    def until(self, what: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """Wait until the daemon's unit is as wanted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not what(seen := self.show()):
            if time.monotonic() > deadline:
                logs = self.run("journalctl", "-u", "rebalancer", "--no-pager", "-n", "30").stdout
                keys = ("ActiveState", "SubState", "StatusText", "Result", "NRestarts")
                pytest.fail(f"{[seen.get(key) for key in keys]}\n{logs}")
            time.sleep(0.3)
        return seen


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if why_not := obstacle():
        pytest.skip(why_not)
    config = tmp_path / "rebalancer.yaml"
    config.write_text(CONFIG)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    with booted(tmp_path, (ROOT, sys.base_prefix, packages, config)) as pid:
        yield Machine(pid=pid)


@pytest.mark.lab
def test_the_daemon_under_a_real_systemd(machine: Machine) -> None:
    assert machine.run("systemd-sysusers").returncode == 0
    assert machine.run("systemd-tmpfiles", "--create", "rebalancer.conf").returncode == 0

    started = machine.run("systemctl", "start", "rebalancer")
    assert started.returncode == 0, machine.run("journalctl", "-u", "rebalancer").stdout
    said = machine.until(lambda unit: "of 1 hosts answered" in unit["StatusText"])
    assert (said["ActiveState"], said["NRestarts"]) == ("active", "0")

    served = machine.run("stat", "-c", "%F %a %U %G", "/run/rebalancer/api.sock").stdout.strip()
    assert served == "socket 660 rebalancer rebalancer"

    machine.configure(CONFIG.replace("mode", "mdoe"))
    machine.run("systemctl", "reload", "rebalancer")
    logged = _logged(machine, "reload_failed")
    assert "mdoe" in logged
    assert machine.show()["MainPID"] == said["MainPID"]

    machine.configure(CONFIG.replace("cluster: lab", "cluster: other"))
    machine.run("systemctl", "reload", "rebalancer")
    assert "cluster other" in _logged(machine, '"reloaded"')

    machine.run("kill", "-STOP", said["MainPID"])
    again = machine.until(lambda unit: unit["NRestarts"] == "1" and unit["ActiveState"] == "active")
    assert again["MainPID"] != said["MainPID"]

    drained = machine.run("systemctl", "start", "rebalancer-drain@h1")
    assert drained.returncode != 0
    unit = machine.show("rebalancer-drain@h1")
    assert (unit["Result"], unit["ExecMainStatus"]) == ("exit-code", "7"), "h1 does not answer"

    assert machine.run("systemctl", "stop", "rebalancer").returncode == 0
    stopped = machine.show()
    assert (stopped["ActiveState"], stopped["Result"]) == ("inactive", "success")


def _logged(machine: Machine, sign: str) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        lines = machine.run("journalctl", "-u", "rebalancer", "-o", "cat", "--no-pager").stdout
        found = [line for line in lines.splitlines() if sign in line]
        if found:
            return found[-1]
        time.sleep(0.3)
    pytest.fail(f"{sign} was not logged:\n{lines}")


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_are_sandboxed(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (ROOT / "systemd" / unit).read_text(encoding="utf-8")
    file = tmp_path / unit
    file.write_text(text.replace("@BINDIR@", "/usr/bin").replace("@DOCDIR@", "/usr/share/doc"))

    command = ["systemd-analyze", "security", "--offline=true", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", said.stdout + said.stderr)
    assert exposure is not None, said.stderr
    assert float(exposure[1]) <= 3.0
