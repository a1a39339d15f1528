"""The .deb on a machine that never had the program: installed, used, removed, purged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rebalancer import __version__
from tests.systemd.machines import PATIENCE_SECONDS, booted, obstacle, run_in

ROOT = Path(__file__).parents[2]
TOOLS = ("dpkg", "dpkg-deb", "dpkg-shlibdeps", "make")
SETTINGS = """\
schema_version: 1
cluster: lab
mode: recommend
hosts:
  - {name: h1, uri: "qemu+tcp://127.0.0.1:9/system"}
collect: {sampling_seconds: 0.1s, timeout_seconds: 2s}
daemon: {interval_seconds: 2s}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the program as it is, without byte code to be sooner done."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        why = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    out = tmp_path_factory.mktemp("deb")
    work = tmp_path_factory.mktemp("work")
    built = subprocess.run(
        [
            *(sys.executable, str(ROOT / "debian" / "build.py"), "--no-compile"),
            *("--extras", _extras(), "--out", str(out), "--work", str(work / "deb")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DEB_COMPRESSION": "none"},
    )
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


def _extras() -> str:
    """Without libvirt-python where it could not be compiled: units and folders are the same."""
    try:
        import libvirt  # noqa: F401
    except ImportError:
        return "prometheus"
    return "libvirt,prometheus"


@pytest.fixture
def machine(package: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    if why_not := obstacle():
        if os.environ.get("CI") == "true":
            pytest.fail(why_not)
        pytest.skip(why_not)
    with booted(tmp_path, (package.parent,)) as pid:

        def run(*command: str, fails: bool = False) -> str:
            done = run_in(pid, *command, seconds=300)
            assert (done.returncode != 0) is fails, done.stdout + done.stderr
            return (done.stdout + done.stderr).strip()

        yield run


def test_the_package_says_what_it_is(package: Path) -> None:
    def told(*options: str) -> str:
        done = subprocess.run(["dpkg-deb", *options], capture_output=True, text=True, check=True)
        return done.stdout

    assert told("-f", str(package), "Package", "Version").split("\n")[:2] == [
        "Package: vm-rebalancer",
        f"Version: {__version__}",
    ]
    assert "libc6 (>= " in told("-f", str(package), "Depends")
    files = told("-c", str(package))
    for file in (
        "/usr/bin/rebalancer",
        "/usr/lib/systemd/system/rebalancer.service",
        "/usr/lib/systemd/system/rebalancer-drain@.service",
        "/usr/lib/sysusers.d/rebalancer.conf",
        "/usr/lib/tmpfiles.d/rebalancer.conf",
        "/usr/share/man/man8/rebalancer.8.gz",
        "/usr/share/doc/vm-rebalancer/copyright",
        "/usr/share/doc/rebalancer/balance.yaml",
        "/etc/rebalancer/rebalancer.yaml",
    ):
        assert f".{file}\n" in files
    owners = {line.split()[1] for line in files.splitlines()}
    assert owners == {"root/root"}
    assert "/root/" not in "".join(line.split()[5] for line in files.splitlines())


@pytest.mark.lab
def test_the_package_on_a_machine_of_its_own(machine: Callable[..., str], package: Path) -> None:
    run = machine
    # As the README says; what it depends on is there, so that nothing is fetched.
    said = run("apt-get", "install", "--yes", f"/opt/offered/{package.name}")
    assert "Name your hosts in" in said
    assert run("dpkg", "--verify", "vm-rebalancer") == ""
    # Nothing is enabled or started by being installed.
    assert run("systemctl", "is-enabled", "rebalancer", fails=True) == "disabled"
    assert run("systemctl", "is-active", "rebalancer", fails=True) == "inactive"
    assert run("stat", "-c", "%a %U %G", "/etc/rebalancer", "/var/lib/rebalancer").split("\n") == [
        "750 root rebalancer",
        "750 rebalancer rebalancer",
    ]
    settings = "/etc/rebalancer/rebalancer.yaml"
    assert run("stat", "-c", "%a %U %G", settings) == "640 root rebalancer"
    assert run("rebalancer", "--version") == f"rebalancer {__version__}"
    # As it comes it has no hosts: it says so and does not try again and again.
    assert "no hosts are configured" in run("rebalancer", "plan", fails=True)

    run("sh", "-c", f"cat > {settings} <<'END'\n{SETTINGS}END")
    run("systemctl", "start", "rebalancer")
    _until(run, "of 1 hosts answered")
    assert run("stat", "-c", "%U", "/var/lib/rebalancer/journal.db") == "rebalancer"

    # An upgrade keeps the settings, and starts the daemon again that ran.
    before = run("systemctl", "show", "-P", "MainPID", "rebalancer")
    run("dpkg", "-i", "--force-confold", f"/opt/offered/{package.name}")
    assert run("systemctl", "is-active", "rebalancer") == "active"
    assert run("systemctl", "show", "-P", "MainPID", "rebalancer") != before
    assert "cluster: lab" in run("cat", settings)

    run("systemctl", "enable", "rebalancer")
    run("dpkg", "--remove", "vm-rebalancer")
    assert run("systemctl", "is-active", "rebalancer", fails=True) == "inactive"
    assert run("find", "/etc/systemd/system", "-name", "rebalancer*") == ""
    assert run("sh", "-c", f"ls /usr/bin/rebalancer /usr/lib/rebalancer {settings}", fails=True)
    assert "cluster: lab" in run("cat", settings), "settings stay until they are purged"

    said = run("dpkg", "--purge", "vm-rebalancer")
    assert "The journal is kept: /var/lib/rebalancer/journal.db" in said
    run("test", "-e", "/etc/rebalancer", fails=True)
    run("test", "-s", "/var/lib/rebalancer/journal.db")


def _until(run: Callable[..., str], words: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while words not in (said := run("systemctl", "show", "-P", "StatusText", "rebalancer")):
        if time.monotonic() > deadline:
            pytest.fail(f"{said}\n{run('journalctl', '-u', 'rebalancer', '--no-pager')}")
        time.sleep(0.5)
