"""Connections that stay open when the headers of a message cannot be decoded.

pika decodes headers while it reads the socket, and an error there ends the connection. A header that it cannot decode
(a table nested beyond Python's recursion limit, or a timestamp beyond the year 9999 because a sender counted in
microseconds) would end the connection again with every redelivery, and the worker could never consume again.
"""

from __future__ import annotations

import struct

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.select_connection import SelectConnection
from pika.connection import Connection
from pika.frame import Frame, Header, ProtocolHeader, decode_frame
from pika.spec import BasicProperties

#: The only header of a message whose headers could not be decoded.
UNREADABLE_HEADERS = "unlink-headers-unreadable"

_FRAME_HEADER = 2
_ENVELOPE = struct.Struct(">BHI")  # frame type, channel, size (AMQP 0-9-1, section 4.2.3)
_CONTENT = struct.Struct(">HHQH")  # class, weight, body size, property flags (section 4.2.6.1)
_END = b"\xce"


class _Tolerant(Connection):
    """A connection on which a message with undecodable headers arrives without them."""

    def _read_frame(self) -> tuple[int, Frame | ProtocolHeader | None]:
        received: bytes = self._frame_buffer  # type: ignore[attr-defined] # the stubs leave out what is private
        try:
            return decode_frame(received)
        except Exception:
            if received[0] != _FRAME_HEADER:
                raise
            return _decode_without_headers(received)


class TolerantConnection(_Tolerant, AsyncioConnection):
    """An `AsyncioConnection` on which a message with undecodable headers arrives without them."""


class TolerantSelectConnection(_Tolerant, SelectConnection):
    """The `SelectConnection` on which a `BlockingConnection` is built; headers as in `TolerantConnection`."""


def _decode_without_headers(received: bytes) -> tuple[int, Frame | ProtocolHeader | None]:
    kind, channel, size = _ENVELOPE.unpack_from(received)
    content = _without_headers(received[_ENVELOPE.size : _ENVELOPE.size + size])
    _, frame = decode_frame(_ENVELOPE.pack(kind, channel, len(content)) + content + _END)
    if isinstance(frame, Header):
        frame.properties.headers = {UNREADABLE_HEADERS: True}
    return _ENVELOPE.size + size + len(_END), frame


def _without_headers(content: bytes) -> bytes:
    class_id, weight, body_size, flags = _CONTENT.unpack_from(content)
    start = _CONTENT.size
    for flag in (BasicProperties.FLAG_CONTENT_TYPE, BasicProperties.FLAG_CONTENT_ENCODING):
        if flags & flag:
            start += 1 + content[start]
    (length,) = struct.unpack_from(">I", content, start)
    kept = content[_CONTENT.size : start] + content[start + 4 + length :]
    return _CONTENT.pack(class_id, weight, body_size, flags & ~BasicProperties.FLAG_HEADERS) + kept
