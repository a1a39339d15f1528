"""Who may call the API: over TCP whoever has the token, and nobody with endless requests."""

from __future__ import annotations

import hmac
import json
import ssl
import stat
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from rebalancer.errors import UsageError

LEAST_TOKEN_LENGTH = 16
MOST_BODY_BYTES = 16 * 1024


class WithToken:
    """Lets through requests that bring the token; all others get 401 and learn nothing."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Stand before `app`."""
        self._app = app
        self._wanted = f"bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # the API speaks nothing else
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        if hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._wanted):
            await self._app(scope, receive, send)
        else:
            await _refuse(send, 401, "send the token of the daemon's api.token_file as Bearer")


class WithSmallBodies:
    """Lets through requests that say how long they are, and are not long."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers:
            await _refuse(send, 411, "send the body in one piece, with its Content-Length")
        elif not length.isdigit() or int(length) > MOST_BODY_BYTES:
            await _refuse(send, 413, f"a body may have up to {MOST_BODY_BYTES} bytes")
        else:
            await self._app(scope, receive, send)


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"schema_version": 1, "error": text}).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def read_token(path: Path) -> str:
    """Read the token; raise `UsageError` when there is none, or everybody may read it."""
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"api.token_file {path} cannot be read: {error}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise UsageError(
            f"api.token_file {path}: others may read or change it; run: chmod 640 {path}"
        )
    if len(token) < LEAST_TOKEN_LENGTH or not token.isprintable() or " " in token:
        raise UsageError(
            f"api.token_file {path}: expected one word of {LEAST_TOKEN_LENGTH} characters or "
            "more, such as `openssl rand -hex 32` makes"
        )
    return token


def check_certificate(certificate: Path, key: Path) -> None:
    """Raise `UsageError` unless the two are readable and belong together."""
    # Without a password at hand OpenSSL would ask for one on the terminal.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError(
            f"api.tls_certificate {certificate} and api.tls_key {key} cannot be used: {error}"
        ) from error
