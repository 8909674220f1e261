"""What the benchmarks share: real parts of their own, workers, a thousand unlinks, somebody who hears their ends."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import pika

from tests.chaos.arena import start_enterprise_manager
from tests.chaos.outsiders import Observer
from tests.private_servers.postgresql import PrivatePostgresql
from worker.broker.topology import COMMANDS
from worker.sandbox.contexts import Assembly
from worker.sandbox.environment import enterprise_manager_environment
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import ProcessSupervisor, wait_until
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.rabbitmq.choice import private_broker

#: How many unlinks each benchmark runs.
UNLINKS = 1000

#: How long a benchmark waits for what should happen, in seconds.
_PATIENCE_SECONDS = 900.0

EM = "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__"


class Bench(Assembly):
    """A broker of one node, PostgreSQL, an Enterprise Manager in a process of its own. A context manager."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def _open(self, stack: ExitStack) -> None:
        self.supervisor = stack.enter_context(ProcessSupervisor("benchmark"))
        self.broker = stack.enter_context(private_broker())
        self._postgresql = stack.enter_context(PrivatePostgresql())
        self.enterprise_manager = start_enterprise_manager(self.supervisor)
        self._observer = Observer(lambda: self.broker.url)
        self._listens = False

    def new_ledger(self) -> str:
        """The URL of an empty database."""
        return self._postgresql.create_database(f"ledger_{next(self._numbers)}")

    def start_workers(self, number: int, ledger_url: str, changes: Mapping[str, str]) -> list[WorkerProcess]:
        """Start so many workers at once; returns when all take commands, and somebody hears the events."""
        environment = {
            "UNLINK_BROKER__URL": self.broker.url,
            "UNLINK_LEDGER__URL": ledger_url,
            **enterprise_manager_environment(self.enterprise_manager),
            "UNLINK_HTTP__HOST": "127.0.0.1",
            "UNLINK_HTTP__PORT": "0",
        }
        workers = [
            WorkerProcess(self.supervisor, f"worker-{next(self._numbers)}", environment | dict(changes))
            for _ in range(number)
        ]
        for worker in workers:
            worker.wait_until_started()
        if not self._listens:
            self._stack.enter_context(self._observer)
            self._listens = self._observer.until_listening(30)
        return workers

    def commands(self) -> dict[str, bytes]:
        """A thousand new commands by key, each about a job of its own."""
        commands: dict[str, bytes] = {}
        for _ in range(UNLINKS):
            number = next(self._numbers)
            job = self.enterprise_manager.add_job(name=f"Copy job {number}", links=[str(uuid.uuid4())])
            (link,) = self.enterprise_manager.links(job)
            key = f"bench-{number}"
            command = {
                "command": "unlink.v1",
                "idempotency_key": key,
                "job": {"id": job},
                "repository": {"link_id": link.object_in_job_id},
            }
            commands[key] = json.dumps(command).encode()
        return commands

    def publish(self, commands: Mapping[str, bytes]) -> None:
        """Publish them, confirmed, as fast as can be."""
        with pika.BlockingConnection(pika.URLParameters(self.broker.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for body in commands.values():
                channel.basic_publish(COMMANDS, "default", body, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def until_ended(self, keys: Sequence[str]) -> Counter[str]:
        """Wait until each of these has its terminal event; how they ended.

        Raises:
            PartFailedError: they do not.
        """
        wanted = set(keys)
        if not wait_until(lambda: wanted <= self._observer.ended, seconds=_PATIENCE_SECONDS):
            raise PartFailedError(f"{len(wanted - self._observer.ended)} of {len(wanted)} unlinks did not end")
        ends = {event.key: event.outcome for event in self._observer.heard if event.terminal}
        return Counter(ends[key] for key in keys)

    def until_deletes(self, number: int) -> None:
        """Wait until Enterprise Manager has received so many DELETEs of links.

        Raises:
            PartFailedError: it does not.
        """
        if not wait_until(self._deletes_are(number), seconds=_PATIENCE_SECONDS, interval=0.5):
            raise PartFailedError(f"Enterprise Manager did not receive {number} DELETEs")

    def seconds_for(self, commands: Mapping[str, bytes]) -> float:
        """Publish them, and wait for their ends: how long that took."""
        began = time.monotonic()
        self.publish(commands)
        self.until_ended(list(commands))
        return time.monotonic() - began

    def _deletes_are(self, number: int) -> Callable[[], bool]:
        return lambda: self.enterprise_manager.count("DELETE", "/linkedBackupRepositories/") >= number
