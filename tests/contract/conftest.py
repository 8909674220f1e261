"""The contract among real parts: users with the least permissions, and a whole worker."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.connection import URLParameters

import contracts
from tests.end_to_end.world import World
from worker.broker.topology import declare, describe
from worker.sandbox.rabbitmq.installation import find_installation
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager

_numbers = itertools.count(1)

RECIPES = Path(contracts.__file__).parent / "recipes"


@pytest.fixture(scope="session")
def recipes() -> Path:
    """The folder of the recipes."""
    return RECIPES


@pytest.fixture(scope="module")
def users_virtual_host(broker: LocalBroker, worker_id: str) -> Iterator[str]:
    """A virtual host with the worker's exchanges and queues."""
    name = f"users-{worker_id}"
    vhost = f"{broker.management_url}/api/vhosts/{name}"
    requests.put(vhost, timeout=30).raise_for_status()
    asyncio.run(_declare(broker.url + name))
    yield name
    requests.delete(vhost, timeout=30).raise_for_status()


async def _declare(url: str) -> None:
    connected: asyncio.Future[AsyncioConnection] = asyncio.get_running_loop().create_future()
    AsyncioConnection(URLParameters(url), on_open_callback=connected.set_result)
    connection = await connected
    closed = asyncio.get_running_loop().create_future()
    connection.add_on_close_callback(lambda *_: closed.set_result(None))
    await declare(describe(["default"]), connection)
    connection.close()
    await closed


@pytest.fixture(scope="module")
def make_users(broker: LocalBroker, users_virtual_host: str) -> Callable[[], None]:
    """Runs the recipe that makes users."""
    environment = broker.environment
    path = f"{find_installation().scripts}:{environment.get('PATH', '')}:{os.environ['PATH']}"

    def make() -> None:
        subprocess.run(
            ["sh", RECIPES / "permissions.sh"],
            check=True,
            env={**environment, "PATH": path, "VHOST": users_virtual_host},
            timeout=110,
        )

    return make


@pytest.fixture(scope="module")
def url_of(
    broker: LocalBroker,
    users_virtual_host: str,
    make_users: Callable[[], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], str]:
    """Makes the users of the recipe; gives the `amqp://` URL of one of them by the user's name."""
    users = f"{broker.management_url}/api/users"
    # One process at a time: the recipe gives no password to a user who was not there when it began.
    with (tmp_path_factory.getbasetemp().parent / "recipe.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_users()
        for user in requests.get(users, timeout=30).json():
            if user["name"].startswith("unlink-"):
                known = {"password": "known", "tags": user["tags"]}
                requests.put(f"{users}/{user['name']}", json=known, timeout=30).raise_for_status()
    return lambda name: f"amqp://{name}:known@127.0.0.1:{broker.port}/{users_virtual_host}"


@dataclass(frozen=True, slots=True)
class Site:
    """A whole worker at work, and those things around it that the recipes are given."""

    world: World
    broker: LocalBroker
    virtual_host: str

    @property
    def amqp_url(self) -> str:
        """The broker's URL with this site's virtual host."""
        return self.broker.url + self.virtual_host

    def new_command(self, key: str) -> dict[str, Any]:
        """A command for a link that is there."""
        enterprise_manager = self.world.enterprise_manager
        repository = enterprise_manager.add_repository(f"repository of {key}")
        job = enterprise_manager.add_job(name=f"job of {key}", links=[repository])
        (link,) = enterprise_manager.links(job)
        return {
            "command": "unlink.v1",
            "idempotency_key": key,
            "job": {"id": job},
            "repository": {"link_id": link.object_in_job_id},
            "labels": {"repository": f"repository of {key}"},
        }

    def outcome_of(self, key: str) -> dict[str, Any]:
        """The `data` of the key's terminal event, once there is one."""
        self.world.until_ended(key)
        (end,) = {event.id: event for event in self.world.of(key) if event.outcome != "submitted"}.values()
        return end.data


@pytest.fixture(scope="module")
def site(broker: LocalBroker, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker for all tests of a file: each has a link of its own."""
    name = f"site-{worker_id}-{next(_numbers)}"
    vhost = f"{broker.management_url}/api/vhosts/{name}"
    requests.put(vhost, timeout=30).raise_for_status()
    with SimulatedEnterpriseManager.start() as enterprise_manager:
        ledger = tmp_path_factory.mktemp("site") / "ledger.sqlite"
        with World(broker.url + name, f"sqlite:///{ledger}", enterprise_manager) as world:
            world.serve()
            yield Site(world, broker, name)
    requests.delete(vhost, timeout=30).raise_for_status()
