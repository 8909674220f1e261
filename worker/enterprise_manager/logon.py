"""One logon session, shared by all requests to one Enterprise Manager.

A session expires after 15 idle minutes; every request is then answered with 401 (vendor, "Authentication"). The call
that receives the 401 drops the session. The next one logs on, and concurrent calls share that logon and its result.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import uuid
from dataclasses import dataclass, field

import structlog

from worker.enterprise_manager import paths
from worker.enterprise_manager.documents.reading import read_short_document
from worker.enterprise_manager.documents.records import read_session_id
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import FORBIDDEN, UNAUTHORIZED, Again, NotFound, judge, server_message
from worker.enterprise_manager.transport import Answer, Request, TransportError
from worker.enterprise_manager.wire import Wire
from worker.settings import EnterpriseManagerSettings
from worker.unlinks.back_off import BackOff
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import Refused, Unavailable

TOKEN_HEADER = "X-RestSvcSessionId"  # noqa: S105 - the name of the header, not a token

#: The wait after the first refused password, in seconds. Each further refusal doubles it, because a directory service
#: may lock the account.
FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 1800.0

#: A session that was idle for this long, in seconds, is replaced before it is used. It would expire after 15 minutes.
RENEWED_AFTER_SECONDS = 14 * 60.0

#: How long a log-off may take, in seconds. It is short because the process is about to end.
LOG_OFF_SECONDS = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LogonSession:
    """A session. `name` is generated here and not secret. `session_id` is for the log-off; a server may omit it."""

    name: str
    token: str = field(repr=False)
    session_id: str | None = field(repr=False)


class Logon:
    """The current session, created when it is needed."""

    def __init__(self, settings: EnterpriseManagerSettings, wire: Wire, remedies: Remedies, clock: Clock) -> None:
        self._settings = settings
        self._wire = wire
        self._remedies = remedies
        self._clock = clock
        self._current: LogonSession | None = None
        self._used_at = 0.0
        self._logging_on: asyncio.Task[LogonSession] | None = None
        self._refusals = 0
        # Jitter never shortens the wait: a directory may lock the account.
        self._back_off = BackOff(
            clock, FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, jitter=lambda wait: wait + clock.jitter(wait) / 4
        )
        self._refused_until = 0.0
        self._refusal = ""

    @property
    def current(self) -> LogonSession | None:
        """The current session, if there is one."""
        return self._current

    async def session(self) -> LogonSession:
        """The current session, or a new one. Concurrent callers share one logon.

        Raises:
            Again: the logon failed, and may be tried again soon.
            Unavailable: the logon was refused, now or earlier, and the wait before the next attempt is not over.
        """
        if self._current is not None and self._clock.monotonic() - self._used_at < RENEWED_AFTER_SECONDS:
            return self._current
        self._current = None
        if self._logging_on is None:
            # The task gets its own context: it serves all unlinks, so its log lines must not have one unlink's fields.
            self._logging_on = asyncio.create_task(
                self._log_on(), name="log on to Enterprise Manager", context=contextvars.Context()
            )
            self._logging_on.add_done_callback(self._logged_on)
        # Shielded: the cancellation of one caller must not cancel the logon of the others.
        return await asyncio.shield(self._logging_on)

    def used(self, session: LogonSession) -> None:
        """Restart the session's idle time, after Enterprise Manager has answered in it."""
        if self._current is session:
            self._used_at = self._clock.monotonic()

    def drop(self, session: LogonSession) -> None:
        """Forget a session after a 401, unless it was already replaced."""
        if self._current is session:
            log.info("enterprise_manager.session_lost", enterprise_manager=self._wire.name, session=session.name)
            self._current = None

    def abandon(self) -> None:
        """Stop a logon under way. A session that it created expires after its idle time."""
        if self._logging_on is not None:
            self._logging_on.cancel()

    async def log_off(self) -> None:
        """End the current session, if any, within `LOG_OFF_SECONDS`. Never raises, never ends another session."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOG_OFF_SECONDS):
                if self._logging_on is not None:
                    await asyncio.wait([self._logging_on])
                await self._end_session()

    async def _end_session(self) -> None:
        session, self._current = self._current, None
        if session is None or session.session_id is None:
            return
        request = Request(
            "DELETE",
            paths.logon_session(session.session_id),
            headers={TOKEN_HEADER: session.token},
            timeout=LOG_OFF_SECONDS,
        )
        try:
            answer = await self._wire.exchange(request)
        except TransportError as error:
            log.warning("enterprise_manager.log_off_failed", enterprise_manager=self._wire.name, problem=str(error))
            return
        log.info("enterprise_manager.logged_off", enterprise_manager=self._wire.name, status=answer.status)

    def _logged_on(self, task: asyncio.Task[LogonSession]) -> None:
        self._logging_on = None
        if not task.cancelled() and task.exception() is None:
            self._current = task.result()
            self._used_at = self._clock.monotonic()

    async def _log_on(self) -> LogonSession:
        if self._clock.monotonic() < self._refused_until:
            raise Unavailable(self._refusal)
        request = Request(
            "POST",
            paths.LOGON,
            query={"v": "latest"},
            headers={"Authorization": "Basic " + self._settings.basic_credentials},
        )
        try:
            answer = await self._wire.exchange(request)
        except TransportError as error:
            raise Again(str(error)) from None
        session = self._read(answer)
        self._refusals = 0
        self._back_off.reset()
        log.info("enterprise_manager.logged_on", enterprise_manager=self._wire.name, session=session.name)
        return session

    def _read(self, answer: Answer) -> LogonSession:
        if answer.status == UNAUTHORIZED:
            self._refuse(self._remedies.refused_logon())
        if answer.status == FORBIDDEN:
            self._refuse(self._remedies.forbidden_logon(server_message(answer, self._remedies)))
        try:
            judge(answer, self._remedies)
        except (NotFound, Refused) as error:
            raise Again(self._remedies.no_logon(str(error))) from None
        token = answer.headers.get(TOKEN_HEADER, "").strip()
        if not token.isascii() or not token.isprintable() or not token:
            raise Again(self._remedies.not_enterprise_manager(f"its logon gave no {TOKEN_HEADER}"))
        self._remedies.keep_secret(token)
        return LogonSession(uuid.uuid4().hex, token, _session_id(answer))

    def _refuse(self, problem: str) -> None:
        self._refusals += 1
        wait = self._back_off.pause()
        self._refused_until = self._clock.monotonic() + wait
        self._refusal = problem
        log.error(
            "enterprise_manager.logon_refused",
            enterprise_manager=self._wire.name,
            problem=problem,
            attempt=self._refusals,
            next_try_seconds=round(wait),
        )
        raise Unavailable(problem)


def _session_id(answer: Answer) -> str | None:
    document = read_short_document(answer.body)
    return None if document is None else read_session_id(document)
