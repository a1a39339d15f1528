"""What the doctor finds out by itself: from real files, ports, certificates and databases."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rebalancer.rollout.journal import Journal
from rebalancer.service import doctor_certificate
from rebalancer.service.clock import SystemClock
from rebalancer.service.config_format import HookSettings, HooksSettings, HostSettings, Settings
from rebalancer.service.doctor_probe import address_facts, hook_facts, journal_facts, way_of
from rebalancer.service.session import Session

DAYS = 40


def a_session(**settings: Any) -> Session:
    console = Console(quiet=True)
    return Session(settings=Settings(**settings), out=console, err=console)


@pytest.mark.parametrize(
    ("uri", "way"),
    [
        ("qemu+ssh://root@h1/system", ("ssh", "h1", 22)),
        ("qemu+ssh://root@h1:2222/system", ("ssh", "h1", 2222)),
        ("qemu+tls://h1/system", ("tls", "h1", 16514)),
        ("qemu://h1/system", ("tls", "h1", 16514)),
        ("qemu+tcp://[fe80::1]/system", ("tcp", "fe80::1", 16509)),
        ("qemu:///system", ("", "", 0)),
        ("test:///default", ("", "", 0)),
        ("qemu+unix:///system?socket=/run/x", ("", "", 0)),
        ("qemu+tcp://[broken/system", ("", "", 0)),
    ],
)
def test_the_way_that_a_uri_takes(uri: str, way: tuple[str, str, int]) -> None:
    assert way_of(uri) == way


# The journal --------------------------------------------------------------------------------


def test_looking_for_a_journal_makes_none(tmp_path: Path) -> None:
    facts = journal_facts(a_session(journal=f"sqlite:///{tmp_path}/deep/down/journal.db"))

    assert (facts.exists, facts.fault) == (False, "")
    assert facts.free_bytes is not None
    assert list(tmp_path.iterdir()) == []


def test_a_journal_tells_who_pauses_and_who_works(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/journal.db"
    with Journal.open(url, SystemClock()) as journal, journal.hold("c"):
        facts = journal_facts(a_session(journal=url, cluster="c"))

    assert (facts.exists, facts.fault) == (True, "")
    assert "process" in facts.busy


def test_a_lock_that_was_given_back_is_no_lock(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/journal.db"
    with Journal.open(url, SystemClock()) as journal, journal.hold("c"):
        pass

    assert journal_facts(a_session(journal=url, cluster="c")).busy == ""


def test_a_file_that_is_no_journal_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("this is no database" * 100, encoding="utf-8")

    facts = journal_facts(a_session(journal=f"sqlite:///{tmp_path}/journal.db"))

    assert "not a journal" in facts.fault


# Hooks --------------------------------------------------------------------------------------


def test_hooks_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("", encoding="utf-8")
    words = ["/bin/sh", f"{tmp_path}/nowhere", f"{tmp_path}/plain", str(tmp_path)]
    hooks = HooksSettings(before_plan=tuple(HookSettings(command=(word,)) for word in words))

    found = list(hook_facts(Settings(hooks=hooks)))

    faults = [hook.fault for hook in found]
    assert faults[:2] == ["", "is not there"]
    assert faults[3] == "is no file"
    # Root may run nothing either that nobody may.
    assert faults[2] == "may not be run by this user"
    assert found[0].may_object


# Addresses ----------------------------------------------------------------------------------


def a_host(**changed: Any) -> HostSettings:
    return HostSettings(**({"name": "h1", "uri": "qemu+tcp://127.0.0.1/system"} | changed))


def test_a_port_that_is_closed_is_told() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        facts = address_facts(a_host(uri=f"qemu+tcp://127.0.0.1:{port}/system"), "h1")

    assert "Connection refused" in facts.peer_port_error


def test_the_peers_address_goes_before_our_own() -> None:
    facts = address_facts(
        a_host(peer_uri="qemu+ssh://root@peer/system", migration_uri="tcp://10.1.1.1"),
        "its-name",
        resolve=lambda name: () if name == "peer" else (name,),
    )

    assert (facts.transport, facts.peer_name, facts.peer_addresses) == ("ssh", "peer", ())
    assert (facts.memory_name, facts.is_memory_stated) == ("10.1.1.1", True)


def test_memory_goes_to_what_the_host_calls_itself() -> None:
    facts = address_facts(a_host(uri="qemu+tcp://h1/system"), "node1", resolve=lambda _: ())

    assert (facts.memory_name, facts.memory_addresses) == ("node1", ())


# Certificates -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key, made by somebody else's program."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("pki")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        f"-subj /O=test/CN=h1 -days {DAYS} -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


def is_right(end: datetime | None) -> bool:
    return end is not None and abs(end - SystemClock().now() - timedelta(days=DAYS)) < timedelta(1)


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[int]:
    """A server that shows its certificate; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            plain, _ = listening.accept()
            with (
                contextlib.suppress(OSError),  # who only looks at the certificate just leaves
                plain,
                context.wrap_socket(plain, server_side=True) as encrypted,
            ):
                encrypted.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(5)


def test_when_a_certificate_in_a_file_ends(certificate: Path) -> None:
    assert is_right(doctor_certificate.of_file(certificate / "cert.pem"))


def test_when_the_certificate_of_a_server_ends(tls_server: int) -> None:
    assert is_right(doctor_certificate.of_server("127.0.0.1", tls_server, 5.0))


def test_what_is_no_certificate_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nonsense", encoding="utf-8")

    assert doctor_certificate.of_file(tmp_path / "cert.pem") is None
    assert doctor_certificate.of_file(tmp_path / "nowhere") is None


def test_a_certificate_that_is_cut_short_is_refused(certificate: Path) -> None:
    text = (certificate / "cert.pem").read_text(encoding="ascii")
    der = ssl.PEM_cert_to_DER_cert(text)

    for length in range(len(der) // 2):
        with pytest.raises(ValueError, match="certificate"):
            doctor_certificate.ends_at(der[:length])
