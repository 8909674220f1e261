"""Sends the doctor's requests in a separate session, and collects the differences that are seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.enterprise_manager.assumptions import Assumption
from worker.enterprise_manager.differences import Differences
from worker.enterprise_manager.documents.reading import BYTE_ORDER_MARK
from worker.enterprise_manager.documents.tree import DocumentError, Node
from worker.enterprise_manager.responses import MULTIPLE_CHOICES, OK
from worker.enterprise_manager.transport import Answer, Request, TransportError
from worker.enterprise_manager.wire import Wire

#: The header that requests JSON, whatever format the worker's setting names.
AS_JSON = {"Accept": "application/json"}


class StatusError(Exception):
    """The status of the response is not 200; the text contains the status only."""


class NotSeenError(Exception):
    """The account sees nothing on which the check can be made; the text says what is missing."""


#: The exceptions that a request, or reading its response, may raise.
TROUBLE = (TransportError, StatusError, DocumentError)


def described(error: Exception) -> str:
    """A description of one of `TROUBLE`, without text from the server, which may contain names and addresses."""
    return "no complete answer" if isinstance(error, TransportError) else str(error).partition(":")[0]


class Noted(Differences):
    """Remembers differences instead of logging them."""

    def __init__(self) -> None:
        super().__init__("")
        self.noted: dict[Assumption, str] = {}

    def report(self, assumption: Assumption, seen: str) -> None:
        """Remember the first difference from each assumption."""
        self.noted.setdefault(assumption, seen)


@dataclass(slots=True)
class Probe:
    """Sends requests to one Enterprise Manager. Set `session` to the session's header after the logon."""

    wire: Wire
    session: Mapping[str, str] = field(default_factory=dict)
    differences: Noted = field(default_factory=Noted)

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The response, whatever its status. Raises `TransportError` if there is none."""
        answer = await self.wire.exchange(Request("GET", path, query or {}, {**self.session, **(headers or {})}))
        self.differences.look_at_body(answer.body)
        return answer

    async def read(self, path: str, query: Mapping[str, str] | None = None) -> Node:
        """The document. Raises one of `TROUBLE`."""
        answer = await self.get(path, query)
        _require_success(answer)
        return await self.wire.read(answer)

    async def json(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The document as JSON. Raises one of `TROUBLE`, and `NotSeenError` if it is not in JSON."""
        answer = await self.get(path, query, AS_JSON)
        _require_success(answer)
        await self.wire.read(answer)  # raises if the body is no document
        try:
            return json.loads(answer.body.removeprefix(BYTE_ORDER_MARK))
        except ValueError:
            raise NotSeenError("it does not answer in JSON") from None


def _require_success(answer: Answer) -> None:
    if not OK <= answer.status < MULTIPLE_CHOICES:
        raise StatusError(f"status {answer.status}")
