"""An event as a tool receives it, or as the ledger stores it.

Whoever may publish to `unlink.events` may publish anything there. `event_in` is the only reader: what it returns has
the types that the tools rely on, so that no message ends a tool.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from contracts.batches import BATCH_ENDED
from contracts.commands import Run
from contracts.events import Outcome
from worker.broker.written_time import read_moment

#: The header of an event that a worker published as the ledger had it: its run had ended before.
FROM_LEDGER_HEADER = "unlink-from-ledger"


_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class NoEventError(ValueError):
    """The message is no event of a worker."""


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event from the exchange: its bytes and its parsed content.

    `from_ledger`: its header says that it was published as the ledger had it.
    """

    body: bytes
    content: dict[str, Any]
    from_ledger: bool = False

    @property
    def line(self) -> str:
        """The event as it was published, on one line."""
        return self.body.decode().replace("\r", " ").replace("\n", " ")

    @property
    def id(self) -> str:
        """The CloudEvent's ID."""
        return str(self.content["id"])

    @property
    def key(self) -> str | None:
        """The idempotency key of the command that it is about."""
        subject: str | None = self.content.get("subject")
        return subject

    @property
    def outcome(self) -> str:
        """The outcome, such as `succeeded`; a value of `contracts.events.Outcome`, or a later version's."""
        return str(self.content["data"]["outcome"])

    @property
    def known_outcome(self) -> Outcome | None:
        """The outcome; None for one that this version does not know. The terminal outcomes are a closed set."""
        return _OUTCOMES.get(self.outcome)

    @property
    def run(self) -> int | None:
        """The run of the command; None if nothing was run, or if a version without runs stored the event."""
        run: int | None = self.data.get("run")
        return run

    @property
    def made_at(self) -> datetime:
        """When the event was created: the CloudEvent's `time`."""
        moment = read_moment(self.content["time"])
        if moment is None:
            raise AssertionError("read by `event_in`")
        return moment

    @property
    def data(self) -> dict[str, Any]:
        """The event's `data`."""
        data: dict[str, Any] = self.content["data"]
        return data


def event_in(body: bytes, headers: Mapping[str, object] | None = None) -> ReceivedEvent | None:
    """The event about a command that a message contains; None for an event about a batch.

    It is not validated against the contract: events of a newer worker may have more fields, and those of an older one
    fewer. A lone surrogate, which no output can encode, becomes a question mark.

    Raises:
        NoEventError: the message is no event of a worker.
    """
    try:
        text = body.decode()
        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text.lower():
            content = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
        if isinstance(content, dict) and content.get("type") == BATCH_ENDED:
            return None
        _Envelope.model_validate(content)
        if content["type"] != f"unlink.{content['data']['outcome']}.v1" or read_moment(content["time"]) is None:
            raise NoEventError
    except (ValueError, RecursionError) as error:  # also of pydantic, and of UTF-8
        raise NoEventError from error
    return ReceivedEvent(body, content, bool(headers and headers.get(FROM_LEDGER_HEADER)))


def _refuse_constant(name: str) -> NoReturn:
    raise NoEventError(name)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):  # the console could not repeat it
        raise NoEventError(number)
    return value


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Named(_Part):
    """A job, a repository or a linked backup."""

    id: str | None = None
    link_id: str | None = None
    uid: str | None = None
    name: str | None = None


class _Ticket(_Part):
    id: str


class _Task(_Part):
    id: str
    message: str | None = None


class _Reason(_Part):
    code: str
    message: str


class _Data(_Part):
    """What the tools read of an event's data, with the types of the contract."""

    outcome: str
    enterprise_manager: str
    run: Run | None = None
    changed: bool | None = None
    evidence: str | None = None
    verified: bool | None = None
    job: _Named | None = None
    repository: _Named | None = None
    linked_backups_removed: list[_Named] | None = None
    task: _Task | None = None
    reason: _Reason | None = None
    ticket: _Ticket | None = None
    labels: dict[str, str] | None = None


class _Envelope(_Part):
    id: Annotated[str, Field(min_length=1)]
    type: str
    subject: str | None = None
    time: str
    data: _Data
