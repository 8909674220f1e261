"""No secret in anything that a worker writes: a whole run with marked secrets, and a search through all of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit

import pytest

from tests.end_to_end.world import World, vendor_command
from tests.private_servers.broker_users import BrokerUsers
from tests.private_servers.http import Request, serving
from tests.private_servers.postgresql import PrivatePostgresql
from tests.rabbitmq import own_node
from tests.telemetry.observed import LOOPBACK, Observed
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager
from worker.sandbox.simulated_enterprise_manager.model import Session
from worker.sandbox.simulated_enterprise_manager.state import State

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"

#: With what tends to go wrong: URL syntax, quotes, format characters, something to escape in JSON.
AWKWARD = "m4rked/%41:@?&#'\"\\{0}"
ENTERPRISE_MANAGER_PASSWORD = f"em-{AWKWARD}"
BROKER_PASSWORD = f"broker-{AWKWARD}"
WRONG_PASSWORD = f"wrong-{AWKWARD}"


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every session token that a simulated Enterprise Manager gives out."""
    given: list[str] = []
    log_on = State.log_on

    def listening(self: State, username: str) -> Session:
        session = log_on(self, username)
        given.append(session.token)
        return session

    monkeypatch.setattr(State, "log_on", listening)
    return given


@pytest.fixture
def marked_world(broker_users: BrokerUsers, postgresql_url: str, tokens: list[str], tmp_path: Path) -> Iterator[World]:
    """A world of marked secrets."""
    del tokens
    url = broker_users.url("marked", BROKER_PASSWORD)
    with (
        SimulatedEnterpriseManager.start(password=ENTERPRISE_MANAGER_PASSWORD, folder=tmp_path) as enterprise_manager,
        # Its command line is looked at, too: a worker as it is started in production.
        World(url, postgresql_url, enterprise_manager, started_by_exec=True) as world,
    ):
        yield world


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A place for spans: its address, and all that was sent there, headers too."""
    sent: list[bytes] = []

    def respond(request: Request) -> None:
        sent.append(request.headers.as_bytes() + request.body())
        request.answer(200)

    with serving(respond) as url:
        yield f"{url}/v1/traces", sent


def disguises(secret: str) -> set[str]:
    """The secret, and how it looks in a URL, in JSON, in a Python string, in a Basic header."""
    of_user = {f"{user}:{secret}" for user in ("", "marked", "CORP\\unlink-worker")}
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        *(base64.b64encode(text.encode()).decode() for text in of_user),
    }


def run_through_everything(world: World, broker: LocalBroker, postgresql: PrivatePostgresql, spans: str) -> str:
    """Success, failures, losses and returns, at debug level; all that probes and scrapes were told meanwhile."""
    settings = LOOPBACK | {"UNLINK_LOG__LEVEL": "debug", "UNLINK_TRACES__ENDPOINT": spans}
    worker = Observed(world.start_worker(settings))
    reported: list[str] = []

    def ask() -> None:
        reported.extend(worker.get(path).text for path in ("/livez", "/readyz", "/metrics"))

    def unlink(key: str) -> None:
        job = world.enterprise_manager.add_job(name=key, links=[REPOSITORY])
        (link,) = world.enterprise_manager.links(job)
        world.send(vendor_command(key, job={"id": job}, repository={"link_id": link.object_in_job_id}))
        world.until_ended(key)
        ask()

    world.listen()
    unlink("succeeds")
    for kind in ("task_fails", "acts_and_drops_connection", "wrong_content", "cut_off"):
        world.enterprise_manager.inject(Fault(kind=kind, method="DELETE"))
        unlink(kind)
    for status in (400, 401, 403, 500, 503):
        world.enterprise_manager.inject(Fault(kind="status", method="DELETE", status=status))
        unlink(f"status-{status}")
    world.enterprise_manager.expire_sessions()
    unlink("after-expiry")
    world.enterprise_manager.refuse_connections()
    world.send(vendor_command("while-it-is-away", dry_run=True))
    worker.until_ready(ready=False)
    ask()
    world.enterprise_manager.accept_connections()
    world.until_ended("while-it-is-away")
    postgresql.stop()
    worker.until_ready(ready=False)
    ask()
    postgresql.start()
    worker.until_ready(ready=True)
    own_node(broker).stop()
    worker.until_ready(ready=False)
    ask()
    own_node(broker).start()
    world.reconnect()
    world.listen()
    worker.until_ready(ready=True)
    unlink("after-it-all")
    reported.append(Path(f"/proc/{worker.worker.pid}/cmdline").read_text())
    worker.worker.stop()
    return "\n".join(reported)


def refused_everywhere(world: World) -> None:
    """Workers with a wrong password for each part, until they have said so."""
    wrong = quote(WRONG_PASSWORD, safe="")
    ledger = urlsplit(world.environment["UNLINK_LEDGER__URL"])
    password = {
        "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD": (WRONG_PASSWORD, "enterprise_manager.logon_refused"),
        "UNLINK_BROKER__URL": (world.broker_url_with_password(wrong), "broker.connection_failed"),
        "UNLINK_LEDGER__URL": (
            ledger._replace(netloc=f"nobody:{wrong}@{ledger.hostname}:{ledger.port}").geturl(),
            "ledger.database_lost",
        ),
    }
    for variable, (value, event) in password.items():
        worker = world.start_worker(LOOPBACK | {variable: value, "UNLINK_LOG__LEVEL": "debug"}, wait=False)
        worker.wait_for_log(event)
        worker.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_secret_is_in_anything_that_leaves(
    marked_world: World, broker: LocalBroker, postgresql: PrivatePostgresql, tokens: list[str]
) -> None:
    """Logs are read by many, kept for long and sent elsewhere: so are events and metrics. None holds a secret."""
    world = marked_world
    with collector() as (address, spans):
        reported = run_through_everything(world, broker, postgresql, address)
        refused_everywhere(world)
    logs = {worker.name: worker.log() for worker in world.workers}
    ledger_password = urlsplit(world.environment["UNLINK_LEDGER__URL"]).password
    assert ledger_password
    assert len(tokens) >= 2
    secrets = {ENTERPRISE_MANAGER_PASSWORD, BROKER_PASSWORD, WRONG_PASSWORD, ledger_password, *tokens}
    places = {
        **logs,
        "events": "\n".join(event.body.decode() for event in world.received),
        "probes and metrics": reported,
        "spans": b"\n".join(spans).decode(errors="replace"),
    }
    found = [
        (place, secret)
        for place, text in places.items()
        for secret in secrets
        for disguise in disguises(secret)
        if disguise in text
    ]
    assert found == []
    # That it was looked for in the right places: there is something in each of them.
    assert all(len(text) > 1000 for text in places.values()), {place: len(text) for place, text in places.items()}
    assert "library.message" in logs["worker-1"]
