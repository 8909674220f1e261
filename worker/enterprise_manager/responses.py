"""The meaning of a response, by its status and body. Reason phrases are not standard, and are ignored.

The vendor documents the statuses 400, 401, 403, 404, 405, 500, 501 and 503. Other statuses come from proxies or other
servers.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from contracts.events import ReasonCode
from worker.enterprise_manager.documents.reading import html_title, is_error, is_html, read_short_document
from worker.enterprise_manager.documents.records import read_error
from worker.enterprise_manager.documents.tree import Node
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.transport import Answer
from worker.unlinks.ports.enterprise_manager import Refused

OK, MULTIPLE_CHOICES = 200, 300
BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, REQUEST_TIMEOUT, TOO_MANY = 400, 401, 403, 404, 408, 429
SERVER_ERROR, NOT_IMPLEMENTED, SERVICE_UNAVAILABLE = 500, 501, 503

#: The longest `Retry-After` that is honoured, in seconds. A longer one is shortened to this.
LONGEST_RETRY_AFTER = 30.0


class Again(Exception):  # noqa: N818 - it reads as what to do
    """The request failed, but may succeed later. `everywhere`: requests for other resources would probably fail too."""

    def __init__(self, problem: str, *, retry_after: float = 0, everywhere: bool = True) -> None:
        super().__init__(problem)
        self.retry_after = retry_after
        self.everywhere = everywhere


class NotFound(Exception):  # noqa: N818 - it reads as what happened
    """Enterprise Manager answered with 404; the text is its message."""


class Unauthorized(Exception):  # noqa: N818 - as above
    """Enterprise Manager answered with 401: the session has ended."""


def judge(answer: Answer, remedies: Remedies) -> None:
    """Return if the request succeeded.

    Raises:
        Unauthorized: status 401.
        NotFound: status 404 from Enterprise Manager.
        Refused: the request was certainly not executed, and repeating it does not help.
        Again: any other response. A request that changes something may have been executed.
    """
    status = answer.status
    if status == UNAUTHORIZED:
        raise Unauthorized(remedies.refused_sessions())
    if status == TOO_MANY:
        raise Again(remedies.answered("asks for fewer requests (status 429)"), retry_after=retry_after(answer))
    if is_html(answer.body):
        raise Again(_page(answer, remedies), retry_after=retry_after(answer))
    if OK <= status < MULTIPLE_CHOICES:
        return
    document = read_short_document(answer.body)
    message = _message(document, remedies)
    if status == NOT_FOUND:
        if answer.body and (document is None or not is_error(document)):
            # A proxy or gateway that does not reach its server may return 404 with plain text or JSON of its own.
            problem = remedies.answered("answered with status 404, and with no document of Enterprise Manager")
            raise Again(problem, everywhere=False)
        raise NotFound(message or "not found")
    if status == FORBIDDEN:
        raise Refused(ReasonCode.ACCESS_DENIED, remedies.forbidden(message))
    problem = f"answered with status {status}" + (f": {message}" if message else "")
    if is_definite_no(status):
        raise Refused(ReasonCode.ENTERPRISE_MANAGER_ERROR, remedies.answered(problem))
    if status < SERVER_ERROR and status != REQUEST_TIMEOUT:
        raise Again(remedies.not_enterprise_manager(f"it redirects (status {status})"))
    raise Again(remedies.answered(problem), retry_after=retry_after(answer), everywhere=status != SERVER_ERROR)


def is_definite_no(status: int) -> bool:
    """Whether a status means that the request was certainly not executed."""
    client_error = BAD_REQUEST <= status < SERVER_ERROR and status not in {REQUEST_TIMEOUT, TOO_MANY}
    return client_error or status == NOT_IMPLEMENTED


def server_message(answer: Answer, remedies: Remedies) -> str | None:
    """The message of an error document, without secrets and truncated; None if there is none or it cannot be read."""
    return _message(read_short_document(answer.body), remedies)


def retry_after(answer: Answer) -> float:
    """The seconds that the server asks to wait, at most `LONGEST_RETRY_AFTER`; 0 without a `Retry-After`.

    RFC 9110 also allows a date. It is compared with the response's `Date`, because the clocks of the hosts may differ.
    """
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:6]), LONGEST_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(text) - parsedate_to_datetime(answer.headers.get("Date", ""))
    except (ValueError, TypeError, OverflowError):  # TypeError: only one has a time zone; OverflowError: year 10000
        return 0.0
    return min(max(seconds.total_seconds(), 0.0), LONGEST_RETRY_AFTER)


def _message(document: Node | None, remedies: Remedies) -> str | None:
    return None if document is None else read_error(document, remedies.without_secrets)


def _page(answer: Answer, remedies: Remedies) -> str:
    title = html_title(answer.body, remedies.without_secrets)
    page = f"an HTML page (status {answer.status}" + (f', titled "{title}")' if title else ")")
    if answer.status >= SERVER_ERROR:
        return remedies.answered(f"is not available: a proxy or load balancer in front of it answered with {page}")
    return remedies.not_enterprise_manager(f"it answered with {page}")
