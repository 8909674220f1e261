"""Compares the worker's assumptions with a real Enterprise Manager. Only reads, unless a trial is ordered.

The report contains no name, address or ID, so that it can be shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

from worker.doctor.checks import Check, Result
from worker.doctor.enterprise_manager import REQUEST_SECONDS
from worker.doctor.job_assumptions import NEED_QUERIES, JobLooks
from worker.doctor.laboratory import Laboratory
from worker.doctor.probe import AS_JSON, TROUBLE, NotSeenError, Probe, described
from worker.doctor.pseudonyms import NOBODY
from worker.doctor.recording import Recording, RecordingTransport
from worker.doctor.trial import Trial, TrialOrder
from worker.doctor.trial_checks import SHOWN_BY_A_TRIAL
from worker.enterprise_manager import paths
from worker.enterprise_manager.assumptions import Assumption
from worker.enterprise_manager.availability import Availability
from worker.enterprise_manager.calls import Calls
from worker.enterprise_manager.documents.reading import is_error, read_document, read_short_document
from worker.enterprise_manager.documents.records import read_tasks, read_versions
from worker.enterprise_manager.logon import TOKEN_HEADER, Logon
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import FORBIDDEN, NOT_FOUND, SERVICE_UNAVAILABLE, TOO_MANY, UNAUTHORIZED, Again
from worker.enterprise_manager.transport import BrokenAnswerError, Request, Transport, TransportError
from worker.enterprise_manager.wire import Wire
from worker.settings import EnterpriseManagerSettings
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import Unavailable

#: A session token that is not valid, and the ID of no task.
_NO_SESSION = "b2Ygbm8gc2Vzc2lvbg=="
_NO_TASK = "task-999999999"


class UnreachableError(Exception):
    """There is no session for the checks; the text names the remedy."""


async def examine(
    name: str,
    settings: EnterpriseManagerSettings,
    clock: Clock,
    order: TrialOrder | None = None,
    recording: Recording | None = None,
) -> AsyncIterator[Check]:
    """Make every check that needs no change. Then make the trial if one is ordered, else list what needs one.

    With a `recording`, every exchange is added to it.

    Raises:
        UnreachableError: Enterprise Manager does not answer, or refuses the logon.
        RefusedError: the ordered trial is not made; nothing was changed.
        SettingsInvalidError: the CA file cannot be used.
    """
    timeout = min(settings.request_timeout_seconds, REQUEST_SECONDS)
    settings = settings.model_copy(update={"request_timeout_seconds": timeout})
    remedies = Remedies(name, settings)
    transport = (
        Transport(settings, remedies) if recording is None else RecordingTransport(settings, remedies, recording)
    )
    wire = Wire(name, transport, clock, settings.max_requests)
    logon, other = (Logon(settings, wire, remedies, clock) for _ in range(2))
    probe = Probe(wire)
    try:
        async for check in _Examination(settings, probe, logon).checks():
            yield check
        if order is None:
            for assumption in SHOWN_BY_A_TRIAL:
                yield Check(assumption, Result.NEEDS_CHANGE)
            yield await _log_off(logon, probe)
            return
        availability = Availability(name, clock, _nothing_to_probe)
        calls = Calls(wire, logon, availability, remedies, probe.differences, clock)
        laboratory = Laboratory(calls, wire, logon, probe.differences, clock, order.limits)
        try:
            checks = await Trial(laboratory, logon, other, probe.differences).checks(order)
        finally:
            await availability.close()
        for check in checks:
            yield check
        yield await _log_off(logon, probe)
    finally:
        for each in (logon, other):
            await each.log_off()
            each.abandon()
        wire.close()


async def _nothing_to_probe() -> None:
    """Succeed: the next call of a trial shows by itself whether Enterprise Manager answers."""


async def _log_off(logon: Logon, probe: Probe) -> Check:
    """End the session of all checks, and use it once more."""
    session = logon.current
    if session is None or session.session_id is None:
        return Check(Assumption.LOG_OFF, Result.NOT_SHOWN, "there is no session whose ID is known")
    await logon.log_off()
    try:
        status = (await probe.get(paths.COLLECTIONS["Job"], None, {TOKEN_HEADER: session.token})).status
    except TransportError as error:
        return Check(Assumption.LOG_OFF, Result.NOT_SHOWN, described(error))
    if status == UNAUTHORIZED:
        return Check(Assumption.LOG_OFF, Result.CONFIRMED)
    return Check(Assumption.LOG_OFF, Result.DIFFERENT, f"then a request in it is answered with status {status}")


class _Examination:
    def __init__(self, settings: EnterpriseManagerSettings, probe: Probe, logon: Logon) -> None:
        self._settings = settings
        self._probe = probe
        self._logon = logon
        self._jobs = JobLooks(probe)

    async def checks(self) -> AsyncIterator[Check]:
        """All checks, in the order of their definition where possible."""
        yield await self._check(Assumption.FRONT_PAGE, self._front_page)
        try:
            session = await self._logon.session()
        except (Again, Unavailable) as error:
            raise UnreachableError(str(error)) from None
        self._probe.session = {TOKEN_HEADER: session.token}
        yield (
            Check(Assumption.LOGON, Result.CONFIRMED)
            if session.session_id is not None
            else Check(Assumption.LOGON, Result.DIFFERENT, "its document names no session")
        )
        for assumption, look in {
            Assumption.LOGON_REFUSED: self._refused_logon,
            Assumption.UNKNOWN_SESSION: self._unknown_session,
            Assumption.ABSENT_RESOURCE: self._absent,
            Assumption.ERROR_DOCUMENT: self._error_document,
            Assumption.QUERY_TASKS: self._query_tasks,
            Assumption.QUERY_TASKS_BY_ID: self._query_tasks_by_id,
            Assumption.UNCOMPRESSED: self._compression,
            Assumption.LINK_HOSTS: self._link_hosts,
        }.items():
            yield await self._check(assumption, look)
        role = await self._check(Assumption.ROLE, self._jobs.find)
        yield role
        async for check in self._on_jobs(may_list=role.result is Result.CONFIRMED):
            yield check
        yield await self._check(Assumption.REQUESTS_AT_ONCE, self._at_once)
        for assumption in (Assumption.PASCAL_CASE, Assumption.NO_BYTE_ORDER_MARK):
            seen = self._probe.differences.noted.get(assumption)
            yield Check(assumption, Result.CONFIRMED if seen is None else Result.DIFFERENT, seen or "")

    async def _on_jobs(self, *, may_list: bool) -> AsyncIterator[Check]:
        answers_queries = True
        for assumption, look in self._jobs.all().items():
            missing = self._jobs.missing(assumption)
            if not may_list:
                missing = "the account does not see jobs"
            elif assumption in NEED_QUERIES and not answers_queries:
                missing = "it answers no query for jobs"
            if missing is not None:
                yield Check(assumption, Result.NOT_WITH_ACCOUNT, missing)
                continue
            check = await self._check(assumption, look)
            answers_queries = answers_queries and (assumption, check.result) != (Assumption.QUERY, Result.DIFFERENT)
            yield check

    async def _check(self, assumption: Assumption, look: Callable[[], Awaitable[str | None]]) -> Check:
        """Make one check. `look` returns a description of the difference from the assumption, or None."""
        try:
            seen = await look()
        except NotSeenError as missing:
            return Check(assumption, Result.NOT_WITH_ACCOUNT, str(missing))
        except TROUBLE as error:
            seen = described(error)
        return Check(assumption, Result.CONFIRMED if seen is None else Result.DIFFERENT, seen or "")

    # --- checks that need no job --------------------------------------------------------------------------------------

    async def _front_page(self) -> str | None:
        return None if read_versions(await self._probe.read(paths.API)) else "it names no version"

    async def _refused_logon(self) -> str | None:
        # Without credentials: with wrong ones, a directory service may lock the account.
        status = (await self._probe.wire.exchange(Request("POST", paths.LOGON))).status
        return None if status == UNAUTHORIZED else f"status {status}"

    async def _unknown_session(self) -> str | None:
        status = (await self._probe.get(paths.COLLECTIONS["Job"], None, {TOKEN_HEADER: _NO_SESSION})).status
        return None if status == UNAUTHORIZED else f"status {status}"

    async def _absent(self) -> str | None:
        statuses = {}
        for kind, path in (("job", paths.job(NOBODY)), ("task", paths.task(_NO_TASK))):
            statuses[kind] = (await self._probe.get(path)).status
        as_expected = {NOT_FOUND, FORBIDDEN}  # an account that may not see jobs gets 403
        others = [f"status {status} for a {kind}" for kind, status in statuses.items() if status not in as_expected]
        return ", ".join(others) or None

    async def _error_document(self) -> str | None:
        answer = await self._probe.get(paths.job(NOBODY))
        document = read_short_document(answer.body)
        if document is not None and is_error(document):
            return None
        return f"status {answer.status} with " + ("another document" if answer.body else "no document")

    async def _query_tasks(self) -> str | None:
        read_tasks(await self._probe.read(paths.QUERY, {"type": "Task", "filter": "State!=Finished", "pageSize": "1"}))
        return None

    async def _query_tasks_by_id(self) -> str | None:
        query = {"type": "Task", "filter": f'TaskId=="{_NO_TASK}"', "pageSize": "1"}
        return "it ignores a filter on TaskId" if read_tasks(await self._probe.read(paths.QUERY, query)).tasks else None

    async def _compression(self) -> str | None:
        try:
            await self._probe.get(paths.API, None, {"Accept-Encoding": "gzip"})
        except BrokenAnswerError:
            return "it is compressed where the request allows it; the worker's requests do not"
        return None

    async def _link_hosts(self) -> str | None:
        answer = await self._probe.get(paths.API, None, AS_JSON)
        hrefs = [link.value("href") or "" for link in read_document(answer.body).records("rel")]
        if not hrefs:
            raise NotSeenError("GET /api/ holds no links")
        own = urlsplit(self._settings.url).netloc.lower()
        return "links carry the host that was asked" if urlsplit(hrefs[0]).netloc.lower() == own else None

    async def _at_once(self) -> str | None:
        count = self._settings.max_requests
        answers = await asyncio.gather(*(self._probe.get(paths.API) for _ in range(count)))
        away = [answer for answer in answers if answer.status in {TOO_MANY, SERVICE_UNAVAILABLE}]
        if not away:
            return None
        asked = away[0].headers.get("Retry-After")
        after = "without Retry-After"
        if asked is not None:
            after = f"with Retry-After {asked}" if asked.isdecimal() else "with a Retry-After that is no number"
        return f"of {count} requests at once {len(away)} were answered with status {away[0].status}, {after}"
