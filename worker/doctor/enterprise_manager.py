"""Examines one Enterprise Manager: TLS, logon, role. It logs on once, so that a wrong password is sent only once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from worker.doctor.certificates import ShownCertificate, shown_by
from worker.doctor.findings import Finding, doubtful, good, wrong
from worker.enterprise_manager import paths
from worker.enterprise_manager.documents.records import read_tasks, read_versions
from worker.enterprise_manager.documents.tree import DocumentError, Node
from worker.enterprise_manager.logon import TOKEN_HEADER, Logon
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import Again, NotFound, Unauthorized, judge
from worker.enterprise_manager.transport import Request, Transport, TransportError
from worker.enterprise_manager.wire import Wire
from worker.settings import EnterpriseManagerSettings
from worker.unlinks.ports.clock import Clock
from worker.unlinks.ports.enterprise_manager import Refused, Unavailable

#: A certificate that expires within this many days is a finding.
DAYS_OF_NOTICE = 30

#: How long one request may take here, in seconds, whatever the worker's setting is.
REQUEST_SECONDS = 8.0

_TROUBLE = (TransportError, Again, NotFound, Unauthorized, Refused, Unavailable, DocumentError)


async def examine(name: str, settings: EnterpriseManagerSettings, clock: Clock) -> AsyncIterator[Finding]:
    """Connect, log on, read resources that any account may read, and log off.

    Raises:
        SettingsInvalidError: the CA file cannot be used.
    """
    timeout = min(settings.request_timeout_seconds, REQUEST_SECONDS)
    settings = settings.model_copy(update={"request_timeout_seconds": timeout})
    remedies = Remedies(name, settings)
    wire = Wire(name, Transport(settings, remedies), clock, 1)
    logon = Logon(settings, wire, remedies, clock)
    try:
        async for finding in _Examination(settings, remedies, wire, logon, clock).findings():
            yield finding
    finally:
        await logon.log_off()
        logon.abandon()
        wire.close()


class _Examination:
    def __init__(
        self, settings: EnterpriseManagerSettings, remedies: Remedies, wire: Wire, logon: Logon, clock: Clock
    ) -> None:
        self._settings = settings
        self._remedies = remedies
        self._wire = wire
        self._logon = logon
        self._clock = clock

    async def findings(self) -> AsyncIterator[Finding]:
        """Check from the connection to the role; stop where the next check cannot succeed."""
        odd: str | None = None
        try:
            versions = read_versions(await self._ask(Request("GET", paths.API)))
        except TransportError as error:
            yield wrong("reachable", str(error))
            return
        except _TROUBLE as error:
            odd = str(error)
        else:
            yield good("reachable", f"{self._settings.url}, API {', '.join(versions) or 'of an unnamed version'}")
            yield await self._tls()
        try:
            token = (await self._logon.session()).token
        except _TROUBLE as error:
            yield wrong("logon", str(error)) if odd is None else wrong("reachable", odd)
            return
        if odd is not None:
            yield doubtful("reachable", f"at its first page, {odd}", "the logon works, and the worker needs no more")
            yield await self._tls()
        yield good("logon", f"as {self._settings.username}")
        yield await self._role({TOKEN_HEADER: token})
        yield await self._queries({TOKEN_HEADER: token})

    async def _ask(self, request: Request) -> Node:
        answer = await self._wire.exchange(request)
        judge(answer, self._remedies)
        return await self._wire.read(answer)

    async def _role(self, session: Mapping[str, str]) -> Finding:
        try:
            await self._ask(Request("GET", paths.COLLECTIONS["Job"], {"pageSize": "1"}, session))
        except _TROUBLE as error:
            return wrong("role", str(error))
        return good(
            "role",
            "may see jobs; whether it may edit them, as a Portal Administrator may, cannot be checked without an edit",
        )

    async def _queries(self, session: Mapping[str, str]) -> Finding:
        query = {"type": "Task", "filter": "State!=Finished", "pageSize": "1"}
        try:
            read_tasks(await self._ask(Request("GET", paths.QUERY, query, session)))
        except _TROUBLE:
            return doubtful("queries", "it does not answer a query for tasks: the worker reads each task by itself")
        return good("queries", "answered: many tasks are followed by one request")

    # --- TLS ----------------------------------------------------------------------------------------------------------

    async def _tls(self) -> Finding:
        if not self._settings.url.startswith("https:"):
            return doubtful("TLS", "none: the password travels in the clear", "use https:// and port 9398")
        if not self._settings.verify_tls:
            remedy = f"set {self._remedies.variable('CERT_SHA256')}; doctor --show-certificate prints it"
            return doubtful("TLS", "not verified: the password is sent to any server that answers", remedy)
        known_by = " and ".join(
            how
            for how, so in (
                ("its pinned fingerprint", self._settings.cert_sha256 is not None),
                ("the CA file", self._settings.ca_file is not None),
            )
            if so
        )
        try:
            certificate = await asyncio.to_thread(shown_by, self._settings.url)
        except OSError:
            return good("TLS", f"verified by {known_by or 'the CAs of this system'}")
        return self._dated(f"verified by {known_by or 'the CAs of this system'}", certificate)

    def _dated(self, verified: str, certificate: ShownCertificate) -> Finding:
        if certificate.not_after is None:
            return good("TLS", verified)
        days = (certificate.not_after - self._clock.now()).days
        seen = f"{verified}; the certificate is valid until {certificate.not_after:%Y-%m-%d}"
        if days < DAYS_OF_NOTICE:
            return doubtful("TLS", seen, "renew it in Enterprise Manager, and then the pin or the CA file here")
        return good("TLS", seen)
