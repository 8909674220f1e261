"""Certificate pinning: the server's certificate is compared with a fingerprint after the TLS handshake.

The comparison precedes the first byte of a request. Enterprise Manager's installer creates a self-signed certificate,
which no CA can confirm.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import ssl
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket


class OtherCertificateError(ssl.SSLError):
    """The server's certificate is not the pinned one. `seen` is the SHA-256 of the server's certificate."""

    def __init__(self, seen: str) -> None:
        super().__init__("the certificate is not the pinned one")
        self.seen = seen


class _ConnectedSocket(ssl.SSLSocket):
    """A socket that closes itself if its connection was reset before the handshake.

    `ssl.SSLSocket` reads the peer's address when it is created, to check that it is connected. If it is not connected,
    Python raises and leaves the socket open until the garbage collector runs (seen up to 3.13.0).
    """

    def getpeername(self) -> Any:
        """The peer's address.

        Raises:
            ConnectionResetError: the connection was reset; the socket is closed.
        """
        try:
            return super().getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset before the TLS handshake") from error


class PinnedContext(ssl.SSLContext):
    """A client's context that also requires the pinned certificate, if there is a pin."""

    sslsocket_class = _ConnectedSocket
    _pin: str | None = None

    @classmethod
    def of(cls, pin: str | None) -> Self:
        """A context with a pin in lower-case hexadecimal. It also verifies issuer and host name until switched off."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._pin = pin
        return context

    def wrap_socket(self, sock: socket.socket, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Do the handshake, and compare the certificate with the pin.

        Raises:
            OtherCertificateError: the certificate is not the pinned one. The connection is closed.
        """
        wrapped = super().wrap_socket(sock, *arguments, **options)
        if self._pin is not None:
            seen = fingerprint_of(wrapped.getpeercert(binary_form=True) or b"")
            if not hmac.compare_digest(seen, self._pin):
                wrapped.close()
                raise OtherCertificateError(seen)
        return wrapped


def fingerprint_of(certificate: bytes) -> str:
    """The SHA-256 of a certificate (DER), in lower-case hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def with_colons(fingerprint: str) -> str:
    """A fingerprint in the form that tools show: `AB:CD:...`."""
    return ":".join(fingerprint[place : place + 2] for place in range(0, len(fingerprint), 2)).upper()
