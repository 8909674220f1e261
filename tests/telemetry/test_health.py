"""`/livez` and `/readyz`: what a whole worker says of its surroundings."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
import requests
from prometheus_client import CollectorRegistry

from tests import programs
from tests.end_to_end.world import World
from tests.private_servers.postgresql import PrivatePostgresql
from tests.rabbitmq import own_node
from tests.telemetry.observed import LOOPBACK, Observed
from worker.sandbox.environment import enterprise_manager_environment
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager
from worker.settings import HttpSettings
from worker.telemetry import http
from worker.telemetry.health import GracePeriods, Health
from worker.telemetry.http import MOST_CONNECTIONS, TelemetryServer


class There:
    """A part that is up, and of which nothing is to be said."""

    up = True
    last_problem = None
    consuming = frozenset({"default"})
    wanted = frozenset({"default"})


def health_of(broker: There, **grace: float) -> Health:
    """The health of a worker all of whose parts are there but, perhaps, for one."""
    return Health(
        broker=broker,
        ledger=There(),
        enterprise_managers={"default": There()},
        monotonic=time.monotonic,
        clean=str,
        grace=GracePeriods(**grace),
    )


def served(health: Health) -> TelemetryServer:
    """A server for it, on any port."""
    return TelemetryServer(HttpSettings(host="127.0.0.1", port=0), health, CollectorRegistry())


async def test_a_loop_that_is_stuck_is_seen_while_it_is() -> None:
    """A worker whose loop hangs answers its probe with no, rather than not at all, and is started again."""
    health = health_of(There(), loop=0.3)
    with served(health) as server, ThreadPoolExecutor(1) as elsewhere:
        watch = asyncio.create_task(health.keep_watch())
        await asyncio.sleep(0)
        url = f"http://127.0.0.1:{server.port}/livez"
        assert (await asyncio.to_thread(requests.get, url, timeout=5)).status_code == 200
        asked = elsewhere.submit(_ask_until, url, 503)
        while not asked.done():
            time.sleep(0.01)  # noqa: ASYNC251 - this is what is tried: the loop does not turn
        assert "has not run" in asked.result().json()["loop"]["problem"]
        assert (await asyncio.to_thread(_ask_until, url, 200)).json()["live"] is True
        watch.cancel()


def _ask_until(url: str, status: int) -> requests.Response:
    over = time.monotonic() + 20
    while (answer := requests.get(url, timeout=5)).status_code != status and time.monotonic() < over:
        pass
    return answer


async def test_a_consumer_that_is_missing_for_a_moment_is_no_reason_to_die() -> None:
    """A queue whose leader moves costs seconds without a consumer, and no restart."""
    broker = There()
    broker.consuming = frozenset()
    health = health_of(broker, consumer=3600)
    watch = asyncio.create_task(health.keep_watch())
    await asyncio.sleep(0)
    assert health.live().good
    watch.cancel()


@pytest.mark.slow
def test_a_broker_that_is_away_makes_it_unready_and_not_dead(world: World, broker: LocalBroker) -> None:
    """Restarting workers would not bring a broker back."""
    worker = Observed(world.start_worker(LOOPBACK))
    worker.until_ready(ready=True)
    own_node(broker).stop()
    try:
        reported = worker.until_ready(ready=False)
        assert not reported["broker"]["ok"]
        assert reported["broker"]["problem"]
        assert reported["ledger"]["ok"]
        assert worker.get("/livez").json()["live"] is True
    finally:
        own_node(broker).start()
    worker.until_ready(ready=True)
    assert worker.value("unlink_broker_reconnections_total") >= 1


def test_a_ledger_that_is_away_makes_it_unready_and_not_dead(
    world_on_postgresql: World, postgresql: PrivatePostgresql
) -> None:
    """Restarting workers would not bring a database back."""
    worker = Observed(world_on_postgresql.start_worker(LOOPBACK))
    worker.until_ready(ready=True)
    postgresql.stop()
    try:
        reported = worker.until_ready(ready=False)
        assert (reported["broker"]["ok"], reported["ledger"]["ok"]) == (True, False)
        assert worker.get("/livez").json()["live"] is True
    finally:
        postgresql.start()
    worker.until_ready(ready=True)


@pytest.mark.slow
def test_one_enterprise_manager_of_two_is_enough(world: World) -> None:
    """A site that is down for maintenance takes no worker out of the service of the others."""
    with SimulatedEnterpriseManager.start() as second:
        settings = enterprise_manager_environment(second, "SECOND")
        worker = Observed(world.start_worker(LOOPBACK | settings))
        worker.until_ready(ready=True)
        # One after the other: the longer one is away, the longer are the pauses between the looks for it.
        for name, away in (("second", second), ("default", world.enterprise_manager)):
            away.refuse_connections()
            world.client.publish(_plan(name), name)
            worker.until(lambda name=name: _is_down(worker, name), f"{name} away")  # type: ignore[misc] # no type for it
        reported = worker.until_ready(ready=False)
        assert {name: each["ok"] for name, each in reported["enterprise_managers"].items()} == {
            "default": False,
            "second": False,
        }
        assert world.enterprise_manager.password not in str(reported)
        world.enterprise_manager.accept_connections()
        reported = worker.until_ready(ready=True)
        assert reported["enterprise_managers"]["second"]["ok"] is False


def _is_down(worker: Observed, name: str) -> bool:
    return worker.value("unlink_enterprise_manager_up", enterprise_manager=name) == 0


def _plan(name: str) -> bytes:
    command = (
        '{"command":"unlink.v1","idempotency_key":"P","enterprise_manager":"%s","dry_run":true,'
        '"job":{"name":"x"},"repository":{"name":"y"}}'
    )
    return (command % name).encode()


@pytest.mark.slow
def test_a_port_in_use_is_one_readable_line(world: World) -> None:
    """Whoever starts two workers on one host reads what to change, and no stack trace."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"UNLINK_HTTP__HOST": "127.0.0.1", "UNLINK_HTTP__PORT": str(port)}
        ended = programs.run(
            [sys.executable, "-m", "worker", "run"], env={**os.environ, **world.environment, **settings}
        )
    assert ended.returncode == 2
    assert f"UNLINK_HTTP__PORT: 127.0.0.1:{port} is in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_not_served_is_not_found(world: World) -> None:
    """A mistyped path in a probe is told, with the right ones."""
    worker = Observed(world.start_worker(LOOPBACK))
    answer = worker.get("/healthz")
    assert answer.status_code == 404
    assert answer.text.split() == ["/livez", "/readyz", "/metrics"]


