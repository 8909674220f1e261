"""The probe: whether Enterprise Manager answers and accepts the logon. It asks for no more than it needs."""

from __future__ import annotations

from worker.enterprise_manager import paths
from worker.enterprise_manager.logon import TOKEN_HEADER, Logon, LogonSession
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.responses import (
    SERVER_ERROR,
    TOO_MANY,
    UNAUTHORIZED,
    Again,
    NotFound,
    Unauthorized,
    judge,
)
from worker.enterprise_manager.transport import Request, TransportError
from worker.enterprise_manager.wire import Wire
from worker.unlinks.ports.enterprise_manager import Refused, Unavailable


async def probe(wire: Wire, logon: Logon, remedies: Remedies) -> None:
    """Log on, or, while there is a session, send a request.

    A logon proves that the server is Enterprise Manager. The content of `GET /api/` does not matter.

    Raises:
        Unavailable: Enterprise Manager does not accept the logon, or does not answer.
    """
    before = logon.current
    try:
        session = await logon.session()
        if session is before:
            await _probe_in(session, wire, logon, remedies)
    except (NotFound, Refused):
        pass  # these errors are responses of Enterprise Manager too
    except (TransportError, Again, Unauthorized) as error:
        raise Unavailable(str(error)) from None


async def _probe_in(session: LogonSession, wire: Wire, logon: Logon, remedies: Remedies) -> None:
    answer = await wire.exchange(Request("GET", paths.API))
    try:
        judge(answer, remedies)
    except Again:
        if answer.status >= SERVER_ERROR or answer.status == TOO_MANY or session.session_id is None:
            raise
    else:
        return
    # A proxy may serve a page of its own at `GET /api/`. An answer in the session is as good a proof as a logon.
    own = Request("GET", paths.logon_session(session.session_id), headers={TOKEN_HEADER: session.token})
    answer = await wire.exchange(own)
    if answer.status == UNAUTHORIZED:
        logon.drop(session)
    judge(answer, remedies)
