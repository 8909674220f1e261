"""Users of the private broker, with passwords and permissions of a test's own."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import requests

from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.rabbitmq.private_broker import LocalBroker

PASSWORD = "known"


def close_connections(broker: LocalBroker, user: str, reason: str) -> None:
    """Close all connections of a user, as an operator or a failing node would.

    By the management API: a call of `rabbitmqctl` takes a second of CPU.
    """
    answer = requests.delete(
        f"{broker.management_url}/api/connections/username/{user}", headers={"X-Reason": reason}, timeout=30
    )
    answer.raise_for_status()


class BrokerUsers:
    """Makes users by the management API.

    They stay, as tests of other processes may use a user of the same name; each on a virtual host of its own.
    """

    def __init__(self, broker: LocalBroker, virtual_host: str) -> None:
        self._broker = broker
        self._virtual_host = virtual_host

    def url(self, user: str, password: str = PASSWORD, tags: str = "", **permissions: str) -> str:
        """The user's `amqp://` URL, once there is such a user with this password and these permissions.

        Args:
            user: its name.
            password: of a user who is there already, the new one.
            tags: what the user may do with the management API. A name has always the same.
            permissions: `configure`, `write` and `read`; all of it if none is named, and nothing for one left out.
        """
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
