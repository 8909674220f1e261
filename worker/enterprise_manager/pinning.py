"""A server known by its certificate's fingerprint: compared after the handshake, before a byte of a request is sent.

Enterprise Manager's installer makes a self-signed certificate, so that there is no CA to ask.
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
    """The server shows another certificate than the pinned one, whose SHA-256 is `seen`."""

    def __init__(self, seen: str) -> None:
        super().__init__("the certificate is not the pinned one")
        self.seen = seen


class _ConnectedSocket(ssl.SSLSocket):
    """A socket that is closed when its connection was reset before the handshake.

    When it is made, `ssl.SSLSocket` asks for the peer's address, to know whether it is connected. If it is not, Python
    raises and leaves the socket open until the garbage collector runs (seen up to 3.13.0).
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
    """A client's context that, besides all else, accepts only one certificate, if one is pinned."""

    sslsocket_class = _ConnectedSocket
    _pin: str | None = None

    @classmethod
    def of(cls, pin: str | None) -> Self:
        """A context that verifies signer and name too, unless switched off; the pin in lower-case hexadecimal."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context._pin = pin
        return context

    def wrap_socket(self, sock: socket.socket, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Do the handshake, and compare.

        Raises:
            OtherCertificateError: after closing the connection.
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
    """A fingerprint as people compare it: `AB:CD:...`."""
    return ":".join(fingerprint[place : place + 2] for place in range(0, len(fingerprint), 2)).upper()
