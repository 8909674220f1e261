"""The certificate that a server shows, whether or not it can be trusted."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from worker.enterprise_manager.pinning import fingerprint_of

#: How long connecting and each step of the handshake may take, in seconds.
_SECONDS = 10.0

_HTTPS = 443

#: OpenSSL's flag to verify without regard to dates, which Python does not name (X509_V_FLAG_NO_CHECK_TIME, x509_vfy.h).
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """A certificate; `subject`, `issuer`, `names` and dates are None or empty where they cannot be read."""

    fingerprint: str
    subject: str | None = None
    issuer: str | None = None
    names: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None

    @property
    def self_signed(self) -> bool:
        """Whether it is self-issued."""
        return self.subject is not None and self.subject == self.issuer


def shown_by(url: str) -> ShownCertificate:
    """What the server at an `https://` URL shows. Blocks; sends nothing but handshakes.

    Raises:
        OSError: no connection, or no TLS; the text is a library's.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _HTTPS
    with _connected(_trusting_anybody(), host, port) as connection:
        certificate = connection.getpeercert(binary_form=True) or b""
    fingerprint = fingerprint_of(certificate)
    try:
        with _connected(_trusting_only(certificate), host, port) as connection:
            return _read(fingerprint, connection.getpeercert() or {})
    except ssl.SSLError:
        return ShownCertificate(
            fingerprint
        )  # not verified, for instance because it is not for servers: only the fingerprint is known


@contextmanager
def _connected(context: ssl.SSLContext, host: str, port: int) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((host, port), _SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        yield secured


def _trusting_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _trusting_only(certificate: bytes) -> ssl.SSLContext:
    """Python describes only a certificate that was verified: so this very one is the one that is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def _read(fingerprint: str, described: dict[str, Any]) -> ShownCertificate:
    return ShownCertificate(
        fingerprint,
        _name(described.get("subject", ())),
        _name(described.get("issuer", ())),
        tuple(str(name) for _kind, name in described.get("subjectAltName", ())),
        _moment(described.get("notBefore")),
        _moment(described.get("notAfter")),
    )


def _name(parts: tuple[tuple[tuple[str, str], ...], ...]) -> str | None:
    named = ", ".join(f"{kind}={value}" for part in parts for kind, value in part)
    return "".join(sign if sign.isprintable() else "?" for sign in named) or None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC) if text else None
