"""The settings of the API: where it listens, and whom it lets in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from rebalancer.collect.snapshot_model import Name
from rebalancer.files import FileModel
from rebalancer.files.tree import Finding

SOCKET_NAME = "api.sock"
LONGEST_SOCKET_PATH = 107
"""What fits into an address of the kernel's (unix(7): 108 bytes with the final zero)."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("is not an absolute path: the daemon may be started from anywhere")
    return path


def _socket_path(path: Path) -> Path:
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise ValueError(f"is too long for a socket; expected up to {LONGEST_SOCKET_PATH} bytes")
    return _absolute(path)


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_host = bool(host.strip("[]")) and (":" not in host or is_bracketed)
    if not is_host or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise ValueError(
            "is not an address to listen on; expected such as 10.0.0.5:9469 or [::1]:9469"
        )
    return text


type AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
type SocketPath = Annotated[Path, AfterValidator(_socket_path)]
type Address = Annotated[Name, AfterValidator(_address)]


class ApiSettings(FileModel):
    """The daemon's HTTP API and metrics."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    enabled: bool = True
    """`false`: the daemon serves neither API nor metrics."""
    socket: SocketPath | None = None
    """The unix socket of the API; the daemon's user and group may use it (mode 0660). Default:
    `api.sock` in the folder that systemd makes, which is `/run/rebalancer`; none elsewhere."""
    listen: Address | None = None
    """A TCP address, such as `10.0.0.5:9469`, to serve the same on for other machines. It wants
    all three of the following. Default: none."""
    token_file: AbsolutePath | None = None
    """A file with the token (16 characters or more) that clients over TCP send as
    `Authorization: Bearer …`. Nobody but its owner and group may be able to read it."""
    tls_certificate: AbsolutePath | None = None
    """The certificate for TCP, with those in between up to the authority, as PEM."""
    tls_key: AbsolutePath | None = None
    """Its private key, as PEM, without a password."""
    max_vm_series: Annotated[int, Field(ge=0, le=1_000_000)] = 2000
    """Metrics are served of so many VMs, the largest ones, at most; how many were left out is a
    metric of its own. Hosts are always there."""


def api_findings(api: ApiSettings) -> Iterator[Finding]:
    """Find what keeps the API from being served over TCP, or is there for nothing."""
    needed = ("token_file", "tls_certificate", "tls_key")
    given = [name for name in needed if getattr(api, name) is not None]
    if api.listen is not None and (missing := [name for name in needed if name not in given]):
        yield Finding(
            ("api", "listen"),
            f"over TCP the API is served with a token and TLS only, and {_listed(missing)} not set",
            "set them, or use the unix socket alone",
        )
    if api.listen is None:
        for name in given:
            yield Finding(
                ("api", name), "is of no use without api.listen", "set that, or remove it"
            )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def socket_path(api: ApiSettings, environment: Mapping[str, str]) -> Path | None:
    """Where the unix socket is to be; `None`: nowhere."""
    if api.socket is not None:
        return api.socket
    # systemd lists several, separated by colons, if a unit has several
    folder = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(folder) / SOCKET_NAME if folder else None
