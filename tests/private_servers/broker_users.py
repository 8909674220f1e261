"""Users of the private broker, with passwords and permissions of a test's own."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import quote, urlsplit

import requests

from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.rabbitmq.private_broker import PrivateBroker

PASSWORD = "known"


def close_connections(broker: PrivateBroker, reason: str) -> None:
    """Close all connections of the user whose URL the broker gives out, as an operator or a failing node would.

    By the management API: a call of `rabbitmqctl` takes a second of CPU.
    """
    user = urlsplit(broker.url).username
    answer = requests.delete(
        f"{broker.management_url}/api/connections/username/{user}", headers={"X-Reason": reason}, timeout=30
    )
    answer.raise_for_status()


class BrokerUsers:
    """Makes users by the management API, and deletes them when it is closed."""

    def __init__(self, broker: PrivateBroker, virtual_host: str) -> None:
        self._broker = broker
        self._virtual_host = virtual_host
        self._made: set[str] = set()

    def url(self, user: str, password: str = PASSWORD, tags: str = "", **permissions: str) -> str:
        """The user's `amqp://` URL, once there is such a user with this password and these permissions.

        Args:
            user: its name.
            password: of a user who is there already, the new one.
            tags: what the user may do with the management API.
            permissions: `configure`, `write` and `read`; all of it if none is named, and nothing for one left out.
        """
        self._made.add(user)
        self.put(f"users/{user}", {"password": password, "tags": tags})
        usual = "" if permissions else ".*"
        self.put(
            f"permissions/{self._virtual_host}/{user}",
            dict.fromkeys(("configure", "write", "read"), usual) | permissions,
        )
        return f"amqp://{user}:{quote(password, safe='')}@{LOOPBACK}:{self._broker.port}/{self._virtual_host}"

    def put(self, path: str, content: Any) -> None:
        """Something done through the management API, as an administrator does it."""
        requests.put(f"{self._broker.management_url}/api/{path}", json=content, timeout=30).raise_for_status()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for user in self._made:
            requests.delete(f"{self._broker.management_url}/api/users/{user}", timeout=30).raise_for_status()
