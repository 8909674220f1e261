"""The real parts, and the network between them: a broker of three nodes, a ledger, an Enterprise Manager, workers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.chaos.plan import Plan, repository_name
from tests.private_servers.postgresql import PrivatePostgresql
from tests.private_servers.proxy import Network, Proxy
from tests.private_servers.rabbitmq_cluster import PrivateCluster
from worker.sandbox.contexts import Assembly
from worker.sandbox.environment import enterprise_manager_environment
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import ProcessSupervisor, wait_until
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.rabbitmq.node import RabbitmqNode
from worker.sandbox.secret import new_secret
from worker.sandbox.simulated_enterprise_manager import SimulationControl

Result = TypeVar("Result")

#: How long a worker that says nothing keeps its unlinks, in seconds.
LEASE_SECONDS = 5.0

#: How long a worker may hold a delivery, in seconds.
HOLD_SECONDS = 40.0

#: How long a request may stay without an answer, and an old task may still do its work, in seconds. A request that a
#: black hole delivers late, and the edit that it starts, must be over within the second of them.
REQUEST_SECONDS = 4.0
SETTLING_SECONDS = 12.0

_SETTINGS = {
    "UNLINK_LEDGER__LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "UNLINK_BROKER__HOLD_SECONDS": f"{HOLD_SECONDS:g}",
    "UNLINK_BROKER__HEARTBEAT_SECONDS": "5",
    "UNLINK_BROKER__CONFIRM_SECONDS": "5",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__MAX_IN_FLIGHT": "40",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__POLL_INTERVAL_SECONDS": "0.5",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__REQUEST_TIMEOUT_SECONDS": f"{REQUEST_SECONDS:g}",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__VERIFY_SECONDS": "10",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__SETTLING_SECONDS": f"{SETTLING_SECONDS:g}",
    "UNLINK_DRAIN_SECONDS": "2",
    "UNLINK_HTTP__HOST": "127.0.0.1",
    "UNLINK_HTTP__PORT": "0",
}

#: What the simulated Enterprise Manager does: everything takes its time, lists lag, the link goes before the task ends,
#: and of two edits of one job at once the last one undoes the other.
_BEHAVIOUR = {
    "edit_seconds": 5.0,
    "operation_finished_seconds": 0.5,
    "list_lag_seconds": 1.5,
    "edits_of_one_job": "overlapping",
}

_PROGRAM = Path(__file__).with_name("fallible_worker.py")

#: The workers' user of the broker.
_WORKER = "worker"

_EM = "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__"


@dataclass(slots=True)
class Seat:
    """A worker's place: its own three ways to the outside, and whoever sits there now."""

    number: int
    broker: Proxy
    enterprise_manager: Proxy
    ledger: Proxy
    environment: Mapping[str, str]
    worker: WorkerProcess

    @property
    def proxies(self) -> tuple[Proxy, Proxy, Proxy]:
        """All of its ways out."""
        return self.broker, self.enterprise_manager, self.ledger


