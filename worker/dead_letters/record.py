"""Dead letters as JSON, and the written record of those that are discarded."""

from __future__ import annotations

import base64
import getpass
import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from worker.broker.delivery import plain_headers

if TYPE_CHECKING:
    from worker.broker.dead_letters import DeadLetter
    from worker.dead_letters.queue import DeadQueue, Taken

#: How many messages are written before they are flushed to the disk together, and then removed.
AT_ONCE = 100

_PROPERTIES = (
    "content_type",
    "content_encoding",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)


def as_json(message: DeadLetter) -> dict[str, Any]:
    """The whole message. The body is a text if it is UTF-8, else base64 under another name."""
    given = {name: getattr(message.properties, name) for name in _PROPERTIES}
    try:
        body = {"body": message.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(message.body).decode()}
    return {
        "reason_code": message.reason_code,
        "reason": message.reason,
        "enterprise_manager": message.enterprise_manager,
        "idempotency_key": message.key,
        "since": in_utc(message.since),
        "routing_key": message.routing_key,
        "properties": {name: _plain(value) for name, value in given.items() if value is not None},
        "headers": _plain(plain_headers(message.properties.headers)),
        **body,
    }


def in_utc(moment: datetime | None) -> str | None:
    """A time as JSON has it."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """An AMQP value as JSON."""
    match value:
        case dict():
            plain: Any = {name: _plain(inner) for name, inner in value.items()}
        case list():
            plain = [_plain(inner) for inner in value]
        case bytes():
            plain = {"base64": base64.b64encode(value).decode()}
        case datetime():
            plain = in_utc(value)
        case Decimal():
            plain = str(value)
        case float() if not math.isfinite(value):
            plain = str(value)
        case _:
            plain = value
    return plain


class Record:
    """A file to which a line of JSON is added for each message that is discarded.

    A message is removed from the queue only after its line has been flushed to the disk. After an interruption in
    between, the message is still in the queue, and will have two lines after the next time.
    """

    def __init__(self, file: BinaryIO, why: str | None, broker_user: str) -> None:
        self._file = file
        self._circumstances = {
            "discarded_by": {"user": _user(), "host": socket.gethostname(), "broker_user": broker_user},
            "why": why,
        }
        self._written: list[Taken] = []
        self.discarded = 0

    def discard(self, queue: DeadQueue, taken: Taken) -> None:
        """Write a message to the record; it is removed from the queue later, at the latest by `finish`."""
        line = {"discarded_at": in_utc(datetime.now(UTC)), **self._circumstances, **as_json(taken.message)}
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._written.append(taken)
        if len(self._written) >= AT_ONCE:
            self.finish(queue)

    def finish(self, queue: DeadQueue) -> None:
        """Flush the record to the disk, and remove its messages from the queue."""
        self._file.flush()
        os.fsync(self._file.fileno())
        while self._written:
            queue.remove(self._written[0])
            self._written.pop(0)
            self.discarded += 1


@contextmanager
def opened_record(path: Path) -> Iterator[BinaryIO]:
    """The file, opened for appending. A new one is readable by its owner only: commands may contain private data.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a+b") as file:
        _end_the_last_line(file)
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the folder's entry of a new file must be flushed, too
        finally:
            os.close(folder)
        yield file


def _end_the_last_line(file: BinaryIO) -> None:
    """End a last line that an interruption has cut off."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user ID without a name, as in many containers
        return f"uid {os.getuid()}"
