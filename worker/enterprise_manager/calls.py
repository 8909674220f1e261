"""Requests that may be repeated: every GET, and the DELETE of a task. `deletion` has the request that changes a job."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TypeVar

from worker.enterprise_manager.availability import Availability
from worker.enterprise_manager.differences import Differences
from worker.enterprise_manager.documents.records import read_paging
from worker.enterprise_manager.documents.tree import Node, UnexpectedDocumentError, UnreadableDocumentError
from worker.enterprise_manager.logon import TOKEN_HEADER, Logon, LogonSession
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import UNAUTHORIZED, Again, NotFound, Unauthorized, judge
from worker.enterprise_manager.retries import retry
from worker.enterprise_manager.transport import Answer, Request, TransportError
from worker.enterprise_manager.wire import Wire
from worker.frames import without_frames
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import Refused, Unavailable

#: The largest number of pages of a list, and how often all pages are read while the list changes.
MOST_PAGES = 50
MOST_READS = 5

_T = TypeVar("_T")


class ListTooLongError(UnexpectedDocumentError):
    """The list has more than `MOST_PAGES` pages."""


class Calls:
    """Sends requests in a logon session, and repeats a request that failed temporarily."""

    def __init__(
        self,
        wire: Wire,
        logon: Logon,
        availability: Availability,
        remedies: Remedies,
        differences: Differences,
        clock: Clock,
    ) -> None:
        self._wire = wire
        self._logon = logon
        self._availability = availability
        self._remedies = remedies
        self._differences = differences
        self._clock = clock
        self._low_priority = False

    @cached_property
    def low_priority(self) -> Calls:
        """A copy of this object whose requests are sent after those of unlinks under way."""
        calls = copy.copy(self)
        calls._low_priority = True  # noqa: SLF001 - of the same class
        return calls

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, session: LogonSession | None = None
    ) -> Node:
        """The document at `path`, read in the given session only; without one, in the current session.

        Raises:
            NotFound: 404.
            Unauthorized: the given session has ended. The next call without a session logs on again.
            Refused: access_denied, enterprise_manager_error.
            Unavailable: all attempts failed.
        """
        return await self.repeat(partial(self._document, Request("GET", path, query or {}), session))

    async def get_list(self, path: str, query: Mapping[str, str], read: Callable[[Node], Sequence[_T]]) -> list[_T]:
        """The members of the list at `path`, each once; `read` is given one page after the other.

        Between the requests for two pages, a member may move to a page that was already read. A list of several pages
        is therefore read until two consecutive reads return the same members: then no member was missed.

        Raises:
            ListTooLongError: it has too many pages.
            NotFound, Refused, Unavailable: as for `get`.

        What `read` raises is passed on.
        """
        before: list[Sequence[_T]] | None = None
        for _ in range(MOST_READS):
            pages = await self._pages(path, query, read)
            if pages is not None and (len(pages) == 1 or pages == before):
                return list(dict.fromkeys(member for page in pages for member in page))
            before = pages
        problem = self._remedies.answered(
            "answers with other pages of a list than asked for, or changes it all the time"
        )
        raise self.unavailable(Again(problem, everywhere=False))

    async def _pages(
        self, path: str, query: Mapping[str, str], read: Callable[[Node], Sequence[_T]]
    ) -> list[Sequence[_T]] | None:
        """The pages of one read; None if the server returned another page than the requested one."""
        first = await self.get(path, query)
        count = read_paging(first).pages
        if count > MOST_PAGES:
            raise ListTooLongError(f"it has {count} pages; at most {MOST_PAGES} are read")
        pages = [read(first)]
        del first  # one page may take 50 MB
        for number in range(2, count + 1):
            page = await self.get(path, {**query, "page": str(number)})
            if read_paging(page).number != number:
                return None
            pages.append(read(page))
            del page
        return pages

    async def ask_in(self, session: LogonSession, path: str, query: Mapping[str, str]) -> Node | None:
        """The document, read in that session; None if the server refuses this request but may answer others.

        Raises:
            Unavailable, Unauthorized: as `get`.
        """
        try:
            return await self._repeat(partial(self._document, Request("GET", path, query), session))
        except (NotFound, Refused):
            return None
        except (Again, Unavailable) as error:
            if isinstance(error, Again) and not error.everywhere:
                return None
            raise self.unavailable(error) from None

    async def get_once(self, path: str, query: Mapping[str, str]) -> Node | None:
        """The document at `path`, by one attempt; None if that fails. A failure is not reported to `Availability`."""
        try:
            self._availability.require_up()
            return await self._document(Request("GET", path, query), None, 1)
        except (NotFound, Refused, Again, Unavailable):
            return None

    async def delete_in(self, session: LogonSession, path: str) -> None:
        """Delete the resource at `path`, in that session. The DELETE may be sent several times. Raises as `get`."""
        await self.repeat(partial(self._in_session, Request("DELETE", path), session))

    async def delete_once(self, session: LogonSession, path: str) -> bool:
        """Delete the resource at `path`, in that session, by one request. Return whether it is gone.

        A failure is not reported to `Availability`.

        Raises:
            Unauthorized: the session has ended.
        """
        try:
            await self._in_session(Request("DELETE", path), session, 1)
        except NotFound:
            return True
        except (Again, Refused):
            return False
        return True

    async def repeat(self, once: Callable[[int], Awaitable[_T]]) -> _T:
        """Call `once` with the attempt's number until it does not raise `Again`, at most `retries.ATTEMPTS` times.

        Raises:
            Unavailable: all attempts failed; or Enterprise Manager is known to be down, and no attempt was made.
        """
        try:
            return await self._repeat(once)
        except (Again, Unavailable) as error:
            raise self.unavailable(error) from None

    async def _repeat(self, once: Callable[[int], Awaitable[_T]]) -> _T:
        self._availability.require_up()
        try:
            result = await once(1)
        except Again as error:
            result = await retry(once, without_frames(error), self._clock)  # most requests need one attempt only
        self._availability.went_right()
        return result

    def unavailable(self, error: Again | Unavailable) -> Unavailable:
        """Report the error to `Availability`, and return the error that the caller is to raise."""
        everywhere = error.everywhere if isinstance(error, Again) else True
        self._availability.went_wrong(str(error), everywhere=everywhere)
        return Unavailable(str(error))

    async def _in_present_session(self, request: Request, attempt: int) -> Answer:
        try:
            return await self._in_session(request, await self._logon.session(), attempt)
        except Unauthorized:
            session = await self._logon.session()
        try:
            return await self._in_session(request, session, attempt)
        except Unauthorized as error:
            raise Unavailable(str(error)) from None

    async def _in_session(self, request: Request, session: LogonSession, attempt: int) -> Answer:
        signed = Request(request.method, request.path, request.query, {TOKEN_HEADER: session.token})
        try:
            answer = await self._wire.exchange(signed, attempt=attempt, low_priority=self._low_priority)
        except TransportError as error:
            raise Again(str(error)) from None
        if answer.status == UNAUTHORIZED:
            self._logon.drop(session)
        else:
            self._logon.used(session)
        judge(answer, self._remedies)
        return answer

    async def _document(self, request: Request, session: LogonSession | None, attempt: int) -> Node:
        if session is None:
            answer = await self._in_present_session(request, attempt)
        else:
            answer = await self._in_session(request, session, attempt)
        try:
            document = await self._wire.read(answer)
        except UnreadableDocumentError as error:
            problem = self._remedies.answered(f"sent an answer that cannot be read: {error}")
            raise Again(problem, everywhere=False) from None
        self._differences.look_at_body(answer.body)
        return document
