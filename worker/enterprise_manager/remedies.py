"""Converts a library's exception into one sentence that names the problem and the setting that solves it.

A sentence may contain names of settings, the host and the port, but no URL query, no credential and no page content.
Secrets are removed from text that is quoted from the server, because a server may echo its input.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from worker.enterprise_manager.pinning import OtherCertificateError, with_colons
from worker.redaction import Redaction
from worker.settings import EnterpriseManagerSettings

# OpenSSL's codes for certificate verification errors (openssl-verification-options(1), x509_vfy.h).
_NOT_YET_VALID = 9
_EXPIRED = 10
_SELF_SIGNED = 18
_WRONG_HOST = frozenset({62, 64})


#: How many session tokens are remembered. The oldest is forgotten first.
_TOKENS = 4


def variable(name: str, setting: str) -> str:
    """The environment variable of one setting of the Enterprise Manager called `name`."""
    return f"UNLINK_ENTERPRISE_MANAGERS__{name.upper()}__{setting}"


class Remedies:
    """The sentences about one Enterprise Manager. The docstring of a method describes the situation of its sentence."""

    def __init__(self, name: str, settings: EnterpriseManagerSettings) -> None:
        self._name = name
        self._settings = settings
        parts = urlsplit(settings.url)
        self._host = parts.hostname or ""
        self._where = parts.netloc
        password = settings.password.get_secret_value()
        self._secrets = {password, quote(password, safe=""), settings.basic_credentials}
        self._tokens: deque[str] = deque(maxlen=_TOKENS)
        self._redaction = Redaction(self._secrets)

    def keep_secret(self, token: str) -> None:
        """Remember a session token, so that it is removed from all sentences."""
        self._tokens.append(token)
        self._redaction = Redaction(self._secrets | set(self._tokens))

    def without_secrets(self, text: str) -> str:
        """The server's text, without the password and recent session tokens."""
        return self._redaction.clean(text)

    def variable(self, setting: str) -> str:
        """The environment variable of one setting."""
        return variable(self._name, setting)

    def not_connected(self, error: BaseException) -> str:
        """No connection was established, so nothing was sent."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, OtherCertificateError):
                return self._other_certificate(cause.seen)
            if isinstance(cause, ssl.SSLCertVerificationError):
                return self._certificate(cause)
        for cause in causes:
            if isinstance(cause, ssl.SSLError):
                return (
                    f"{self._where} did not answer with TLS ({_first_line(cause.reason or 'handshake failed')}); "
                    f"check the port in {self.variable('URL')}: 9398 is HTTPS"
                )
        return f"{self._where} cannot be reached: {self._network(causes)}"

    def not_written(self, method: str) -> str:
        """The connection was ready, but the request was no longer permitted."""
        return (
            f"the {method} was not sent to {self._where}: it was not permitted any more when the connection was ready"
        )

    def broken_off(self, error: BaseException, seconds: float) -> str:
        """The request may have been sent, but no complete response arrived; `seconds` is the time limit."""
        for cause in _causes(error):
            if isinstance(cause, TimeoutError) or "timeout" in type(cause).__name__.lower():
                return (
                    f"{self._where} did not answer within {seconds:g} s; is it "
                    f"overloaded, or {self.variable('REQUEST_TIMEOUT_SECONDS')} too short?"
                )
        return f"{self._where} broke off its answer"

    def refused_logon(self) -> str:
        """A logon was answered with 401. Enterprise Manager answers an unknown API version in the same way."""
        return (
            f"{self._where} refused the user name or password: check {self.variable('USERNAME')} and "
            f"{self.variable('PASSWORD')}"
        )

    def forbidden_logon(self, message: str | None) -> str:
        """A logon was answered with 403."""
        quoted = f" ({message})" if message else ""
        return (
            f"{self._where} does not let the account in {self.variable('USERNAME')} log on{quoted}: give it the role "
            "Portal Administrator in Enterprise Manager"
        )

    def forbidden(self, message: str | None) -> str:
        """A request was answered with 403."""
        quoted = f" ({message})" if message else ""
        return (
            f"{self._where} denied access{quoted}: the account in {self.variable('USERNAME')} needs the role Portal "
            "Administrator in Enterprise Manager"
        )

    def no_logon(self, message: str) -> str:
        """The response to a logon is not a known response of Enterprise Manager."""
        return f"no logon at {self._where}: {self.without_secrets(message)}; check {self.variable('URL')}"

    def refused_sessions(self) -> str:
        """Even a new session was answered with 401."""
        return f"{self._where} keeps refusing its own logon sessions; is there a limit on sessions of this account?"

    def not_enterprise_manager(self, what: str) -> str:
        """The server at the configured URL is not Enterprise Manager."""
        return (
            f"what answers at {self._where} is not Enterprise Manager's REST API: {self.without_secrets(what)}; "
            f"check {self.variable('URL')}"
        )

    def answered(self, what: str) -> str:
        """Enterprise Manager sent a response that cannot be used."""
        return f"{self._where} {self.without_secrets(what)}"

    def _other_certificate(self, seen: str) -> str:
        return (
            f"the certificate of {self._where} is not the one in {self.variable('CERT_SHA256')}: its SHA-256 is "
            f"{with_colons(seen)}. Was it renewed? Compare it on the server itself before you set it"
        )

    def _certificate(self, error: ssl.SSLCertVerificationError) -> str:
        code = error.verify_code
        if code in _WRONG_HOST:
            return (
                f"the certificate of {self._where} is not for the host name {self._host}: use the name that is in the "
                f"certificate in {self.variable('URL')}"
            )
        if code == _EXPIRED:
            return f"the certificate of {self._where} has expired: have it renewed in Enterprise Manager"
        if code == _NOT_YET_VALID:
            return f"the certificate of {self._where} is not valid yet: compare the clocks"
        if self._settings.ca_file is not None:
            return (
                f"the certificate of {self._where} is not signed by CA_FILE {self._settings.ca_file}: put the CA (or "
                f"the self-signed certificate) of Enterprise Manager into {self.variable('CA_FILE')}"
            )
        kind = "is self-signed" if code == _SELF_SIGNED else "is not signed by a CA that this system trusts"
        return (
            f"the certificate of {self._where} {kind}: point {self.variable('CA_FILE')} to a file with its CA or with "
            f"the certificate itself, or set {self.variable('CERT_SHA256')} to its fingerprint"
        )

    def _network(self, causes: list[BaseException]) -> str:
        for cause in causes:
            if isinstance(cause, socket.gaierror):
                return f"the host name {self._host} is not known; check {self.variable('URL')}"
            if isinstance(cause, ConnectionRefusedError):
                return f"nothing listens there; is it running, and is the port in {self.variable('URL')} right?"
            if isinstance(cause, TimeoutError):
                return f"no answer to the attempt to connect; check {self.variable('URL')} and the firewalls between"
            if isinstance(cause, ConnectionError):
                return f"the connection was closed while it was made; check the port in {self.variable('URL')}"
        for cause in causes:
            if isinstance(cause, OSError) and cause.strerror:
                return f"{_first_line(cause.strerror)}; check {self.variable('URL')}"
        return f"no connection; check {self.variable('URL')}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors that it wraps: as its cause, its context, an argument or the attribute `reason`."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, getattr(found, "reason", None), *found.args, found.__context__]


def _first_line(text: str) -> str:
    return text.splitlines()[0][:100] if text else ""
