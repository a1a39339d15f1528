"""A served API: real sockets, a journal of the test's own, and what a daemon would have put up."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.service.api_daemon import Api
from rebalancer.service.api_notices import Noticeboard, Seen
from rebalancer.service.config import Settings, load_settings
from rebalancer.service.session import Session
from tests.builders import NOON, a_host, a_snapshot, a_vm
from tests.unit.service.samples import a_plan

NOWHERE = Path("/nonexistent/rebalancer.yaml")
TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An API that answers."""

    api: Api
    board: Noticeboard
    session: Session
    socket: Path
    looks: list[str]
    """Policies that the daemon was asked to look at soon."""

    def get(self, path: str) -> httpx.Response:
        with self.client() as client:
            return client.get(path)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body)

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://rebalancer", timeout=30)


def settings_in(folder: Path, **changed: Any) -> Settings:
    """Settings with socket and journal in a folder."""
    flags = {"api.socket": str(folder / "api.sock"), "cluster": "test"}
    flags |= {"journal": f"sqlite:///{folder / 'journal.db'}"}
    flags |= {key.replace("__", "."): value for key, value in changed.items()}
    return load_settings(flags=flags, system_config=NOWHERE)


@contextmanager
def served(folder: Path, **changed: Any) -> Iterator[Served]:
    """Serve an API, and close it again."""
    settings = settings_in(folder, **changed)
    session = Session(settings=settings, out=Console(), err=Console(stderr=True))
    board = Noticeboard()
    looks: list[str] = []
    api = Api(board, lambda: session, looks.append)
    api.open(settings, {})
    try:
        yield Served(api=api, board=board, session=session, socket=folder / "api.sock", looks=looks)
    finally:
        api.close()


def a_seen(snapshot: Snapshot | None = None, **changed: Any) -> Seen:
    """Two hosts that answered, one that did not, three VMs, a plan with one migration."""
    hosts = (
        a_host("h1", cpu_used_cores=9.0),
        a_host("h2"),
        a_host("h3", state=HostState.UNKNOWN),
    )
    vms = (a_vm("vm1", vcpus=8), a_vm("vm2", vcpus=4), a_vm("vm3", on="h2", vcpus=2))
    looked = snapshot or a_snapshot(hosts, vms)
    return Seen(snapshot=looked, demand=Demand.as_measured(looked), plan=a_plan(**changed))


def after_a_cycle(board: Noticeboard, verdict: str = "recommended: move 1 VM") -> None:
    """Put up what a daemon does in the course of one cycle."""
    board.expect({"balance": ("recommend", NOON)})
    board.begin("balance", NOON)
    board.saw("balance", "recommend", a_seen())
    board.end(
        "balance",
        "recommend",
        verdict,
        at=NOON + timedelta(seconds=3),
        took_seconds=3.0,
        next_at=NOON + timedelta(seconds=300),
    )


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that has signed itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the test's certificate, is not installed")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=rebalancer", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return certificate, key


def make_token(folder: Path, token: str = TOKEN, mode: int = 0o640) -> Path:
    """Write a token file."""
    path = folder / "token"
    path.write_text(token + "\n", encoding="ascii")
    os.chmod(path, mode)  # noqa: PTH101
    return path
