"""What anybody who may publish to `unlink.events` may publish there."""

from __future__ import annotations

import json
from typing import Any, Final

#: The instant of each event.
NOON: Final = "2027-01-31T12:00:00Z"


def event_bytes(data: dict[str, Any] | None = None, **attributes: Any) -> bytes:
    """An event as a worker publishes it, but for these attributes and fields of its data."""
    outcome = (data or {}).get("outcome", "succeeded")
    known = {"idempotency_key": "K", "enterprise_manager": "default", "outcome": outcome, "run": 1, "changed": True}
    known |= {"evidence": "task", "verified": True, "job": {"name": "Job"}, "repository": {"name": "Repository"}}
    content = {"specversion": "1.0", "id": "1", "type": f"unlink.{outcome}.v1", "subject": "K", "time": NOON}
    return json.dumps({**content, **attributes, "data": {**known, **(data or {})}}).encode()


#: What is no event of a worker.
NO_EVENTS: Final = {
    "no JSON": b"no JSON",
    "no UTF-8": b"\xff",
    "UTF-16": event_bytes().decode().encode("utf-16"),
    "UTF-32": event_bytes().decode().encode("utf-32"),
    "a surrogate in UTF-8": event_bytes().replace(b"Job", b"\xed\xa0\x80"),
    "deep": b"[" * 100_000,
    "a long number": event_bytes().replace(b'"run": 1', b'"run": 1' + b"0" * 5000),
    "no number": event_bytes().replace(b'"changed": true', b'"changed": true, "more": NaN'),
    "an endless number": event_bytes().replace(b'"changed": true', b'"changed": true, "more": 1e999'),
    "a list": b"[]",
    "a text": b'"unlink.succeeded.v1"',
    "no attributes": b'{"data": {}}',
    "no data": event_bytes().replace(b'"data"', b'"date"'),
    "id": event_bytes(id=5),
    "empty id": event_bytes(id=""),
    "subject: a number": event_bytes(subject=5),
    "subject: a list": event_bytes(subject=["a"]),
    "type: a list": event_bytes(type=["a"]),
    "type: another": event_bytes(type="order.shipped.v1"),
    "time: none": event_bytes(time=None),
    "time: no time": event_bytes(time="noon"),
    "time: too early": event_bytes(time="0001-01-01T00:00:00+14:00"),
    "time: too late": event_bytes(time="9999-12-31T23:59:59-14:00"),
    "outcome": event_bytes({"outcome": 1}),
    "enterprise manager": event_bytes({"enterprise_manager": ["a"]}),
    "run: a text": event_bytes({"run": "1"}),
    "run: none such": event_bytes({"run": 0}),
    "run: too high": event_bytes({"run": 2**70}),
    "reason: a text": event_bytes({"reason": "why"}),
    "reason: no message": event_bytes({"reason": {"code": "x"}}),
    "task: a list": event_bytes({"task": ["a"]}),
    "repository: a text": event_bytes({"outcome": "planned", "repository": "r"}),
    "linked backups: a number": event_bytes({"outcome": "planned", "linked_backups_removed": 5}),
    "ticket: a number": event_bytes({"ticket": {"id": 5}}),
    "labels: a list": event_bytes({"labels": {"linked_backups": "1", "job": ["a"]}}),
    "evidence: a list": event_bytes({"evidence": ["a"]}),
}

#: What is an event, though no worker would publish it.
ODD_EVENTS: Final = {
    "lone surrogates": event_bytes(
        {"job": {"name": "\ud800"}, "reason": {"code": "\udfff", "message": "\ud800"}, "enterprise_manager": "\udc00"},
    ),
    "a lone surrogate in the key": event_bytes(subject="\ud800"),
    "control characters": event_bytes({"job": {"name": "\x1b[2J\r\n\u202e\x9b2J"}}),
    "an outcome of tomorrow": event_bytes({"outcome": "postponed"}),
    "a plan of nothing": event_bytes({"outcome": "planned", "repository": None, "evidence": None}),
    "little": json.dumps(
        {
            "id": "1",
            "type": "unlink.cancelled.v1",
            "time": NOON,
            "data": {"outcome": "cancelled", "enterprise_manager": "default"},
        }
    ).encode(),
    "on many lines": event_bytes().replace(b", ", b",\r\n"),
}
