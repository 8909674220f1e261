"""Reads the certificate that a server presents, whether or not it is trusted."""

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

#: The time-out of the connection attempt and of each step of the TLS handshake, in seconds.
_SECONDS = 10.0

_HTTPS = 443

#: OpenSSL's flag to ignore dates when verifying (X509_V_FLAG_NO_CHECK_TIME, x509_vfy.h). Python has no name for it.
_NO_CHECK_TIME = 0x200000


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """A server's certificate. `subject`, `issuer`, `names` and the dates are None or empty if they cannot be read."""

    fingerprint: str
    subject: str | None = None
    issuer: str | None = None
    names: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None

    @property
    def self_signed(self) -> bool:
        """Whether issuer and subject are the same. The signature is not checked."""
        return self.subject is not None and self.subject == self.issuer


def shown_by(url: str) -> ShownCertificate:
    """The certificate of the server at an `https://` URL. Blocks; makes TLS handshakes and sends no request.

    Raises:
        OSError: there is no connection, or no TLS. The text comes from a library.
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
        )  # verification failed, for instance because it is no server certificate: only the fingerprint is known


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
    """A context that trusts this certificate only. Python decodes a peer's certificate only if it was verified."""
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
