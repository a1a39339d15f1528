"""The threads that serve the API: sockets are opened here, and closed again.

A server that cannot be started leaves a line in the log, never the daemon without its cycles.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import anyio.to_thread
import uvicorn
from starlette.types import ASGIApp

from rebalancer.errors import UsageError
from rebalancer.service.api_access import (
    WithSmallBodies,
    WithToken,
    check_certificate,
    read_token,
)
from rebalancer.service.api_format import ApiSettings, socket_path

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
MOST_CONNECTIONS = 64
MOST_THREADS = 4
"""Requests are answered by so many at a time: the interpreter is there for the cycle first."""
GRACE_SECONDS = 2
"""Answers under way get so long when the daemon leaves."""
JOIN_SECONDS = 5.0


class ApiServer:
    """Serves one API in a thread of its own, on a unix socket, over TLS, or both."""

    def __init__(self, app: ASGIApp, api: ApiSettings, environment: Mapping[str, str]) -> None:
        """Open the sockets. Whatever cannot be opened is logged and left out."""
        self._servers: list[tuple[uvicorn.Server, socket.socket]] = []
        self._unix: tuple[Path, int] | None = None
        self._thread: threading.Thread | None = None
        small = WithSmallBodies(app)
        if (path := socket_path(api, environment)) is not None:
            self._open(f"unix socket {path}", lambda: self._unix_server(small, path))
        if api.listen is not None:
            listen = api.listen
            self._open(f"address {listen}", lambda: _tls_server(small, api, listen))

    def _open(self, where: str, make: _Make) -> None:
        try:
            server, listening = make()
        except (OSError, UsageError) as error:
            log.error(  # noqa: TRY400  the sentence says it all
                "api_failed", extra={"where": where, "error": str(error)}
            )
        else:
            self._servers.append((server, listening))
            log.info("api_opened", extra={"where": where})

    def _unix_server(self, app: ASGIApp, path: Path) -> tuple[uvicorn.Server, socket.socket]:
        listening = open_unix_socket(path)
        self._unix = (path, path.stat().st_ino)
        return _server(app), listening

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is served, as the kernel names it."""
        return tuple(str(listening.getsockname()) for _, listening in self._servers)

    def start(self) -> None:
        """Begin to serve, if there is anything to serve on."""
        if self._servers:
            self._thread = threading.Thread(target=self._serve, name="api", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        try:
            asyncio.run(self._serve_all())
        except Exception:
            # Metrics and API are lost then, and the log says so; VMs are looked after all the same.
            log.exception("api_ended")

    async def _serve_all(self) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = MOST_THREADS
        await asyncio.gather(
            *(server.serve(sockets=[listening]) for server, listening in self._servers)
        )

    def stop(self) -> None:
        """Answer nothing more, and take the unix socket away if it still is ours."""
        for server, _ in self._servers:
            server.should_exit = True
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
        for _, listening in self._servers:
            listening.close()
        if self._unix is not None:
            path, inode = self._unix
            with suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()


type _Make = Callable[[], tuple[uvicorn.Server, socket.socket]]


def _tls_server(
    app: ASGIApp, api: ApiSettings, listen: str
) -> tuple[uvicorn.Server, socket.socket]:
    # Settings are refused without these three; this is for whoever makes settings by hand.
    if api.token_file is None or api.tls_certificate is None or api.tls_key is None:
        raise UsageError("over TCP the API is served with a token and TLS only")
    token = read_token(api.token_file)
    check_certificate(api.tls_certificate, api.tls_key)
    server = _server(
        WithToken(app, token), ssl_certfile=api.tls_certificate, ssl_keyfile=api.tls_key
    )
    return server, open_tcp_socket(listen)


def _server(app: ASGIApp, **tls: Path) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        access_log=False,
        date_header=True,
        http="h11",
        interface="asgi3",
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        log_config=None,
        log_level="warning",
        loop="asyncio",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="none",
        **tls,  # type: ignore[arg-type]  # both are paths
    )
    config.load()  # here, where an error has a caller
    return uvicorn.Server(config)


def open_unix_socket(path: Path) -> socket.socket:
    """Listen at a path; what a daemon that was killed left there is replaced, nothing else is."""
    _remove_if_dead(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before it has a name, so that it is never there with other rights; umask may take some.
        os.fchmod(listening.fileno(), SOCKET_MODE)
        listening.bind(str(path))
        path.chmod(SOCKET_MODE)
        listening.listen(MOST_CONNECTIONS)
    except OSError:
        listening.close()
        raise
    return listening


def _remove_if_dead(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"api.socket {path} is there and is no socket: name another one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another process serves there")


def open_tcp_socket(listen: str) -> socket.socket:
    """Listen at `HOST:PORT`, `[::1]:PORT` included."""
    host, _, port = listen.rpartition(":")
    found = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(MOST_CONNECTIONS)
    except OSError:
        listening.close()
        raise
    return listening
