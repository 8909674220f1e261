"""A private certificate authority, and a server certificate that it issued."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

#: The names and addresses of a server on the loopback interface.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of a server's certificates."""

    #: The CA certificate, with which a client verifies the server, PEM.
    ca_file: Path
    #: The server's private key and certificate chain, PEM, readable by the file's owner only.
    server_file: Path

    def server_context(self) -> ssl.SSLContext:
        """The SSLContext of a TLS server with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_file)
        return context


def certificates_in(folder: Path, names: tuple[str, ...] = LOOPBACK_NAMES) -> Certificates:
    """The certificates in the folder. The first call creates them; they stay valid when a server restarts.

    Args:
        folder: an existing folder, in which `ca.pem` and `server.pem` are created.
        names: the host names and addresses that the server's certificate is valid for.

    Raises:
        OSError: the folder cannot be written.
    """
    certificates = Certificates(folder / "ca.pem", folder / "server.pem")
    if not (certificates.ca_file.exists() and certificates.server_file.exists()):
        authority = trustme.CA(organization_name="unlink-worker sandbox")
        server = authority.issue_cert(*names)
        certificates.server_file.touch(mode=0o600)
        server.private_key_and_cert_chain_pem.write_to_path(certificates.server_file)
        authority.cert_pem.write_to_path(certificates.ca_file)
    return certificates
