"""When a certificate ends, read from its DER form: all that `doctor` wants to know of one.

Python shows a peer's certificate only after it was verified, and whether that succeeds is another
question than when it ends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

CLIENT_FILES = (
    (
        Path.home() / ".pki" / "libvirt" / "clientcert.pem",
        Path.home() / ".pki" / "libvirt" / "clientkey.pem",
    ),
    (
        Path("/etc/pki/libvirt/clientcert.pem"),
        Path("/etc/pki/libvirt/private/clientkey.pem"),
    ),
)
"""Where libvirt looks for the certificate of a client and its key, in this order."""

_SEQUENCE, _EXPLICIT_0, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def ends_at(der: bytes) -> datetime:
    """The end of an X.509 certificate's validity (RFC 5280, 4.1). Raises `ValueError`."""
    certificate, _ = _take(der, _SEQUENCE)
    rest, _ = _take(certificate, _SEQUENCE)
    if rest[:1] == bytes([_EXPLICIT_0]):
        _, rest = _take(rest, _EXPLICIT_0)  # version
    for _ in ("serial number", "signature algorithm", "issuer"):
        _, rest = _take(rest)
    validity, _ = _take(rest, _SEQUENCE)
    _, after = _take(validity)
    kind = after[0] if after else 0
    text = _take(after)[0].decode("ascii")
    if kind not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("the validity of the certificate is no time")
    # Two digits mean 1950 to 2049, as RFC 5280 has it, and not what strptime makes of them.
    century = "" if kind == _GENERALIZED_TIME else "20" if int(text[:2]) < 50 else "19"
    return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _take(data: bytes, wanted: int | None = None) -> tuple[bytes, bytes]:
    """Split off the first value; return it and the rest."""
    if len(data) < 2 or (wanted is not None and data[0] != wanted):
        raise ValueError("this is no certificate")
    length, begin = data[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin])
    if begin + length > len(data):
        raise ValueError("the certificate is cut short")
    return data[begin : begin + length], data[begin + length :]


def _show_our_own(context: ssl.SSLContext) -> None:
    """A server asks its clients for a certificate, too; with old TLS it tells nothing without."""
    for certificate, key in CLIENT_FILES:
        with contextlib.suppress(OSError):  # ssl.SSLError is an OSError
            context.load_cert_chain(certificate, key, password="")
            return


def of_file(path: Path) -> datetime | None:
    """When the certificate in a PEM file ends; `None` if there is none to be read."""
    try:
        return ends_at(ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None


def of_server(name: str, port: int, timeout_seconds: float) -> datetime | None:
    """When the certificate of a server ends; `None` if it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Its date is asked for here, not whether it is to be trusted: libvirt judges that itself.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _show_our_own(context)
    try:
        with (
            socket.create_connection((name, port), timeout=timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=name) as encrypted,
        ):
            der = encrypted.getpeercert(binary_form=True)
            return ends_at(der) if der else None
    except (OSError, ValueError):
        return None
