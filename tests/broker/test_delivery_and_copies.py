"""What is read of a delivery, and what a copy of it takes along, without a broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.channel import Channel
from pika.compat import long
from pika.frame import Header
from pika.spec import FRAME_MIN_SIZE, Basic, BasicProperties

from contracts.events import Reason, ReasonCode
from worker.broker.copies import HEADERS_DROPPED, MAX_HEADERS, copied_properties, replayed_properties, short_text
from worker.broker.dead_letters import headers_of_reason
from worker.broker.delivery import BrokerDelivery, plain_headers, reply_patterns

#: The longest frame by default, in bytes.
FRAME = 128 * 1024

#: When a delivery is made.
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


def delivery_with(**properties: Any) -> BrokerDelivery:
    """A delivery with these properties, on a channel that never opened."""
    return BrokerDelivery(
        Channel.__new__(Channel),
        Basic.Deliver(delivery_tag=1),
        BasicProperties(**properties),
        b"body",
        enterprise_manager="default",
        reply_patterns=reply_patterns("amq.rabbitmq.reply-to.*, reply.*,"),
        taken_at=0.0,
        now=NOON,
    )


def test_a_copy_says_when_its_original_arrived() -> None:
    """A plan that was refused would be published again under another ID."""
    header = {"unlink-arrived-at": "2027-01-31T09:00:00+02:00"}
    assert delivery_with(headers=header).arrived_at == NOON - timedelta(hours=5)


@pytest.mark.parametrize("junk", [None, "", "2027-01-31T09:00:00", "0001-01-01T00:00:00+14:00", "now", 7, [], "9" * 99])
def test_a_copy_that_says_it_oddly_arrived_now(junk: Any) -> None:
    """A publisher's odd header would stop the intake."""
    assert delivery_with(headers={"unlink-arrived-at": junk}).arrived_at == NOON


@pytest.mark.parametrize(
    ("header", "attempt"), [(1, 1), (7, 7), (long(3), 3), (0, 1), (-4, 1), (True, 1), ("2", 1), (None, 1), ([], 1)]
)
def test_attempt_is_read_and_junk_counts_as_the_first(header: Any, attempt: int) -> None:
    """A publisher's odd header would give a command up at once, or stop the intake."""
    assert delivery_with(headers={"unlink-attempt": header}).attempt == attempt


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("reply.me", "reply.me"),
        ("amq.rabbitmq.reply-to.g1h2", "amq.rabbitmq.reply-to.g1h2"),
        ("amq.rabbitmq.reply-to", None),
        ("REPLY.me", None),
        ("other.reply.me", None),
        ("", None),
        (None, None),
        (b"reply.\xff", None),
    ],
)
def test_only_a_reply_address_that_a_pattern_allows_is_taken(asked: Any, taken: str | None) -> None:
    """Events would be sent into queues that the operator never opened to replies."""
    assert delivery_with(reply_to=asked).reply_to == taken


def test_headers_become_plain_python() -> None:
    """A log or a comparison would trip over pika's own integers, or over a name that is bytes."""
    plain = plain_headers({"a": long(5), b"\xff": [long(1), {"b": long(2)}]})  # type: ignore[dict-item] # as pika gives it
    assert plain == {"a": 5, "\\xff": [1, {"b": 2}]}
    assert type(plain["a"]) is int


@pytest.mark.parametrize(
    "name", ["x-death", "x-first-death-queue", "x-last-death-exchange", "x-delivery-count", "CC", "BCC", "cc"]
)
def test_what_the_broker_reads_again_stays_behind(name: str) -> None:
    """A delayed command would never come back, or would multiply."""
    headers = copied_properties(delivery_with(headers={name: ["x"], "theirs": 1}), {}, "worker", FRAME).headers
    assert headers == {"theirs": 1}


