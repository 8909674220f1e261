"""Examines RabbitMQ through its management API, if there is one, because AMQP cannot query policies.

The effective arguments of a queue come from its declaration and from policies; of two numbers, the lower one applies.
The API also shows the consumer timeout of a queue, but not the broker's own setting `consumer_timeout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests

from worker.broker import topology
from worker.broker.topology import Queue
from worker.doctor.broker import DEFAULT_CONSUMER_TIMEOUT
from worker.doctor.findings import Finding, doubtful, good, wrong
from worker.settings import BrokerSettings

#: How long one request may take, in seconds.
_REQUEST_SECONDS = 8.0
_MOST_BYTES = 4 * 1024 * 1024

_PORTS = {"amqp": ("http", 15672), "amqps": ("https", 15671)}

_VARIABLE = "UNLINK_BROKER__MANAGEMENT_URL"


class _NotAnsweredError(Exception):
    """There is no usable response of the API; the text says why."""


@dataclass(frozen=True, slots=True)
class _Api:
    url: str
    credentials: tuple[str, str]
    ca_file: str | None
    virtual_host: str

    def get(self, path: str) -> Any:
        """The JSON at a path; None for 404.

        Raises:
            _NotAnsweredError: for any other error.
        """
        with requests.Session() as session:
            session.trust_env = False
            session.auth = self.credentials
            session.verify = self.ca_file or True
            try:
                answer = session.get(f"{self.url}/api/{path}", timeout=_REQUEST_SECONDS, allow_redirects=False)
                if answer.status_code == requests.codes.not_found:
                    return None
                if answer.status_code in {requests.codes.unauthorized, requests.codes.forbidden}:
                    raise _NotAnsweredError("it refuses the user: give it the tag `monitoring` or `management`")
                if answer.status_code != requests.codes.ok or len(answer.content) > _MOST_BYTES:
                    raise _NotAnsweredError(f"it answered with status {answer.status_code}")
                return answer.json()
            except requests.exceptions.SSLError:
                raise _NotAnsweredError("its certificate is not trusted: set UNLINK_BROKER__CA_FILE") from None
            except (requests.RequestException, ValueError):
                raise _NotAnsweredError("nothing that speaks HTTP with JSON answers there") from None


async def examine(settings: BrokerSettings, enterprise_managers: Iterable[str]) -> AsyncIterator[Finding]:
    """Check effective arguments and consumer timeouts. It is a finding too if they cannot be read."""
    api = _api(settings)
    where = urlsplit(api.url).netloc.rpartition("@")[2]
    names = [topology.command_queue(name) for name in enterprise_managers]
    try:
        queues = {
            queue.name: await asyncio.to_thread(api.get, f"queues/{quote(api.virtual_host, safe='')}/{queue.name}")
            for queue in topology.describe(enterprise_managers).queues
        }
    except _NotAnsweredError as error:
        yield doubtful("management", f"API at {where}: {error}", f"or set {_VARIABLE}; without it no policy is seen")
        yield _held(settings, {})
        return
    yield good("management", f"API at {where}")
    described = {queue.name: queue for queue in topology.describe(enterprise_managers).queues}
    there = {name: found for name, found in queues.items() if isinstance(found, dict)}
    problems = [problem for name, found in there.items() for problem in _differences(described[name], found)]
    for problem in problems:
        yield wrong("effective", problem, "correct the policy, or delete the queue for the worker to declare it anew")
    if there and not problems:
        yield good("effective", f"arguments and policies of {len(there)} queues are as the worker needs them")
    yield _held(settings, {name: there[name] for name in names if name in there})


def _api(settings: BrokerSettings) -> _Api:
    broker = urlsplit(settings.url.get_secret_value())
    scheme, port = _PORTS[broker.scheme]
    host = broker.hostname or "localhost"
    named = settings.management_url.get_secret_value() if settings.management_url is not None else None
    parts = urlsplit(named or f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    credentials = parts if parts.username is not None else broker
    return _Api(
        url=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}",
        credentials=(unquote(credentials.username or "guest"), unquote(credentials.password or "guest")),
        ca_file=str(settings.ca_file) if settings.ca_file is not None else None,
        virtual_host=unquote(broker.path.removeprefix("/")) or "/",
    )


def _effective(found: Mapping[str, Any], argument: str) -> Any:
    """The effective value of an argument: the queue's own, the policy's, or the lower one of two numbers."""
    own = (found.get("arguments") or {}).get(argument)
    policy = (found.get("effective_policy_definition") or {}).get(argument.removeprefix("x-"))
    if isinstance(own, int) and isinstance(policy, int):
        return min(own, policy)
    return policy if own is None else own


def _differences(queue: Queue, found: Mapping[str, Any]) -> list[str]:
    differences = []
    for argument, wanted in queue.arguments.items():
        seen = found.get("type", "quorum") if argument == "x-queue-type" else _effective(found, argument)
        if seen == wanted or (isinstance(wanted, int) and argument in _MAY_DIFFER and seen is not None):
            continue
        differences.append(f"{queue.name}: {argument} is {'not set' if seen is None else seen}, not {wanted}")
    lossy = {argument: _effective(found, argument) for argument in _UNWANTED if argument not in queue.arguments}
    differences += [
        f"{queue.name}: {argument} is {seen}, by which commands or events may be lost"
        for argument, seen in lossy.items()
        if seen is not None
    ]
    return differences


#: Limits that an installation may set by policy.
_MAY_DIFFER = frozenset({"x-delivery-limit", "x-max-length"})

#: Arguments that drop messages. The worker does not want them on queues that it declares without them.
_UNWANTED = ("x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes")


def _held(settings: BrokerSettings, queues: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Whether the consumer timeout is longer than the time for which the worker holds a delivery."""
    hold = settings.hold_seconds
    seen = [value / 1000 for found in queues.values() if isinstance(value := _effective(found, _TIMEOUT), int)]
    if seen and min(seen) <= hold:
        return wrong(
            "held",
            f"deliveries are held up to {hold:g} s, and a queue's consumer timeout is {min(seen):g} s",
            "lower UNLINK_BROKER__HOLD_SECONDS, or raise x-consumer-timeout",
        )
    if seen:
        return good("held", f"deliveries up to {hold:g} s, within the queues' consumer timeout of {min(seen):g} s")
    if hold >= DEFAULT_CONSUMER_TIMEOUT:
        return wrong(
            "held",
            f"deliveries are held up to {hold:g} s; RabbitMQ's default consumer timeout is 1800 s",
            "lower UNLINK_BROKER__HOLD_SECONDS, or see that consumer_timeout in rabbitmq.conf is longer",
        )
    return good(
        "held",
        f"deliveries up to {hold:g} s, within RabbitMQ's default consumer timeout of 1800 s; whether rabbitmq.conf "
        "shortens it, no API tells",
    )


_TIMEOUT = "x-consumer-timeout"