def test_what_is_not_read_is_not_allowed() -> None:
    """A client that sends something else than a probe learns what is served."""
    with served(health_of(There())) as server:
        answer = requests.post(f"http://127.0.0.1:{server.port}/livez", timeout=5)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
        head = requests.head(f"http://127.0.0.1:{server.port}/livez", timeout=5)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["Content-Length"]) > 0


def test_idle_connections_are_bounded_and_cost_no_thread() -> None:
    """Else a port scanner that opens connections would take the process's threads and file descriptors."""
    before = threading.active_count()
    with served(health_of(There())) as server, ExitStack() as closed_later:
        silent = [
            closed_later.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(MOST_CONNECTIONS * 3)
        ]
        assert requests.get(f"http://127.0.0.1:{server.port}/livez", timeout=5).status_code == 200
        assert threading.active_count() - before == 1
        for connection in silent[:MOST_CONNECTIONS]:
            assert _closed_by_the_server(connection)
        assert requests.get(f"http://127.0.0.1:{server.port}/livez", timeout=5).status_code == 200


def test_a_request_that_trickles_in_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else such connections would stay for as long as their clients like."""
    monkeypatch.setattr(http, "CLIENT_SECONDS", 0.3)
    with (
        served(health_of(There())) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
        pytest.raises(ConnectionError),
    ):
        _trickle(connection)


def _trickle(connection: socket.socket) -> None:
    over = time.monotonic() + 10
    while time.monotonic() < over:
        connection.sendall(b"G")
        time.sleep(0.01)


def test_it_answers_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker that is short of threads would be killed by its probe in the middle of its unlinks."""
    with served(health_of(There())) as server:
        monkeypatch.setattr(threading.Thread, "start", _refuse)
        assert requests.get(f"http://127.0.0.1:{server.port}/livez", timeout=5).status_code == 200


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def _closed_by_the_server(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("junk", [b"\r\n", b"GET /livez\r\n\r\n", b"\xff\x00" * 10_000, b"A: b\r\n" * 200])
def test_what_is_no_request_only_closes_its_connection(junk: bytes) -> None:
    """Else a client of another protocol would make the probes fail."""
    with served(health_of(There())) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            with suppress(ConnectionError):
                connection.sendall(junk)
            assert _closed_by_the_server(connection)
        assert requests.get(f"http://127.0.0.1:{server.port}/livez", timeout=5).status_code == 200
