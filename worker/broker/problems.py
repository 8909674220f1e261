"""The errors of the broker, and the text of each: one readable line with the remedy.

BrokerError              one line for a person; never holds a password
+-- ConnectError         no connection could be made
+-- ChannelLostError     the channel has closed, or its connection has, or the broker does not answer
+-- TopologyError        an exchange or queue is missing, or differs
|   +-- QueueNotReadyError   a queue is there, and cannot be used at the moment
+-- BrokerClosedError    this worker has closed its connections
+-- ConsumerCancelledError (`intake`)   the broker cancelled a consumer
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING

from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorPhaseErrorBase,
    AMQPConnectorSocketConnectError,
    AMQPConnectorStackTimeout,
)
from pika.exceptions import (
    AMQPConnectionError,
    AMQPHeartbeatTimeout,
    ChannelClosedByBroker,
    ConnectionBlockedTimeout,
    ConnectionClosed,
    ConnectionClosedByBroker,
    IncompatibleProtocolError,
    NoFreeChannels,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

if TYPE_CHECKING:
    from pika.connection import Parameters

_URL = "UNLINK_BROKER__URL"
_CA_FILE = "UNLINK_BROKER__CA_FILE"

#: The text for a URL that cannot be read. It omits the parser's error, which may contain a part of the password.
URL_UNREADABLE = f"{_URL}: cannot be read as a URL; special characters in user or password must be percent-encoded"

_NO_FREE_CHANNEL = (
    "the connection has no free channel: raise channel_max in the broker's configuration, or in the parameters of "
    f"{_URL}, to one for each Enterprise Manager and ten more"
)

#: AMQP 0-9-1 reply codes.
CONNECTION_FORCED = 320
ACCESS_REFUSED = 403
NOT_FOUND = 404
PRECONDITION_FAILED = 406
NOT_ALLOWED = 530


class BrokerError(Exception):
    """Something is wrong with the broker. The text is one line, for a person."""


class ConnectError(BrokerError):
    """No connection could be made."""


class TopologyError(BrokerError):
    """An exchange or a queue is missing, is not as this worker needs it, or may not be declared."""


class QueueNotReadyError(TopologyError):
    """A queue is there, and cannot be used: its nodes are down, or it is just being declared by another client."""


class BrokerClosedError(BrokerError):
    """This worker has closed its connections: nothing can be published any more."""


class ChannelLostError(BrokerError):
    """The channel has closed, alone or with its connection, or the broker did not answer in time.

    Attributes:
        reply_code: the broker's reply code, if it closed only this channel; else None.
        not_ready: whether it closed the channel because of a queue that is there, and cannot be used at the moment.
        no_free_channel: whether the connection already has as many channels as it may have.
        connection_lost: whether the connection has closed.
        provoked: whether the broker closed the connection because of something that it received on it.
        cut_off: whether the connection has closed for an unknown reason. When the broker closes a connection while it
            still receives data, the network may discard its reason.
    """

    def __init__(self, reason: BaseException) -> None:
        super().__init__(explain_channel(reason))
        self.reply_code: int | None = reason.reply_code if isinstance(reason, ChannelClosedByBroker) else None
        self.not_ready = isinstance(reason, ChannelClosedByBroker) and _is_not_ready(reason)
        self.no_free_channel = isinstance(reason, NoFreeChannels)
        self.connection_lost = not isinstance(reason, (ChannelClosedByBroker, TimeoutError, NoFreeChannels))
        # An operator, or a node that shuts down, closes connections with 320.
        self.provoked = isinstance(reason, ConnectionClosedByBroker) and reason.reply_code != CONNECTION_FORCED
        explained = (ConnectionClosed, ConnectionBlockedTimeout, AMQPHeartbeatTimeout)
        self.cut_off = self.connection_lost and not isinstance(reason, explained)

    @property
    def channel_alone(self) -> bool:
        """Whether the broker closed this channel only, and the connection is still open."""
        return self.reply_code is not None


def explain_connect(error: BaseException, parameters: Parameters) -> str:
    """Why no connection could be made, and what to do."""
    where = f"{parameters.host}:{parameters.port}"
    cause = _root_cause(error)
    if isinstance(cause, ssl.SSLError):
        return _explain_tls(cause, where)
    if isinstance(cause, (OSError, AMQPConnectorStackTimeout)):
        return _explain_unreachable(cause, where)
    return _explain_refusal(cause, where, parameters)


def _root_cause(error: BaseException) -> BaseException:
    """The most useful of the errors of all addresses: one of an address that answered, if there is one."""
    if isinstance(error, AMQPConnectionWorkflowFailed):
        answered = [one for one in error.exceptions if not isinstance(one, AMQPConnectorSocketConnectError)]
        return _root_cause((answered or list(error.exceptions))[-1])
    if type(error) is AMQPConnectionError and error.args and isinstance(error.args[0], AMQPConnectionWorkflowFailed):
        return _root_cause(error.args[0])
    if isinstance(error, AMQPConnectorPhaseErrorBase):
        return _root_cause(error.exception)
    return error


def _explain_tls(error: ssl.SSLError, where: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = error.verify_message.rstrip(".")
        if "mismatch" in message:
            return f"the certificate of the broker at {where} is for another host ({message}): correct {_URL}"
        return f"the certificate of the broker at {where} is not trusted ({message}): set {_CA_FILE} to its CA"
    return f"no TLS connection with {where} ({error.reason or error}): see that {_URL} has the port for amqps://"


def _explain_unreachable(error: BaseException, where: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name of the broker at {where} cannot be resolved ({error.strerror}): correct {_URL}"
    if isinstance(error, (AMQPConnectorStackTimeout, TimeoutError)):
        why = "no answer in time"
    else:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"the broker at {where} cannot be reached ({why}): see that it runs, that {_URL} is right, and the firewall"


def _explain_refusal(error: BaseException, where: str, parameters: Parameters) -> str:
    # While the connection opens, pika wraps the broker's error in one of its own. Only its text has the reply code.
    text = str(error) or repr(error)
    vhost = parameters.virtual_host
    if isinstance(error, ProbableAuthenticationError) or f"({ACCESS_REFUSED})" in text:
        return f"the broker at {where} refuses the user name or the password ({ACCESS_REFUSED}): correct {_URL}"
    if f"({NOT_ALLOWED})" in text and "not found" in text:
        return f"the broker at {where} has no virtual host {vhost!r} ({NOT_ALLOWED}): create it, or correct {_URL}"
    if isinstance(error, ProbableAccessDeniedError) or f"({NOT_ALLOWED})" in text:
        return (
            f"the broker at {where} does not let this user into the virtual host {vhost!r} ({NOT_ALLOWED}): "
            "give it permissions (rabbitmqctl set_permissions)"
        )
    if isinstance(error, IncompatibleProtocolError):
        return (
            f"{where} closed the connection at once: it is not a port for amqp:// (perhaps one for amqps://: correct "
            f"{_URL}), or the broker is just starting or stopping"
        )
    return f"the broker at {where} ended the connection while it was being made ({one_line(text)})"


def explain_lost(reason: BaseException) -> str:
    """Why a connection that was open has closed."""
    if isinstance(reason, ConnectionClosedByBroker):
        return f"the broker closed it ({reason.reply_code} {one_line(reason.reply_text)})"
    if isinstance(reason, ConnectionBlockedTimeout):
        return (
            "the broker took no messages for UNLINK_BROKER__BLOCKED_SECONDS: a memory or disk alarm "
            "(rabbitmq-diagnostics alarms)"
        )
    if isinstance(reason, AMQPHeartbeatTimeout):
        return "no heartbeat from the broker: it hangs, or the network connection to it is interrupted"
    return one_line(str(reason) or repr(reason))


def explain_channel(reason: BaseException) -> str:
    """Why a channel has closed, with the remedy if the broker's text is a known one."""
    if not isinstance(reason, ChannelClosedByBroker):
        return _NO_FREE_CHANNEL if isinstance(reason, NoFreeChannels) else explain_lost(reason)
    text = one_line(reason.reply_text)
    said = f"{reason.reply_code} {text}"
    if reason.reply_code == PRECONDITION_FAILED and "timed out" in text:
        return (
            f"a delivery was held longer than the broker's consumer_timeout ({said}): "
            "set that above UNLINK_BROKER__HOLD_SECONDS, or lower the latter"
        )
    if reason.reply_code == PRECONDITION_FAILED and "inequivalent" in text:
        return f"it exists with other arguments ({said}), and arguments cannot be changed: {_remedy_of(text)}"
    if reason.reply_code == ACCESS_REFUSED:
        return f"the user lacks a permission ({said}): rabbitmqctl set_permissions"
    if reason.reply_code == NOT_FOUND:
        return (
            f"it cannot be used now ({said}): its nodes are down, or another client is just declaring it"
            if _is_not_ready(reason)
            else f"it is missing ({said}): declare it (unlink-worker topology declare)"
        )
    return f"the broker closed the channel ({said})"