class Deployment(Assembly):
    """All parts, as a context manager; nothing of them is left when it closes.

    Args:
        workers: how many there are at once.
        lasting: how many of them are neither killed nor stopped.
    """

    def __init__(self, workers: int, lasting: int = 0) -> None:
        self._workers = workers
        self._lasting = lasting
        self._names = itertools.count(1)
        self.seats: list[Seat] = []
        self.all_workers: list[WorkerProcess] = []

    def _open(self, stack: ExitStack) -> None:
        self.supervisor = stack.enter_context(ProcessSupervisor("chaos"))
        self.network = stack.enter_context(Network())
        self.cluster = stack.enter_context(PrivateCluster(nodes=3))
        self.postgresql = PrivatePostgresql()
        stack.callback(self._close_postgresql)
        self.postgresql.start()
        self._ledger_url = self.postgresql.create_database("ledger")
        self._ledger_ports = [self.postgresql.port]
        self.enterprise_manager = start_enterprise_manager(self.supervisor)
        self.enterprise_manager.change_behaviour(**_BEHAVIOUR)
        self._worker_password = new_secret()
        self._broker_control("add_user", _WORKER, self._worker_password)
        self.permit_workers(".*", ".*", ".*")
        self._operators_way = self.network.proxy([node.port for node in self.cluster.nodes])
        self.outsiders_way = self.network.proxy([node.port for node in self.cluster.nodes])

    # --- workers ---

    def start_workers(self) -> None:
        """Take every seat, all at once, and wait until all take commands."""
        self.seats = [self._seat(number) for number in range(self._workers)]
        for seat in self.seats:
            seat.worker.wait_until_started()

    def replace(self, seat: Seat) -> None:
        """Start another worker in a seat whose worker has ended. It may find that nothing is there to work with."""
        seat.worker = self._start(seat.environment)

    @property
    def mortal_seats(self) -> list[Seat]:
        """The seats whose worker may be killed, or told to stop."""
        return self.seats[self._lasting :]

    def _seat(self, number: int) -> Seat:
        nodes = [node.port for node in self.cluster.nodes]
        home = number % len(nodes)
        broker = self.network.proxy(nodes[home:] + nodes[:home])
        enterprise_manager = self.network.proxy([urlsplit(self.enterprise_manager.url).port or 0])
        ledger = self.network.proxy(self._ledger_ports)
        environment = _SETTINGS | {
            "UNLINK_BROKER__URL": f"amqp://{_WORKER}:{self._worker_password}@127.0.0.1:{broker.port}/",
            "UNLINK_LEDGER__URL": _through(ledger, self._ledger_url),
            **enterprise_manager_environment(self.enterprise_manager),
            f"{_EM}URL": f"https://127.0.0.1:{enterprise_manager.port}",
            f"{_EM}FORMAT": ("xml", "json")[number % 2],
        }
        return Seat(number, broker, enterprise_manager, ledger, environment, self._start(environment))

    def _start(self, environment: Mapping[str, str]) -> WorkerProcess:
        name = f"worker-{next(self._names)}"
        program = (str(_PROGRAM), str(self._ailments(name)))
        worker = WorkerProcess(self.supervisor, name, environment, program)
        self.all_workers.append(worker)
        return worker

    def ail(self, seat: Seat, **ailments: float) -> None:
        """Let the host of a seat's worker have these ailments, and no others: see `fallible_worker.Ailments`."""
        file = self._ailments(seat.worker.name)
        written = file.with_suffix(".new")
        written.write_text(json.dumps(ailments))
        written.rename(file)

    def longest_hold(self) -> float:
        """The longest time that a worker held a delivery unacknowledged, in seconds, while it was not suspended."""
        return max(float(file.read_text() or 0) for file in self.supervisor.directory.glob("*.hold"))

    def reconnect(self, seat: Seat) -> None:
        """Cut all connections of a seat for a moment."""
        for proxy in seat.proxies:
            proxy.cut()
            proxy.heal()

    def _ailments(self, worker: str) -> Path:
        return self.supervisor.directory / f"{worker}.ailments"

    # --- the broker ---

    def on_broker(self, operation: Callable[[BlockingChannel], Result]) -> Result:
        """Do something as the broker's operator, again if a node goes down meanwhile."""
        url = _through(self._operators_way, self.cluster.nodes[0].url)

        def attempt() -> Result:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                return operation(connection.channel())

        away = retry_if_exception_type((AMQPError, OSError))
        return Retrying(retry=away, stop=stop_after_delay(60), wait=wait_fixed(1), reraise=True)(attempt)

    def has_exchange(self, name: str) -> bool:
        """Whether there is an exchange of this name."""
        return name in dict(self._list("list_exchanges", "name", "type"))

    def permit_workers(self, configure: str, write: str, read: str) -> None:
        """Let the workers' user do what these regular expressions name."""
        self._broker_control("set_permissions", _WORKER, configure, write, read)

    def reconnect_to_broker(self) -> None:
        """Cut all workers' connections to the broker for a moment."""
        for seat in self.seats:
            seat.broker.cut()
            seat.broker.heal()

    def outsiders_url(self) -> str:
        """Where publisher and observer connect."""
        return _through(self.outsiders_way, self.cluster.nodes[0].url)

    def bodies_in(self, queue: str) -> list[bytes]:
        """The messages of a queue, which are removed."""
        bodies: list[bytes] = []

        def take(channel: BlockingChannel) -> None:
            while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
                bodies.append(found[2] or b"")

        self.on_broker(take)
        return bodies

    def waiting(self, *queues: str) -> dict[str, int]:
        """How many messages each of these queues holds, those in a worker's hands included."""
        counts = self._list("list_queues", "name", "messages")
        return {name: int(count) for name, count in counts if name.startswith(queues)}

    def orphaned(self) -> int:
        """How many messages the broker counts as unacknowledged, although no consumer holds them.

        A quorum queue that has lost track of a consumer whose node or connection has gone keeps what that had in hand,
        until the queue has another leader (https://github.com/rabbitmq/rabbitmq-server/issues/15473).
        """
        handed_out = sum(int(count) for _, count in self._list("list_queues", "name", "messages_unacknowledged"))
        return handed_out - sum(
            int(count) for _, count in self._list("list_channels", "pid", "messages_unacknowledged")
        )

    def change_leader(self, queue: str) -> None:
        """Restart the node that leads a quorum queue, in good order."""
        leader = dict(self._list("list_queues", "name", "leader"))[queue]
        for node in self.cluster.nodes:
            if node.name == leader:
                node.stop()
                node.start()

    def _list(self, *arguments: str) -> list[tuple[str, str]]:
        """What a `list_` command of rabbitmqctl says of two columns."""
        rows = (line.split("\t") for line in self._broker_control(*arguments, "--no-table-headers").splitlines())
        return [(row[0], row[1]) for row in rows if len(row) == 2]

    def _broker_control(self, *arguments: str) -> str:
        node: RabbitmqNode = next(node for node in self.cluster.nodes if node.running)
        return node.rabbitmqctl(*arguments)

    # --- the ledger ---

    def fail_over(self, promote_after: float) -> None:
        """Kill PostgreSQL, and promote a synchronous standby that many seconds later: nothing committed is lost."""
        primary, standby = self.postgresql, PrivatePostgresql(standby_of=self.postgresql)
        try:
            standby.start()
            primary.commit_on_standby()
            self._ledger_ports.append(standby.port)
            primary.kill()
            time.sleep(promote_after)
            standby.promote()
        except BaseException:
            standby.close()
            raise
        self._ledger_ports.remove(primary.port)
        self.postgresql = standby
        primary.close()

    def _close_postgresql(self) -> None:
        """Close whichever it is by then."""
        self.postgresql.close()

    # --- Enterprise Manager ---

    def prepare(self, plan: Plan) -> None:
        """Add the plan's jobs, repositories and links."""
        for job in plan.jobs:
            for link in job.links:
                uid = link.repository_uid
                self.enterprise_manager.add_repository(repository_name(uid), uid)
            self.enterprise_manager.add_job(id=job.id, name=job.name, links=job.links)

    def gone(self) -> dict[str, datetime]:
        """When each link went that is there no more."""
        zero = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        return {link: zero + timedelta(seconds=at) for link, at in self.enterprise_manager.departures.items()}


def start_enterprise_manager(supervisor: ProcessSupervisor) -> SimulationControl:
    """A simulated Enterprise Manager in a process of its own, so that it does not take the suite's time.

    Raises:
        PartFailedError: it does not start.
    """
    log = supervisor.directory / "enterprise-manager.log"
    program = supervisor.start(
        [
            sys.executable,
            *("-m", "worker.sandbox.simulated_enterprise_manager"),
            *("--state-dir", supervisor.directory / "enterprise-manager"),
        ],
        environment=dict(os.environ),
        log=log,
        ending=signal.SIGTERM,
    )
    wait_until(lambda: "control_url" in _read(log) or not program.running, seconds=30)
    if "control_url" not in _read(log):
        raise PartFailedError(f"the simulated Enterprise Manager did not start:\n{program.log_tail()}")
    about: Mapping[str, str] = json.loads(_read(log).splitlines()[0])
    return SimulationControl(about["control_url"])


def _read(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def _through(proxy: Proxy, url: str) -> str:
    """A URL's way through a proxy."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()
