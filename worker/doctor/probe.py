"""Requests of the doctor in a session of its own, and what was seen on the way."""

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

#: In a request's headers: the answer is to be in JSON, whatever the worker's setting is.
AS_JSON = {"Accept": "application/json"}


class StatusError(Exception):
    """Answered with another status than 200; the text names the status alone."""


class NotSeenError(Exception):
    """The account sees nothing that the check could be made on; the text says what is missing."""


#: What a request or its answer may raise.
TROUBLE = (TransportError, StatusError, DocumentError)


def described(error: Exception) -> str:
    """One of `TROUBLE` in words of our own: the server's may hold names and addresses."""
    return "no complete answer" if isinstance(error, TransportError) else str(error).partition(":")[0]


class Noted(Differences):
    """Remembers differences instead of logging them."""

    def __init__(self) -> None:
        super().__init__("")
        self.noted: dict[Assumption, str] = {}

    def report(self, assumption: Assumption, seen: str) -> None:
        """Remember the first that was seen."""
        self.noted.setdefault(assumption, seen)


@dataclass(slots=True)
class Probe:
    """Asks one Enterprise Manager; `session` is the header of its session, once there is one."""

    wire: Wire
    session: Mapping[str, str] = field(default_factory=dict)
    differences: Noted = field(default_factory=Noted)

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer, whatever its status. Raises `TransportError` if there is none."""
        answer = await self.wire.exchange(Request("GET", path, query or {}, {**self.session, **(headers or {})}))
        self.differences.look_at_body(answer.body)
        return answer

    async def read(self, path: str, query: Mapping[str, str] | None = None) -> Node:
        """The document. Raises one of `TROUBLE`."""
        answer = await self.get(path, query)
        _require_success(answer)
        return await self.wire.read(answer)

    async def json(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The document as JSON. Raises one of `TROUBLE`, and `NotSeenError` where it is not in JSON."""
        answer = await self.get(path, query, AS_JSON)
        _require_success(answer)
        await self.wire.read(answer)  # raises where it is no document
        try:
            return json.loads(answer.body.removeprefix(BYTE_ORDER_MARK))
        except ValueError:
            raise NotSeenError("it does not answer in JSON") from None


def _require_success(answer: Answer) -> None:
    if not OK <= answer.status < MULTIPLE_CHOICES:
        raise StatusError(f"status {answer.status}")
