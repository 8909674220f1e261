"""A world for whole workers: real parts, a publisher that listens, and its commands."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from tests.preloaded.preloaded import Preloaded
from worker.broker.client import BrokerClient
from worker.broker.received_event import ReceivedEvent
from worker.sandbox.environment import worker_environment
from worker.sandbox.processes.supervisor import ProcessSupervisor
from worker.sandbox.processes.worker_process import RUN, WorkerProcess
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_LINK_ID,
    SimulatedEnterpriseManager,
)
from worker.settings import BrokerSettings

#: How long a test waits for what should happen, in seconds: these machines are shared.
TIMEOUT_SECONDS = 90.0


def vendor_command(key: str = "CHG1", **changes: Any) -> dict[str, Any]:
    """The vendor page's example as a command."""
    return {
        "command": "unlink.v1",
        "idempotency_key": key,
        "job": {"id": VENDOR_JOB_ID},
        "repository": {"link_id": VENDOR_LINK_ID},
        **changes,
    }


class World:
    """A broker, an Enterprise Manager, a ledger, workers on demand, and a publisher that listens.

    Args:
        broker_url: with a virtual host of the test's own.
        ledger_url: of an empty database.
        enterprise_manager: the simulated one.
        started_by_exec: whether each worker is a new Python, as in production, and not the fork of one.
    """

    def __init__(
        self,
        broker_url: str,
        ledger_url: str,
        enterprise_manager: SimulatedEnterpriseManager,
        *,
        started_by_exec: bool = False,
    ) -> None:
        self.enterprise_manager = enterprise_manager
        self.environment = worker_environment(broker_url, ledger_url, enterprise_manager)
        self.workers: list[WorkerProcess] = []
        self.received: list[ReceivedEvent] = []
        self.supervisor = ProcessSupervisor("end-to-end") if started_by_exec else Preloaded()
        self._settings = BrokerSettings.model_validate({"url": broker_url})
        self._client: BrokerClient | None = None

    def start_worker(
        self, changes: Mapping[str, str] | None = None, program: Sequence[str] = RUN, *, wait: bool = True
    ) -> WorkerProcess:
        """Start one more worker."""
        name = f"worker-{len(self.workers) + 1}"
        worker = WorkerProcess(self.supervisor, name, self.environment | dict(changes or {}), program)
        self.workers.append(worker)
        if wait:
            worker.wait_until_started()
        return worker

    def broker_url_with_password(self, password: str) -> str:
        """The broker's URL with another password."""
        url = urlsplit(self.environment["UNLINK_BROKER__URL"])
        return url._replace(netloc=f"{url.username}:{password}@{url.hostname}:{url.port}").geturl()

    def listen(self) -> None:
        """Receive the events from now on; a worker has declared the exchange."""
        self.client.listen()

    def serve(self, changes: Mapping[str, str] | None = None, program: Sequence[str] = RUN) -> WorkerProcess:
        """Start a worker, and receive the events from then on."""
        worker = self.start_worker(changes, program)
        self.listen()
        return worker

    @property
    def client(self) -> BrokerClient:
        """The publisher's connection."""
        if self._client is None:
            self._client = BrokerClient(self._settings).__enter__()
        return self._client

    def reconnect(self) -> None:
        """A new connection of the publisher's; events in between are not received."""
        self.client.__exit__(None, None, None)
        self._client = BrokerClient(self._settings).__enter__()

    def send(self, command: dict[str, Any] | bytes) -> None:
        """Publish a command, or anything."""
        body = command if isinstance(command, bytes) else json.dumps(command).encode()
        self.client.publish(body, "default")

    def unlink(self, key: str = "CHG1", **changes: Any) -> ReceivedEvent:
        """Publish the vendor page's example; its terminal event."""
        self.send(vendor_command(key, **changes))
        self.until_ended(key)
        return self.of(key)[-1]

    def until_ended(self, *keys: str | None) -> None:
        """Listen until each of these keys had a terminal event."""
        over = time.monotonic() + TIMEOUT_SECONDS
        while missing := set(keys) - {event.key for event in self.received if event.outcome != "submitted"}:
            event = self.client.next_event(seconds=0.5)
            if event is not None:
                self.received.append(event)
            logs = "\n".join(worker.log()[-3000:] for worker in self.workers)
            assert time.monotonic() < over, f"no end of {sorted(map(str, missing))[:5]}; the workers' logs end:\n{logs}"

    def until(self, condition: Any, what: str) -> None:
        """Wait for a condition while listening."""
        over = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            event = self.client.next_event(seconds=0.05)
            if event is not None:
                self.received.append(event)
            assert time.monotonic() < over, f"never: {what}"

    def listen_for(self, seconds: float) -> None:
        """Hear what else comes."""
        while (event := self.client.next_event(seconds)) is not None:
            self.received.append(event)

    def of(self, key: str | None) -> list[ReceivedEvent]:
        """What was received of a key."""
        return [event for event in self.received if event.key == key]

    def ends_of(self, key: str | None) -> set[tuple[str, str]]:
        """The terminal events of a key: outcome and ID."""
        return {(event.outcome, event.id) for event in self.of(key) if event.outcome != "submitted"}

    def until_acknowledged(self) -> None:
        """Wait until the queue is empty and the workers have answered all deliveries.

        The broker's count alone does not include unacknowledged messages.
        """
        self.until(lambda: self.client.count("unlink.commands.default") == 0, "an empty queue")
        for worker in self.workers:
            self.until(lambda worker=worker: not worker.running or worker.unacknowledged() == 0, "all acknowledged")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running."""
        if self._client is not None:
            self._client.__exit__(None, None, None)
        self.supervisor.close()
