"""The only request that changes a job. It is repeated only if it was certainly not carried out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from worker.enterprise_manager.calls import Calls
from worker.enterprise_manager.documents.reading import is_html
from worker.enterprise_manager.documents.records import TaskRecord, read_task
from worker.enterprise_manager.documents.tree import DocumentError
from worker.enterprise_manager.logon import TOKEN_HEADER, Logon, LogonSession
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import (
    MULTIPLE_CHOICES,
    NOT_FOUND,
    OK,
    TOO_MANY,
    UNAUTHORIZED,
    Again,
    is_definite_no,
    judge,
)
from worker.enterprise_manager.transport import Answer, NotConnectedError, NotWrittenError, Request, TransportError
from worker.enterprise_manager.wire import Wire
from worker.unlinks.ports.enterprise_manager import AnswerLost, LinkNotFound, NotSent, Unavailable

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The DELETE was answered with a task, which is valid in this session only."""

    task: TaskRecord
    session: LogonSession


class Deletion:
    """Sends the DELETE of a link."""

    def __init__(self, wire: Wire, logon: Logon, calls: Calls, remedies: Remedies) -> None:
        self._wire = wire
        self._logon = logon
        self._calls = calls
        self._remedies = remedies

    async def send(self, path: str, may_send: Callable[[], Awaitable[float]]) -> Accepted:
        """Send the DELETE, each time with a permission of its own.

        Raises:
            NotSent, and what `may_send` raises: no DELETE was written that may have been carried out.
            Unavailable: it was certainly not carried out: no connection, no session, or asked to slow down (429).
            AnswerLost: it may have been.
            LinkNotFound: answered with 404.
            Refused: access_denied, enterprise_manager_error.
        """
        session, answer = await self._calls.repeat(partial(self._deliver, path, may_send))
        try:
            return Accepted(read_task(await self._wire.read(answer), self._remedies.without_secrets), session)
        except DocumentError as error:
            raise AnswerLost(
                self._remedies.answered(f"accepted the request (status {answer.status}), and of its answer: {error}")
            ) from None

    async def _deliver(
        self, path: str, may_send: Callable[[], Awaitable[float]], attempt: int
    ) -> tuple[LogonSession, Answer]:
        """Send it in the present session, and once more in a new one if that is answered with 401; judge the answer."""
        session = await self._logon.session()
        answer = await self._exchange(_delete(path, session), may_send, attempt)
        if answer.status == UNAUTHORIZED:
            self._logon.drop(session)
            session = await self._logon.session()
            answer = await self._exchange(_delete(path, session), may_send, attempt)
        if answer.status == UNAUTHORIZED:
            self._logon.drop(session)
            raise Unavailable(self._remedies.refused_sessions())
        self._logon.used(session)
        self._judge(answer)
        return session, answer

    async def _exchange(self, request: Request, may_send: Callable[[], Awaitable[float]], attempt: int) -> Answer:
        try:
            return await self._wire.exchange(request, attempt=attempt, may_send=may_send)
        except NotWrittenError as error:
            raise NotSent(str(error)) from None
        except NotConnectedError as error:
            raise Again(str(error)) from None
        except TransportError as error:
            raise AnswerLost(str(error)) from None

    def _judge(self, answer: Answer) -> None:
        """Return if it was accepted. Unless it was certainly not carried out, the answer counts as lost.

        503 counts as lost: between Enterprise Manager and here, any proxy that gives up on a request answers so.
        """
        status = answer.status
        if status == TOO_MANY:
            judge(answer, self._remedies)
        if is_html(answer.body):
            raise AnswerLost(self._remedies.answered(f"answered the DELETE with an HTML page (status {status})"))
        if OK <= status < MULTIPLE_CHOICES:
            return
        if status == NOT_FOUND:
            raise LinkNotFound(self._remedies.answered("knows no such link"))
        if is_definite_no(status):
            judge(answer, self._remedies)
        raise AnswerLost(self._remedies.answered(f"answered the DELETE with status {status}"))


def _delete(path: str, session: LogonSession) -> Request:
    return Request("DELETE", path, headers={TOKEN_HEADER: session.token})
