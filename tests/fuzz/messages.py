"""What reads bytes of senders, each as one function of the bytes: it raises only if a promise is broken."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from pika.channel import Channel
from pika.frame import Header
from pika.spec import Basic, BasicProperties

from contracts.commands import Command, UnlinkCommand
from contracts.events import Reason, ReasonCode
from contracts.reading import PartialParse, UnreadableMessageError, read_command, read_message, to_run_again, to_stored
from worker.broker.copies import copied_properties, replayed_properties
from worker.broker.dead_letters import DeadLetter
from worker.broker.delivery import ATTEMPT_HEADER, BrokerDelivery
from worker.broker.misrouted import misrouted_delivery
from worker.broker.tolerant import TolerantConnection
from worker.ledger.documents import Document
from worker.ledger.rows import record_from
from worker.ledger.search_terms import terms_of
from worker.ledger.statements import WHOLE_ROW
from worker.unlinks.outcome import compose_rejection
from worker.unlinks.ports.ledger import Stage

_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

#: The class of a message, by its number.
_BASIC = 60

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
        channel, method, properties, b"", enterprise_manager="default", reply_patterns=["reply.*"], taken_at=0.0
    )
    misrouted = misrouted_delivery(
        channel, method, properties, b"", served=(), reply_patterns=[], taken_at=0.0, forwarders=["worker"]
    )
    for delivery in (plain, misrouted):
        assert delivery.attempt >= 1
        assert delivery.returns >= 0
        assert delivery.user_id is None or isinstance(delivery.user_id, str)
        _encode(copied_properties(delivery, {ATTEMPT_HEADER: delivery.attempt + 1}, "worker"))
    found = DeadLetter(b"", properties, "default")
    for value in (found.enterprise_manager, found.reason_code, found.reason, found.run, found.since):
        str(value)
    _encode(replayed_properties(properties, "desk"))


def _received(content: bytes) -> BasicProperties:
    content = struct.pack(">HHQH", _BASIC, 0, 0, _FLAGS) + content
    frame = struct.pack(">BHI", 2, 1, len(content)) + content + b"\xce"
    connection: Any = SimpleNamespace(_frame_buffer=frame)
    read, header = TolerantConnection._read_frame(connection)  # noqa: SLF001 - the reader
    assert read == len(frame)
    assert isinstance(header, Header)
    assert isinstance(header.properties, BasicProperties)
    return header.properties


def _encode(properties: BasicProperties) -> None:
    encoded = b"".join(properties.encode())
    assert len(encoded) < 2**17
    BasicProperties().decode(encoded)


def row(stored: bytes) -> None:
    """Read a row whose command another version of the contract has written, for the search and for people."""
    columns: dict[str, Any] = dict.fromkeys(column.key for column in WHOLE_ROW)
    columns |= {"key": "key", "token": 1, "stage": Stage.CLAIMED.value, "attempts": 1, "sends": 0, "run": 1}
    columns |= {"received_at": _NOON, "updated_at": _NOON, "lease_until": _NOON, "may_act": False}
    columns |= {"command": stored, "fingerprint": "f", "enterprise_manager": "default"}
    for term in terms_of(cast("Any", columns)).values():
        assert term is None or isinstance(term, (str, datetime))
    document = Document(record_from(cast("Any", columns)))
    document.as_json()
    assert all(isinstance(cell, str) for cell in document.audit_line())
