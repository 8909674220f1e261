"""Sends one request and reads one response, with an adapter of `requests` and without a `requests.Session`.

A session could send more than one request. The transport uses no cookies (according to the vendor's documentation, a
stale session cookie takes precedence over the session header), follows no redirects, takes no proxies or credentials
from the environment, and repeats nothing. The size of a response is limited, and a whole exchange has one deadline.

    TransportError
    +-- NotConnectedError   no connection was established: no byte of the request was sent
    +-- NotWrittenError     the request was no longer permitted when the connection was ready: no byte was sent
    +-- BrokenAnswerError   the request may have been sent; no complete response arrived
        +-- CompressedAnswerError   the response is compressed, although the request forbids it
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

#: The largest response that is read, in bytes. A list of thousands of links has a few megabytes.
MAX_ANSWER_BYTES = 16 * 1024 * 1024

#: The longest time-out, in seconds, of a request that changes something.
LONGEST_SECONDS = 60.0

_PIECE = 64 * 1024
_ACCEPT = {"xml": "application/xml", "json": "application/json"}


class TransportError(Exception):
    """There is no complete response. The text is one sentence for the operator, without secrets."""


class NotConnectedError(TransportError):
    """No byte of the request was sent."""


class NotWrittenError(TransportError):
    """No byte of the request was sent: it was no longer permitted when the connection was ready."""


class BrokenAnswerError(TransportError):
    """The request may have been sent, and may have been executed."""


class CompressedAnswerError(BrokenAnswerError):
    """The response is compressed, although the request forbids it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the API. `headers` may contain secrets, and is left out of `repr`."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    body: bytes = b""

    @property
    def target(self) -> str:
        """Path and query. Characters with a special meaning in a URL are percent-encoded in the query's values."""
        pairs = [f"{quote(name)}={quote(value, safe='', errors='replace')}" for name, value in self.query.items()]
        return self.path + ("?" + "&".join(pairs) if pairs else "")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response. `headers` ignores case; it may contain a session token, and is left out of `repr`."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Transport:
    """Sends requests to one Enterprise Manager. Its methods block, and may be called from several threads.

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
            # The worker logs its own warning at the start. For a pinned certificate, urllib3's warning is wrong.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # urllib3 logs a response that it cannot read with a stack trace; the worker reports it in one sentence.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._adapter = BoundedAdapter(self._tls, self._base, settings.max_requests)
        self._path = urlsplit(self._base).path

    def exchange(self, request: Request) -> Answer:
        """Send a request, over a kept-alive connection if there is one.

        Raises:
            NotConnectedError: no byte of the request was sent.
            BrokenAnswerError: the request may have been sent.
        """
        return self._exchange(request, Limits(request.timeout or self._timeout))

    def exchange_once(self, request: Request, may_write: Callable[[], None]) -> Answer:
        """Send a request that must not be repeated. `may_write` is called when the connection is ready.

        The failure of an idle connection may be detected only after the request was written; then it is not known
        whether the request arrived. The request is therefore sent over a connection that was used in the last
        `connections.WARM_SECONDS`, or over a new one: if connecting fails, the request was certainly not sent.

        The exchange takes at most `LONGEST_SECONDS` after the permission. Raises as `exchange`, and `NotWrittenError`
        if `may_write` raises `NotPermittedError`.
        """
        return self._exchange(request, Limits(min(request.timeout or self._timeout, LONGEST_SECONDS), may_write))

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    def _exchange(self, request: Request, limits: Limits) -> Answer:
        earlier = LIMITS.set(limits)
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
            # http.client and urllib3 raise ValueError for a response that is not HTTP.
            if not limits.written:
                raise NotConnectedError(self._remedies.not_connected(error)) from None
            raise BrokenAnswerError(self._remedies.broken_off(error, limits.seconds)) from None
        finally:
            LIMITS.reset(earlier)  # an idle thread would keep the permission

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
            headers["Content-Length"] = str(len(request.body))
        prepared.body = request.body or None
        prepared.headers = headers  # type: ignore[assignment] # a plain dict: no name differs in case only
        return prepared

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            problem = "compressed its answer, although the request forbids it (Accept-Encoding: identity)"
            raise CompressedAnswerError(self._remedies.answered(problem))
        body = bytearray()
        while piece := response.read1(_PIECE, decode_content=False):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise BrokenAnswerError(self._remedies.answered(f"answered with more than {MAX_ANSWER_BYTES} bytes"))
        return bytes(body)


def _tls(settings: EnterpriseManagerSettings, remedies: Remedies) -> ssl.SSLContext:
    context = PinnedContext.of(settings.cert_sha256)
    if not settings.verify_tls or (settings.cert_sha256 is not None and settings.ca_file is None):
        # Without a CA, only the pin identifies the server: issuer and name of a self-signed certificate prove nothing.
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
        # The file may contain the server's own certificate, which Enterprise Manager's installer creates. It is
        # trusted directly, even if it is not a valid CA certificate by the strict rules of Python 3.13.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
