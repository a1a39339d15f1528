"""A real PostgreSQL of the tests' own: on a unix socket in a temporary folder, gone afterwards."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from tests.lab.deadline import wait_until

_START_SECONDS = 180.0
_USER = "rebalancer"


def _folder_of_programs() -> Path | None:
    """Where `initdb` is; Debian keeps it off the path, by version."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: float(path.parts[4]), default=None)
    return newest.parent if newest is not None else None


PROGRAMS = _folder_of_programs()


@dataclass
class Server:
    """A server that runs, and makes databases."""

    folder: Path
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> str:
        """Make an empty one, and return its URL as an operator would write it."""
        name = f"journal{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@/{database}?host={quote(str(self.folder))}"

    def run(self, statement: str) -> Any:
        """Let the administrator say something."""
        address = self.url("postgres").replace("postgresql:", "postgresql+psycopg:", 1)
        engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as db:
                result = db.exec_driver_sql(statement)
                return result.fetchall() if result.returns_rows else None
        finally:
            engine.dispose()

    @property
    def pid(self) -> int:
        """Of the server itself."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def stop(self) -> None:
        """End it as a loss of power would; what was committed is there afterwards."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(_START_SECONDS)

    def start(self) -> None:
        """Start it again, with what it had."""
        self.process = _started(self.folder)


@contextmanager
def postgresql() -> Iterator[Server]:
    """Start a server as a user that is not root, which it would refuse."""
    assert PROGRAMS is not None
    # Not in pytest's folder: nobody else may enter that.
    folder = Path(tempfile.mkdtemp(prefix="rebalancer-postgres-"))
    try:
        if os.geteuid() == 0:
            folder.chmod(0o755)
            shutil.chown(folder, _unprivileged())
        made = subprocess.run(
            [
                PROGRAMS / "initdb",
                *("--username", _USER, "--auth", "trust", "--encoding", "UTF8", "--no-sync"),
                *("--locale", "C.UTF-8", "--pgdata", folder / "data"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            **_identity(),
        )
        assert made.returncode == 0, made.stderr
        server = Server(folder=folder, process=_started(folder))
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _started(folder: Path) -> subprocess.Popen[bytes]:
    assert PROGRAMS is not None
    options = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off"}
    settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [PROGRAMS / "postgres", "-D", folder / "data", *settings],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the tests, which end it
            **_identity(),
        )
    address = Server(folder=folder, process=process)

    def answers() -> bool:
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            address.run("SELECT 1")
            return True
        return process.poll() is not None

    wait_until(answers, within_seconds=_START_SECONDS, what="PostgreSQL to start")
    assert process.poll() is None, (folder / "log").read_text()[-2000:]
    return process


def _identity() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(_unprivileged())
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _unprivileged() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def require_postgresql() -> None:
    """Skip the test where there is none; in CI that is no excuse."""
    if PROGRAMS is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must test with PostgreSQL: apt-get install postgresql", pytrace=False)
        pytest.skip("no PostgreSQL on this machine (apt-get install postgresql)")
