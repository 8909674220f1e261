"""One request, one answer: the adapter of `requests`, without a session, which could send more than one request.

No cookies (by the vendor's documentation a stale session cookie takes precedence over the session header), no
redirects, no proxies or credentials from the environment, no repeats. An answer is read up to a size, and a whole
exchange has one deadline.

    TransportError
    +-- NotConnectedError   no connection came about: not a byte of the request left
    +-- NotWrittenError     the request was not permitted any more when it could be written: not a byte left
    +-- BrokenAnswerError   the request may have left; no complete answer came back
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import requests
import urllib3

from worker.enterprise_manager.connections import LIMITS, BoundedAdapter, Limits
from worker.enterprise_manager.permission import NotPermittedError
from worker.enterprise_manager.pinning import PinnedContext
from worker.enterprise_manager.remedies import Remedies
from worker.settings import EnterpriseManagerSettings, SettingsInvalidError

#: The largest answer that is read, in bytes: a list of thousands of links has a few megabytes.
MAX_ANSWER_BYTES = 16 * 1024 * 1024

#: The longest, in seconds, that the answer to a request which changes something is waited for.
LONGEST_SECONDS = 60.0

_PIECE = 64 * 1024
_ACCEPT = {"xml": "application/xml", "json": "application/json"}


class TransportError(Exception):
    """No complete answer. The text is one sentence for a person, without secrets."""


class NotConnectedError(TransportError):
    """Not a byte of the request left."""


class NotWrittenError(TransportError):
    """Not a byte of the request left: it was no longer permitted when the connection was ready."""


class BrokenAnswerError(TransportError):
    """The request may have left, and may have been carried out."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the API. `headers` hold its secrets, and are not shown."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None

    @property
    def target(self) -> str:
        """Path and query; every character of a value that could mean something in a URL is escaped."""
        pairs = [f"{quote(name)}={quote(value, safe='', errors='replace')}" for name, value in self.query.items()]
        return self.path + ("?" + "&".join(pairs) if pairs else "")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. `headers` may hold a session's token, and are not shown; their names ignore case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Transport:
    """Sends requests to one Enterprise Manager. Its calls block and may be made from many threads.

    Raises:
        SettingsInvalidError: the CA file cannot be used.
    """

    def __init__(self, settings: EnterpriseManagerSettings, remedies: Remedies) -> None:
        self._base = settings.url
        self._remedies = remedies
        self._timeout = settings.request_timeout_seconds
        self._accept = _ACCEPT[settings.format]
        self._tls = _tls(settings, remedies)
        if self._tls.verify_mode is ssl.CERT_NONE:
            # The warning was logged once at the start; and for a pinned certificate it is wrong.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # It logs what it cannot read with a stack trace; here that becomes one sentence.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._adapter = BoundedAdapter(self._tls, self._base, settings.max_requests)
        self._path = urlsplit(self._base).path

    def exchange(self, request: Request) -> Answer:
        """Send a request over a connection that may be an old one, kept alive.

        Raises:
            NotConnectedError: not a byte left.
            BrokenAnswerError: it may have left.
        """
        return self._exchange(request, Limits(request.timeout or self._timeout))

    def exchange_once(self, request: Request, may_write: Callable[[], None]) -> Answer:
        """Send a request that must not be repeated, after `may_write`, called when the connection is ready.

        An idle connection may turn out to be dead only after the request was written, and then it is not known whether
        it arrived. So only a connection is used that answered a moment ago (`connections.WARM_SECONDS`), or a new one:
        if connecting fails, the request certainly did not leave.

        From the permission on it takes `LONGEST_SECONDS` at most. Raises as `exchange`, and `NotWrittenError` where
        `may_write` raised `NotPermittedError`.
        """
        return self._exchange(request, Limits(min(request.timeout or self._timeout, LONGEST_SECONDS), may_write))

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    def _exchange(self, request: Request, limits: Limits) -> Answer:
        LIMITS.set(limits)
        try:
            response = self._adapter.send(self._prepared(request)).raw
            try:
                return Answer(response.status, response.headers, self._read(response))
            except BaseException:
                response.close()
                raise
        except NotPermittedError:
            raise NotWrittenError(self._remedies.not_written(request.method)) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # ValueError: what http.client and urllib3 raise for an answer that is no HTTP.
            if not limits.written:
                raise NotConnectedError(self._remedies.not_connected(error)) from None
            raise BrokenAnswerError(self._remedies.broken_off(error, limits.seconds)) from None

    def _prepared(self, request: Request) -> requests.PreparedRequest:
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = request.method, self._path + request.target
        headers = {
            "Accept": self._accept,
            "Accept-Encoding": "identity",
            "Connection": "keep-alive",
            "User-Agent": "unlink-worker",
            **request.headers,
        }
        if request.method != "GET":
            headers["Content-Length"] = "0"
        prepared.headers = headers  # type: ignore[assignment] # a plain one: no name is written in two ways
        return prepared

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise BrokenAnswerError(self._remedies.answered("compressed its answer, which it was asked not to do"))
        body = bytearray()
        while piece := response.read1(_PIECE, decode_content=False):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise BrokenAnswerError(self._remedies.answered(f"answered with more than {MAX_ANSWER_BYTES} bytes"))
        return bytes(body)


def _tls(settings: EnterpriseManagerSettings, remedies: Remedies) -> ssl.SSLContext:
    context = PinnedContext.of(settings.cert_sha256)
    if not settings.verify_tls or (settings.cert_sha256 is not None and settings.ca_file is None):
        # Without a CA, the pin alone says who it is: neither signer nor name of a self-signed certificate say more.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if settings.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=settings.ca_file)
    except (OSError, ValueError):
        raise SettingsInvalidError(
            f"{remedies.variable('CA_FILE')}: holds no certificate in PEM format that can be read"
        ) from None
    if settings.ca_file is not None:
        # The file may hold the server's own certificate, which is what Enterprise Manager's installer makes: it is
        # trusted as it is, even if it is no proper CA in the eyes of the strict mode of Python 3.13.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
