"""Requests that may be repeated: every GET, and the end of a task. What changes a job is in `deletion`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import tenacity

from worker.enterprise_manager.documents.tree import UnreadableDocumentError
from worker.enterprise_manager.logon import TOKEN_HEADER
from worker.enterprise_manager.responses import UNAUTHORIZED, Again, NotFound, Unauthorized, judge
from worker.enterprise_manager.transport import Request, TransportError
from worker.unlinks.ports.enterprise_manager import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.enterprise_manager.availability import Availability
    from worker.enterprise_manager.documents.tree import Node
    from worker.enterprise_manager.logon import Logon, LogonSession
    from worker.enterprise_manager.remedies import Remedies
    from worker.enterprise_manager.transport import Answer
    from worker.enterprise_manager.wire import Wire
    from worker.unlinks.ports.clock import Clock

#: How often a request is sent in all, before it counts as not available.
ATTEMPTS = 3

#: The first pause between two attempts, in seconds, before jitter; doubled by each further one.
FIRST_PAUSE = 0.5


class Calls:
    """Requests with a session, repeated a few times where that helps."""

    def __init__(self, wire: Wire, logon: Logon, availability: Availability, remedies: Remedies, clock: Clock) -> None:
        self._wire = wire
        self._logon = logon
        self._availability = availability
        self._remedies = remedies
        self._clock = clock
        self._patient = False

    @property
    def patiently(self) -> Calls:
        """The same, for what may wait until all that others have begun is done."""
        patient = copy.copy(self)
        patient._patient = True  # noqa: SLF001 - it is one of us
        return patient

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Node:
        """The document at `path`, in whichever session is the present one.

        Raises:
            NotFound: 404.
            Refused: access_denied, enterprise_manager_error.
            Unavailable: after a few attempts.
        """
        request = Request("GET", path, query or {})
        try:
            async for attempt in self.attempts():
                with attempt:
                    answer = await self._in_present_session(request, attempt.retry_state.attempt_number)
                    document = await self._document(answer)
        except (Again, Unavailable) as error:
            raise self.unavailable(error) from None
        self._availability.went_right()
        return document

    async def get_in(self, session: LogonSession, path: str) -> Node:
        """The document at `path`, in that session and no other.

        Raises:
            NotFound, Refused, Unavailable: as `get`.
            Unauthorized: the session is gone. The next call makes another.
        """
        request = Request("GET", path)
        try:
            async for attempt in self.attempts():
                with attempt:
                    answer = await self._in_session(session, request, attempt.retry_state.attempt_number)
                    document = await self._document(answer)
        except (Again, Unavailable) as error:
            raise self.unavailable(error) from None
        self._availability.went_right()
        return document

    async def ask_in(self, session: LogonSession, path: str, query: Mapping[str, str]) -> Node | None:
        """The document, in that session; None where this very question is not answered, as others may be.

        Raises:
            Unavailable, Unauthorized: as `get_in`.
        """
        request = Request("GET", path, query)
        try:
            async for attempt in self.attempts():
                with attempt:
                    answer = await self._in_session(session, request, attempt.retry_state.attempt_number)
                    document = await self._document(answer)
        except (NotFound, Refused):
            return None
        except (Again, Unavailable) as error:
            if isinstance(error, Again) and not error.everywhere:
                return None
            raise self.unavailable(error) from None
        self._availability.went_right()
        return document

    async def delete_in(self, session: LogonSession, path: str) -> None:
        """Delete what is at `path`, in that session: for what may be deleted twice. Raises as `get_in`."""
        request = Request("DELETE", path)
        try:
            async for attempt in self.attempts():
                with attempt:
                    await self._in_session(session, request, attempt.retry_state.attempt_number)
        except (Again, Unavailable) as error:
            raise self.unavailable(error) from None
        self._availability.went_right()

    def attempts(self) -> tenacity.AsyncRetrying:
        """A few attempts, repeated on `Again`, which is raised if the last one fails too.

        Raises:
            Unavailable: Enterprise Manager is known to be down; no attempt is made.
        """
        self._availability.require_up()
        return tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=self._pause,
            retry=tenacity.retry_if_exception_type(Again),
            sleep=self._clock.sleep,
            reraise=True,
        )

    def unavailable(self, error: Again | Unavailable) -> Unavailable:
        """The error to raise to the caller, after telling the availability of it."""
        everywhere = error.everywhere if isinstance(error, Again) else True
        self._availability.went_wrong(str(error), everywhere=everywhere)
        return Unavailable(str(error))

    async def _in_present_session(self, request: Request, attempt: int) -> Answer:
        session = await self._logon.session()
        try:
            return await self._in_session(session, request, attempt)
        except Unauthorized:
            session = await self._logon.session()
        try:
            return await self._in_session(session, request, attempt)
        except Unauthorized as error:
            raise Unavailable(str(error)) from None

    async def _in_session(self, session: LogonSession, request: Request, attempt: int) -> Answer:
        signed = Request(request.method, request.path, request.query, {TOKEN_HEADER: session.token})
        try:
            answer = await self._wire.exchange(signed, attempt=attempt, patient=self._patient)
        except TransportError as error:
            raise Again(str(error)) from None
        if answer.status == UNAUTHORIZED:
            self._logon.drop(session)
        else:
            self._logon.used(session)
        judge(answer, self._remedies)
        return answer

    async def _document(self, answer: Answer) -> Node:
        try:
            return await self._wire.read(answer)
        except UnreadableDocumentError as error:
            problem = self._remedies.answered(f"sent an answer that cannot be read: {error}")
            raise Again(problem, everywhere=False) from None

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked_for = error.retry_after if isinstance(error, Again) else 0.0
        return max(asked_for, self._clock.jitter(FIRST_PAUSE * 2 ** (state.attempt_number - 1)))
