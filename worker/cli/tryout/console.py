"""The console in the sandbox and in the demo: a process of its own, beside the worker."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from worker.sandbox.environment import SandboxEnvironment
from worker.sandbox.processes.free_ports import LOOPBACK, free_port
from worker.sandbox.processes.worker_process import WorkerProcess

_PROGRAM: Final = ("-m", "worker", "console")

#: A user of each role.
_USERS: Final = {"reader": "read", "submitter": "submit", "operator": "operate"}


def console_is_installed() -> bool:
    """Whether the packages of the extra `console` are there."""
    return all(find_spec(name) is not None for name in ("argon2", "fastapi", "jinja2", "uvicorn"))


@dataclass(frozen=True, slots=True)
class ConsoleAddress:
    """Where a console will be served: a free port of the loopback address."""

    port: int

    @classmethod
    def free(cls) -> ConsoleAddress:
        """One that no program uses."""
        return cls(free_port())

    @property
    def url(self) -> str:
        """For a browser."""
        return f"http://{LOOPBACK}:{self.port}/"


def start_console(sandbox: SandboxEnvironment, address: ConsoleAddress, users_file: Path | None = None) -> None:
    """Start the console, and wait until it serves. Without users it is read-only.

    Raises:
        PartFailedError: it did not start in time.
    """
    environment = {
        **sandbox.environment,
        "UNLINK_CONSOLE__PORT": str(address.port),
        **({} if users_file is None else {"UNLINK_CONSOLE__USERS_FILE": str(users_file)}),
    }
    WorkerProcess(sandbox.supervisor, "console", environment, _PROGRAM).wait_for_log("console.listening")


def make_users(folder: Path) -> tuple[Path, Path]:
    """Make one user of each role with a random password: the console's file, and a file with the passwords.

    Both are readable by their owner alone.
    """
    from worker.console.users import HASHER  # noqa: PLC0415 - of the extra `console`

    entries, passwords = [], []
    for name, role in _USERS.items():
        password = secrets.token_urlsafe(12)
        entries += ["[[users]]", f'name = "{name}"', f'role = "{role}"', f'password_argon2 = "{HASHER.hash(password)}"']
        passwords.append(f"{name:<10} {password}")
    return _write(folder / "users.toml", entries), _write(folder / "console-passwords", passwords)


def _write(file: Path, lines: list[str]) -> Path:
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
