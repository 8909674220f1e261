"""What reaches the log, and what does not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from worker.settings import LogSettings
from worker.telemetry import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The log so far."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_its_event_level_time_and_context(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever searches the log by key finds every line of one unlink."""
    logs.configure(LogSettings())
    with structlog.contextvars.bound_contextvars(idempotency_key="CHG1"):
        structlog.get_logger().info("unlink.submitted", task_id="task-1")
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "unlink.submitted", "level": "info", "idempotency_key": "CHG1", "task_id": "task-1"}


def test_libraries_come_out_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Pika's own warnings are JSON lines too, and cleaned like ours."""
    logs.configure(LogSettings(level="debug"), ["hunter2"])
    coloured = {"color_message": "closing \x1b[36m%s\x1b[0m"}
    logging.getLogger("pika.connection").warning("closing %s", "amqp://u:hunter2@host", extra=coloured)
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["library"]) == ("library.message", "warning", "pika.connection")
    assert line["message"].startswith("closing ")
    assert "hunter2" not in json.dumps(line)
    assert "color_message" not in line


@pytest.mark.parametrize(
    "fields",
    [
        {"problem": "refused for hunter2"},
        {"nested": {"list": ["hunter2"]}},
        {"password": "other"},
        {"headers": {"a": ("hunter2",)}},
        {"x_password": "other"},
        {"url": "amqp://someone:other@rabbit/"},
        {"error": ValueError("hunter2")},
    ],
)
def test_no_secret_gets_through(capsys: pytest.CaptureFixture[str], fields: dict[str, Any]) -> None:
    """A password in whatever field, at whatever depth, does not reach the log."""
    logs.configure(LogSettings(), ["hunter2"])
    structlog.get_logger().info("some.event", **fields)
    printed = json.dumps(lines(capsys))
    assert "hunter2" not in printed
    assert "other" not in printed


def test_a_short_password_does_not_make_the_log_unreadable(capsys: pytest.CaptureFixture[str]) -> None:
    """A one-letter password of a test system is hidden where it stands alone, and leaves other words whole."""
    logs.configure(LogSettings(), ["p"])
    structlog.get_logger().info("worker.stopped", problem="refused p for port")
    (line,) = lines(capsys)
    assert (line["event"], line["problem"]) == ("worker.stopped", "refused [redacted] for port")


def test_no_secret_in_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception's text and its traceback are cleaned too."""
    logs.configure(LogSettings(), ["hunter2"])
    try:
        raise ValueError("hunter2")  # noqa: TRY301 - the exception is what is logged
    except ValueError:
        structlog.get_logger().exception("some.failure")
    assert "hunter2" not in capsys.readouterr().err


def test_the_console_form_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal a line is read without a tool."""
    logs.configure(LogSettings(format="console"))
    structlog.get_logger().warning("broker.connection_lost", problem="it was restarted")
    assert "broker.connection_lost" in capsys.readouterr().err


def test_a_level_silences_what_is_below(capsys: pytest.CaptureFixture[str]) -> None:
    """UNLINK_LOG__LEVEL=warning keeps the log short."""
    logs.configure(LogSettings(level="warning"))
    structlog.get_logger().info("unlink.submitted")
    assert lines(capsys) == []


class Unprintable:
    """A value that cannot be rendered."""

    def __str__(self) -> str:
        """Fail."""
        raise ValueError("no text")


def test_a_line_that_cannot_be_rendered_disturbs_nobody_and_shows_no_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An odd value in a log line would end what logs it, or be written with the password beside it."""
    logs.configure(LogSettings(), ["hunter2"])
    structlog.get_logger().info("some.event", value=Unprintable(), problem="hunter2")
    (line,) = lines(capsys)
    assert line == {"event": "log.line_lost", "level": "error", "lost": "some.event"}


def test_a_processor_that_fails_disturbs_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in the log would end the thread of the ledger, which logs when it loses its database."""
    logs.configure(LogSettings())

    def fail(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(structlog.WriteLogger, "warning", fail)
    structlog.get_logger().warning("ledger.database_lost")
    (line,) = lines(capsys)
    assert line["lost"] == "ledger.database_lost"
