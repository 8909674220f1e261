"""A plugin of pytest: a test that needs a part which cannot be had here is not run, and one line at the end says so.

Where the environment says `CI=true`, a part that cannot be had is an error: a run that tests nothing would be green.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from worker.sandbox.errors import MissingPartError
from worker.sandbox.rabbitmq.choice import private_broker

#: How the reason of such a skip begins, then what is missing, and after a colon or a comma the details.
_REASON = re.compile(r"(?:Skipped: )?(?:NOT \w+: needs |NOT \w+: |needs )([^:,]+)")


def require_program(name: str, path: str | None = None) -> str:
    """The path of a program that belongs to the system, such as curl.

    Args:
        name: its name, and that of the part.
        path: where to look instead of the PATH.

    Raises:
        MissingPartError: there is none.
    """
    program = shutil.which(name, path=path)
    if program is None:
        raise MissingPartError(f"there is no {name} on this machine", part=name)
    return program


def require_rabbitmq() -> None:
    """See that a program which starts a RabbitMQ of its own will have one.

    Raises:
        MissingPartError: there is none.
    """
    private_broker("looked-for").close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Skip a test one of whose fixtures misses a part."""
    with _skip_if_a_part_is_missing():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test that misses a part itself."""
    with _skip_if_a_part_is_missing():
        return (yield)


# Outside of all others: what it writes comes after their summaries.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, object, object]:
    """Say which tests did not run, and for want of what."""
    result = yield
    reasons = (report.longrepr[2] for report in terminalreporter.getreports("skipped"))
    missing = Counter(found[1].strip() for reason in reasons if (found := _REASON.match(reason)))
    if number := missing.total():
        parts = ", ".join(f"{part} ({count})" for part, count in sorted(missing.items()))
        tests = "1 test" if number == 1 else f"{number} tests"
        terminalreporter.write_line(f"Not run: {tests}, for want of {parts}", yellow=True)
    return result


@contextmanager
def _skip_if_a_part_is_missing() -> Iterator[None]:
    try:
        yield
    except MissingPartError as error:
        if os.environ.get("CI", "").lower() in {"true", "1"}:
            raise
        pytest.skip(f"needs {error.part}: {str(error).splitlines()[0]}")