def test_copy_is_persistent_and_keeps_who_wrote_what_when() -> None:
    """A command that had to wait would be lost in a restart, or come back as another."""
    given_properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": "c",
        "reply_to": "reply.x",
        "message_id": "m",
        "timestamp": 5,
        "type": "t",
        "app_id": "a",
    }
    copy = copied_properties(
        delivery_with(**given_properties, delivery_mode=1, expiration="5", priority=9), {"ours": 1}, "worker", FRAME
    )
    assert {name: getattr(copy, name) for name in given_properties} == given_properties
    assert copy.delivery_mode == 2
    assert (copy.user_id, copy.expiration, copy.priority) == (None, None, None)
    assert copy.headers == {"ours": 1}


def test_bare_direct_reply_to_is_not_repeated() -> None:
    """The broker ends the channel of whoever publishes with the pseudo-queue and does not consume from it."""
    assert copied_properties(delivery_with(reply_to="amq.rabbitmq.reply-to"), {}, "worker", FRAME).reply_to is None


_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=300), inner),
    max_leaves=20,  # making up a hundred takes a second
)


@given(headers=st.dictionaries(st.text(max_size=300) | st.binary(max_size=300), _values))
def test_copy_of_any_headers_can_be_sent(headers: Any) -> None:
    """One message with odd headers could be neither delayed nor dead-lettered, and would come back for ever."""
    delivery = delivery_with(headers=headers)
    encoded = copied_properties(delivery, {"unlink-attempt": delivery.attempt}, "worker", FRAME).encode()
    assert sum(len(piece) for piece in encoded) < MAX_HEADERS + 1000


@pytest.mark.parametrize("frame_max", [FRAME_MIN_SIZE, 8192, FRAME])
@pytest.mark.parametrize("size", [*range(1000, 8200, 400), 49_000, 131_000])
def test_copy_fits_into_a_frame_whatever_its_original_holds(frame_max: int, size: int) -> None:
    """The broker would end the connection at every attempt to dead-letter one message."""
    texts = ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type", "app_id")
    longest = dict.fromkeys([*texts, "user_id"], "x" * 255)
    delivery = delivery_with(**longest, headers={"theirs": "x" * size})
    reason = Reason(code=ReasonCode.INVALID_MESSAGE, message="\N{SNOWMAN}" * 1000)
    why = headers_of_reason(delivery, reason, 2, NOON)
    copy = copied_properties(delivery, why, "worker", frame_max)
    assert len(Header(1, len(delivery.body), copy).marshal()) <= frame_max
    headers: Any = copy.headers
    assert ("theirs" in headers) is not headers.get(HEADERS_DROPPED, False)
    whole = copied_properties(delivery, why, "worker", FRAME)
    if len(Header(1, len(delivery.body), whole).marshal()) <= frame_max - 64:
        assert headers == whole.headers
    if frame_max > FRAME_MIN_SIZE:
        assert headers["unlink-reason"] == reason.message
    else:
        assert reason.message.startswith(headers["unlink-reason"])
        assert len(headers["unlink-reason"]) > 300


@given(headers=st.dictionaries(st.text(max_size=300) | st.binary(max_size=300), _values))
def test_replay_of_any_dead_letter_fits_into_a_frame_without_its_history(headers: Any) -> None:
    """A dead letter that a publisher with longer frames wrote could never be replayed."""
    original = BasicProperties(headers={**headers, "unlink-reason": "x" * 3000, "unlink-attempt": 3}, user_id="them")
    replayed = replayed_properties(original, "desk", FRAME_MIN_SIZE)
    assert len(Header(1, 4, replayed).marshal()) <= FRAME_MIN_SIZE
    assert not {"unlink-reason", "unlink-attempt", HEADERS_DROPPED} & set(replayed.headers or {})


@given(text=st.text() | st.binary() | st.none() | st.integers())
def test_text_for_a_property_always_fits(text: Any) -> None:
    """A long name would make a publish fail on every try."""
    short = short_text(text)
    assert short is None or (short == text and len(short.encode(errors="replace")) <= 255)
