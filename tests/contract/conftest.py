"""The contract among real parts: users with the least permissions, and a whole worker."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.connection import URLParameters

import contracts
from worker.broker.topology import declare, describe
from worker.sandbox.rabbitmq import find_installation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.sandbox.private_broker import PrivateBroker

RECIPES = Path(contracts.__file__).parent / "recipes"


@pytest.fixture(scope="session")
def recipes() -> Path:
    """The folder of the recipes."""
    return RECIPES


@pytest.fixture(scope="module")
def users_virtual_host(broker: PrivateBroker) -> Iterator[str]:
    """A virtual host with the worker's exchanges and queues."""
    vhost = f"{broker.management_url}/api/vhosts/users"
    requests.put(vhost, timeout=30).raise_for_status()
    asyncio.run(_declare(broker.url + "users"))
    yield "users"
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
def url_of(broker: PrivateBroker, users_virtual_host: str) -> Iterator[Callable[[str], str]]:
    """Makes the users of the recipe; gives the `amqp://` URL of one of them by the user's name."""
    environment = broker.environment
    path = f"{find_installation().scripts}:{environment.get('PATH', '')}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", RECIPES / "permissions.sh"],
        check=True,
        env={**environment, "PATH": path, "VHOST": users_virtual_host},
        timeout=110,
    )
    names: set[str] = set()

    def url_of(name: str) -> str:
        names.add(name)
        user = f"{broker.management_url}/api/users/{name}"
        tags = requests.get(user, timeout=30).json()["tags"]
        requests.put(user, json={"password": "known", "tags": tags}, timeout=30).raise_for_status()
        return f"amqp://{name}:known@127.0.0.1:{broker.port}/{users_virtual_host}"

    yield url_of
    for name in names:
        requests.delete(f"{broker.management_url}/api/users/{name}", timeout=30).raise_for_status()
