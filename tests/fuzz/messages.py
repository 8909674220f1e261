"""What reads bytes of senders, each as one function of the bytes: it raises only if a promise is broken."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from pika.channel import Channel
from pika.frame import Header
from pika.spec import FRAME_MIN_SIZE, Basic, BasicProperties

from contracts.commands import Command, UnlinkCommand
from contracts.events import Outcome, Reason, ReasonCode
from contracts.reading import PartialParse, UnreadableMessageError, read_command, read_message, to_run_again, to_stored
from worker.broker.awaited import Awaited
from worker.broker.copies import copied_properties, replayed_properties
from worker.broker.dead_letters import DeadLetter
from worker.broker.delivery import ARRIVED_HEADER, ATTEMPT_HEADER, BrokerDelivery
from worker.broker.misrouted import misrouted_delivery
from worker.broker.outbox import BrokerOutbox
from worker.broker.received_event import NoEventError, event_in
from worker.broker.stored_event import UnreadableEventError
from worker.broker.tolerant import TolerantConnection
from worker.cli.output.event_text import in_words
from worker.cli.publishing.awaiting import Following
from worker.cli.watch import _row
from worker.clock import SystemClock
from worker.ledger.batches import _end_of
from worker.ledger.documents import Document
from worker.ledger.later_runs import _may_act
from worker.ledger.rows import record_from
from worker.ledger.search_terms import terms_of, terms_of_event
from worker.ledger.statements import WHOLE_ROW
from worker.unlinks.batches import compose as compose_batch_ended
from worker.unlinks.outcome import compose_rejection
from worker.unlinks.ports.ledger import BatchKey, EndedBatch, Stage

_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

#: The longest frame by default, in bytes.
_LONGEST = 2**17

#: The class of a message, by its number.
_BASIC = 60

#: Publishes nothing: it has no connection.
_NONE: Any = None
_OUTBOX = BrokerOutbox(_NONE, SystemClock(), user="worker", confirm_seconds=1.0, delay_tiers=(5,), restore=_NONE)

#: The properties of a message before its headers, and after them up to `reply_to`.
_FLAGS = BasicProperties.FLAG_CONTENT_TYPE | BasicProperties.FLAG_HEADERS | BasicProperties.FLAG_REPLY_TO
_BEFORE, _AFTER = b"\x10application/json", b"\x07reply.x"


def command(body: bytes) -> None:
    """Read a message's body, and answer it: what is accepted is read again as it was, what is not gets an event."""
    read: Command | UnreadableMessageError
    try:
        read = read_message(body)
    except UnreadableMessageError as error:
        read = error
    if isinstance(read, UnreadableMessageError):
        assert "\n" not in read.problem, read.problem
        _reject(body, read.partial, read.problem)
    if isinstance(read, UnlinkCommand):
        stored = to_stored(read, "correlation")
        again = read_command(stored)
        assert again.fingerprint == read.fingerprint
        assert to_stored(again, None) == stored
        assert read_command(to_run_again(stored, None, _NOON, None)).fingerprint == read.fingerprint


def _reject(body: bytes, partial: PartialParse, problem: str) -> None:
    event = compose_rejection(
        body,
        partial,
        Reason(code=ReasonCode.INVALID_MESSAGE, message=problem),
        changed=False,
        enterprise_manager="default",
        correlation_id=None,
        user_id=None,
        now=_NOON,
    )
    event.to_bytes().decode()


def headers(table: bytes) -> None:
    """Receive a message with these bytes as its headers, and copy it as a delay, a dead letter and a replay do.

    A table that is longer inside than it says takes the properties behind it for its own; no broker hands one on.
    """
    properties = _received(_BEFORE + struct.pack(">I", len(table)) + table + _AFTER)
    assert properties.content_type == "application/json"
    channel, method = cast("Channel", SimpleNamespace(is_open=True)), Basic.Deliver("tag", 1, routing_key="default")
    plain = BrokerDelivery(
        channel,
        method,
        properties,
        b"",
        enterprise_manager="default",
        reply_patterns=["reply.*"],
        taken_at=0.0,
        now=_NOON,
    )
    misrouted = misrouted_delivery(
        channel, method, properties, b"", served=(), reply_patterns=[], taken_at=0.0, now=_NOON, forwarders=["worker"]
    )
    for delivery in (plain, misrouted):
        assert delivery.attempt >= 1
        assert delivery.returns >= 0
        assert delivery.arrived_at.tzinfo is not None
        assert delivery.user_id is None or isinstance(delivery.user_id, str)
        extra = {ATTEMPT_HEADER: delivery.attempt + 1, ARRIVED_HEADER: str(delivery.arrived_at)}
        for frame_max in (FRAME_MIN_SIZE, _LONGEST):
            _encode(copied_properties(delivery, extra, "worker", frame_max), frame_max)
    found = DeadLetter(b"", properties, "default")
    for value in (found.enterprise_manager, found.reason_code, found.reason, found.run, found.since):
        str(value)
    _encode(replayed_properties(properties, "desk", _LONGEST))


