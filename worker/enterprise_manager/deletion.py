"""The DELETE of a link: the only request that changes a job. It is repeated only if it was certainly not executed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

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
    NotFound,
    is_definite_no,
    judge,
)
from worker.enterprise_manager.transport import Answer, NotConnectedError, NotWrittenError, Request, TransportError
from worker.enterprise_manager.wire import Wire
from worker.unlinks.ports.enterprise_manager import AnswerLost, LinkNotFound, NotSent, Unavailable

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Accepted:
    """Enterprise Manager accepted the DELETE and returned a task, which is valid in this session only."""

    task: TaskRecord
    session: LogonSession


class Deletion:
    """Sends the DELETE of a link."""

    def __init__(self, wire: Wire, logon: Logon, calls: Calls, remedies: Remedies) -> None:
        self._wire = wire
        self._logon = logon
        self._calls = calls
        self._remedies = remedies

    async def send(
        self, path: str, may_send: Callable[[], Awaitable[float]], unsent: Callable[[], None] = lambda: None
    ) -> Accepted:
        """Send the DELETE. Each attempt asks `may_send` for permission.

        `unsent` is called when a permitted attempt was certainly not executed, before the wait for another one. What
        `may_send` or `unsent` raises is passed on. In that case, no attempt can have been executed.

        Raises:
            NotSent: the permission had expired when the connection was ready. No attempt can have been executed.
            Unavailable: the DELETE was certainly not executed: no connection, no session, or status 429.
            AnswerLost: the DELETE may have been executed.
            LinkNotFound: the response has status 404.
            Refused: access_denied, enterprise_manager_error.
        """
        session, answer = await self._calls.repeat(partial(self._deliver, path, may_send, unsent))
        try:
            return Accepted(read_task(await self._wire.read(answer), self._remedies.without_secrets), session)
        except DocumentError as error:
            raise AnswerLost(
                self._remedies.answered(
                    f"accepted the request (status {answer.status}), but its answer cannot be used: {error}"
                )
            ) from None

    async def _deliver(
        self, path: str, may_send: Callable[[], Awaitable[float]], unsent: Callable[[], None], attempt: int
    ) -> tuple[LogonSession, Answer]:
        """One attempt. It raises `Again` only if it was certainly not executed."""
        try:
            return await self._in_a_session(path, may_send, unsent, attempt)
        except Again:
            unsent()
            raise

    async def _in_a_session(
        self, path: str, may_send: Callable[[], Awaitable[float]], unsent: Callable[[], None], attempt: int
    ) -> tuple[LogonSession, Answer]:
        """Send it in the current session, and after a 401 once more in a new session; then check the response."""
        session = await self._logon.session()
        answer = await self._exchange(_delete(path, session), may_send, attempt)
        if answer.status == UNAUTHORIZED:
            self._logon.drop(session)
            unsent()
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
        """Return if the DELETE was accepted. An error counts as `AnswerLost` unless it was certainly not executed.

        Status 503 counts as a lost response: a proxy that stops waiting for Enterprise Manager may return it.
        """
        status = answer.status
        if status == TOO_MANY:
            judge(answer, self._remedies)
        if is_html(answer.body):
            raise AnswerLost(self._remedies.answered(f"answered the DELETE with an HTML page (status {status})"))
        if OK <= status < MULTIPLE_CHOICES:
            return
        if status == NOT_FOUND:
            self._judge_not_found(answer)
        if is_definite_no(status):
            judge(answer, self._remedies)
        raise AnswerLost(self._remedies.answered(f"answered the DELETE with status {status}"))

    def _judge_not_found(self, answer: Answer) -> NoReturn:
        """A 404 that does not come from Enterprise Manager decides nothing: a gateway may not have reached it."""
        try:
            judge(answer, self._remedies)
        except Again as error:
            raise AnswerLost(str(error)) from None
        except NotFound:
            pass
        raise LinkNotFound(self._remedies.answered("knows no such link"))


def _delete(path: str, session: LogonSession) -> Request:
    return Request("DELETE", path, headers={TOKEN_HEADER: session.token})
