"""The interactive sandbox: all parts, an estate, and the settings for a shell."""

from __future__ import annotations

import json
import shlex
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worker.broker.topology import DEAD
from worker.cli.sandbox import estate
from worker.cli.sandbox.tickets import ticketing_system
from worker.cli.tryout.client import client_of
from worker.cli.tryout.console import ConsoleAddress, make_users, start_console
from worker.sandbox.contexts import Assembly
from worker.sandbox.environment import SandboxEnvironment
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.simulated_enterprise_manager import Behaviour
from worker.sandbox.simulated_enterprise_manager.control import control_over_https

#: How long the dead letters are waited for, in seconds.
_TIMEOUT_SECONDS = 90.0
#: How long an edit of a job takes, in seconds: long enough to be watched.
_EDIT_SECONDS = 3.0

#: Commands that are dead-lettered at once, by routing key: a misspelt field, and a routing key that cannot be the name
#: of an Enterprise Manager. (A command with a valid name waits ten minutes for a worker that serves it.)
_DEAD_LETTERS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "default",
        {
            "command": "unlink.v1",
            "idempotency_key": "CHG0030188",
            "job": {"name": "Copy to Vienna"},
            "repository": {"name": "Scale-out 1"},
            "dryrun": True,
        },
    ),
    (
        "branch office",
        {
            "command": "unlink.v1",
            "idempotency_key": "CHG0030189",
            "enterprise_manager": "branch-office",
            "job": {"name": "Copy to Vienna"},
            "repository": {"name": "Scale-out 1"},
        },
    ),
)


class InteractiveSandbox(Assembly):
    """A sandbox with an estate, a control channel, a ticketing system, one worker and two dead letters.

    With an address also the console, with a user of each role. A context manager. It removes everything when it closes.
    """

    def __init__(self, console: ConsoleAddress | None = None) -> None:
        self.console = console
        #: A file with the passwords of the console's users, readable by its owner alone; None without the console.
        self.passwords_file: Path | None = None

    def _open(self, stack: ExitStack) -> None:
        sandbox = SandboxEnvironment(behaviour=Behaviour(edit_seconds=_EDIT_SECONDS), management=True)
        self._sandbox = stack.enter_context(sandbox)
        estate.furnish(self._sandbox.enterprise_manager)
        self._control_url = stack.enter_context(control_over_https(self._sandbox.enterprise_manager))
        self._tickets_url = stack.enter_context(ticketing_system())
        self.worker = self._sandbox.start_worker()
        self._make_dead_letters()
        if self.console is not None:
            users_file, self.passwords_file = make_users(self._sandbox.supervisor.directory)
            start_console(self._sandbox, self.console, users_file)
        self._write("netrc", self._netrc())
        #: A file with all of `exports`, for the shell's `.` command, readable by its owner alone.
        self.settings_file = self._write("settings", self.exports)

    @property
    def management_url(self) -> str:
        """RabbitMQ's HTTP API and management pages, without user and password."""
        address = urlsplit(self._sandbox.broker.management_url)
        return f"{address.scheme}://{address.hostname}:{address.port}"

    @property
    def control_url(self) -> str:
        """The URL of the simulated Enterprise Manager's control API, over HTTPS."""
        return self._control_url.rstrip("/")

    @property
    def exports(self) -> str:
        """Lines that set up a shell. They contain passwords: print them on the user's terminal, never to a log."""
        lines = [f'export PATH={shlex.quote(sysconfig.get_path("scripts"))}:"$PATH"']
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(self._variables().items())]
        return "".join(f"{line}\n" for line in lines)

    def _variables(self) -> dict[str, str]:
        return self._sandbox.environment | {
            "AMQP_URL": self._sandbox.broker.url,
            "RABBITMQ_API": self.management_url,
            "RABBITMQ_NETRC": str(self._sandbox.supervisor.directory / "netrc"),
            "SANDBOX_CA_FILE": str(self._sandbox.enterprise_manager.ca_file),
            "SANDBOX_CONTROL_URL": self.control_url,
            "TICKETS_API": self._tickets_url,
            "UNLINK_BROKER__MANAGEMENT_URL": self._sandbox.broker.management_url,
        }

    def _netrc(self) -> str:
        """A netrc line with the broker's user, so that HTTP clients need no password on their command line."""
        address = urlsplit(self._sandbox.broker.management_url)
        return f"machine {address.hostname} login {address.username} password {address.password}\n"

    def _write(self, name: str, content: str) -> Path:
        file = self._sandbox.supervisor.directory / name
        file.touch(mode=0o600)
        file.write_text(content, encoding="utf-8")
        return file

    def _make_dead_letters(self) -> None:
        with client_of(self._sandbox) as client:
            for routing_key, command in _DEAD_LETTERS:
                client.publish(json.dumps(command).encode(), routing_key)
            if not wait_until(lambda: client.count(DEAD) == len(_DEAD_LETTERS), seconds=_TIMEOUT_SECONDS):
                raise PartFailedError(f"no dead letters within {_TIMEOUT_SECONDS:g} s; see {self.worker.log_file}")