def event(body: bytes) -> None:
    """Receive a message from the events exchange: what is an event is shown in every form, and ends a wait or not."""
    try:
        read = event_in(body)
    except NoEventError:
        return
    if read is None:
        return
    assert read.line.isprintable() or not {"\n", "\r"} & set(read.line)
    json.loads(read.line)
    in_words(replace(read, from_ledger=True)).encode()
    for text in _row(read).values():
        text.plain.encode()
    json.dumps(read.content, ensure_ascii=False, allow_nan=False).encode()
    waiting = Following([Awaited(read.key or "", b"{}"), Awaited(read.key or "", b"{}", dry_run=True)])
    waiting.note(read)
    assert waiting.exit_status in range(6)


def stored_event(stored: bytes) -> None:
    """Read the event of a key that another version of the worker has stored, for each of its uses."""
    for term in terms_of_event(stored).values():
        assert term is None or isinstance(term, str)
    end = _end_of("key", Outcome.FAILED, stored, _NOON)
    assert isinstance(end.event_id, str)
    assert end.correlation_id is None or isinstance(end.correlation_id, str)
    assert _may_act(stored) in {True, False}
    batch = EndedBatch(BatchKey("default", "sender", "batch"), 1, (end,))
    compose_batch_ended(batch).to_bytes()
    columns = _columns(b"{}") | {"stage": Stage.SETTLED.value, "outcome": "failed", "event": stored}
    columns |= {"finished_at": _NOON}
    terms_of(cast("Any", columns))
    document = Document(record_from(cast("Any", columns)))
    document.as_json()
    assert all(isinstance(cell, str) for cell in document.audit_line())
    try:
        message, _ = _OUTBOX._event_message(stored)  # noqa: SLF001 - the reader
        message.routing_key.encode()
    except UnreadableEventError:
        return
    _encode(message.properties)


def _received(content: bytes) -> BasicProperties:
    content = struct.pack(">HHQH", _BASIC, 0, 0, _FLAGS) + content
    frame = struct.pack(">BHI", 2, 1, len(content)) + content + b"\xce"
    connection: Any = SimpleNamespace(_frame_buffer=frame)
    read, header = TolerantConnection._read_frame(connection)  # noqa: SLF001 - the reader
    assert read == len(frame)
    assert isinstance(header, Header)
    assert isinstance(header.properties, BasicProperties)
    return header.properties


def _encode(properties: BasicProperties, longest: int = _LONGEST) -> None:
    encoded = b"".join(properties.encode())
    assert len(encoded) < longest
    BasicProperties().decode(encoded)


def row(stored: bytes) -> None:
    """Read a row whose command another version of the contract has written, for the search and for people."""
    columns = _columns(stored)
    for term in terms_of(cast("Any", columns)).values():
        assert term is None or isinstance(term, (str, datetime))
    document = Document(record_from(cast("Any", columns)))
    document.as_json()
    assert all(isinstance(cell, str) for cell in document.audit_line())


def _columns(command: bytes) -> dict[str, Any]:
    """A row of the ledger with this command."""
    columns: dict[str, Any] = dict.fromkeys(column.key for column in WHOLE_ROW)
    columns |= {"key": "key", "token": 1, "stage": Stage.CLAIMED.value, "attempts": 1, "sends": 0, "run": 1}
    columns |= {"received_at": _NOON, "updated_at": _NOON, "lease_until": _NOON, "may_act": False}
    return columns | {"command": command, "fingerprint": "f", "enterprise_manager": "default"}
