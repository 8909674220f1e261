"""The names that RabbitMQ generates for direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to).

The broker decodes such a name when a message is published to it. RabbitMQ 3.10 and 4.0 close the whole connection (541,
INTERNAL_ERROR) if that fails, once for each message; 4.3 does not. A sender could therefore close the worker's
connection at will, by a `reply_to` that only begins like a generated name. RabbitMQ 3.10 also closes it for a name that
is well formed and names an unknown node; a client cannot tell such a name from a good one.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode

#: The beginning of a generated name. Two parts in Base64 follow: the Erlang process of the waiting channel, and a key.
_GENERATED = re.compile(r"amq\.rabbitmq\.reply-to\.(?P<process>[A-Za-z0-9+/]+={0,2})\.[A-Za-z0-9+/]+={0,2}")
_PREFIX = "amq.rabbitmq.reply-to."

#: A process in Erlang's external term format, as RabbitMQ 3.9 and later write it: version, NEW_PID_EXT, ATOM_UTF8_EXT
#: with the hash of a node's name, then ID, serial and creation, of four bytes each
#: (`pid_recomposition.erl` and `rabbit_direct_reply_to.erl` in rabbitmq-server;
#: https://www.erlang.org/doc/apps/erts/erl_ext_dist#new_pid_ext).
_PROCESS = re.compile(rb"\x83X(?:v\x00|w)(?P<length>.)(?P<node>[a-z]+@[0-9]+).{12}", re.DOTALL)


def can_be_decoded(queue: str) -> bool:
    """Whether the broker can decode the name of a queue, if it has to: it begins like a generated name."""
    if not queue.startswith(_PREFIX):
        return True
    generated = _GENERATED.fullmatch(queue)
    if generated is None:
        return False
    try:
        process = _PROCESS.fullmatch(b64decode(generated["process"], validate=True))
    except binascii.Error:
        return False
    return process is not None and process["length"][0] == len(process["node"])