def _is_not_ready(reason: ChannelClosedByBroker) -> bool:
    """Whether a 404 is about a queue that is known, but does not run on any node.

    While a quorum queue is declared, its record is there before its processes are: for some milliseconds all other
    clients get this answer (seen on 4.3.6; RabbitMQ issue 17531 describes the order of the steps).
    """
    return reason.reply_code == NOT_FOUND and "is down or inaccessible" in reason.reply_text


def _remedy_of(inequivalent: str) -> str:
    """What to do about an exchange or a queue that was declared with other arguments; the text is the broker's."""
    if "for exchange" in inequivalent:
        return "delete the exchange, which holds no messages, and the worker declares it anew"
    return (
        "with UNLINK_BROKER__TOPOLOGY=verify the worker uses the queue as it is; once it is empty, delete it, and the "
        "worker declares it anew"
    )


def explain_ca_file(error: OSError) -> str:
    """Why the CA file cannot be used."""
    return f"{_CA_FILE}: cannot be used as a file of CA certificates in PEM format ({one_line(str(error))})"


def closed_in_order(reason: BaseException) -> bool:
    """Whether this worker closed the connection itself."""
    return isinstance(reason, ConnectionClosed) and not isinstance(reason, ConnectionClosedByBroker)


def one_line(text: str) -> str:
    """The text on one line: each run of white space is one space. At most 500 characters."""
    return re.sub(r"\s+", " ", text).strip()[:500]
