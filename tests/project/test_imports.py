"""What a command imports decides how long a person waits for it: counted, not timed."""

from __future__ import annotations

import sys

import pytest

from tests import programs

#: What takes long to import, or much memory.
HEAVY = {
    *("alembic", "fastapi", "jinja2", "opentelemetry", "pika", "prometheus_client", "psycopg", "pydantic", "requests"),
    *("sqlalchemy", "structlog", "tenacity", "urllib3", "uvicorn"),
}

_PROGRAM = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from worker.cli import main
main()
"""


def imported_by(*arguments: str, environment: dict[str, str] | None = None) -> set[str]:
    """The modules that a command has imported when it ends."""
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    done = programs.run(command, env=environment)
    return set(done.stderr.split())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_program_itself_imports_nothing_heavy(option: str) -> None:
    """Else `unlink-worker --help` and completion take a second."""
    modules = imported_by(option)
    assert "typer" in modules
    assert not HEAVY & modules


def test_status_imports_the_ledger_alone(sqlite_url: str) -> None:
    """Else a person waits twice as long for the state of a key."""
    modules = imported_by("status", "a-key", environment={"UNLINK_LEDGER__URL": sqlite_url})
    assert modules >= {"pydantic", "sqlalchemy"}
    assert HEAVY & modules == {"pydantic", "sqlalchemy"}
    assert "sqlalchemy.dialects.postgresql" not in modules
