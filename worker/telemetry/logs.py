"""Logging by structlog: JSON in production, readable text on a terminal.

Records of the standard library's logging (pika's, urllib3's, alembic's) are written in the same form. Known secrets,
and values of keys whose names suggest a secret, are replaced before a line is rendered. A line that cannot be
rendered or written never raises.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog

from worker.plain_text import visible
from worker.redaction import REDACTED, Redaction

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

    from worker.settings import LogSettings

_SOUNDS_SECRET = re.compile(
    r"pass(word|wd)?$|secret|token$|authorization|cookie|credential|x-restsvcsessionid", re.IGNORECASE
)

#: The lowest level at which a library's lines are logged. pika logs each failure in several lines with stack traces;
#: the worker logs a failure in one line, with the remedy.
_LIBRARIES = {
    "pika": "CRITICAL",
    "urllib3": "ERROR",
    "alembic": "WARNING",
    "sqlalchemy": "WARNING",
    "asyncio": "WARNING",
}


#: The event of every line from a library. `library` names the library, and `message` has its text.
LIBRARY_EVENT = "library.message"

#: The event that replaces a line that could not be rendered or written. `lost` is the event of that line.
LINE_LOST = "log.line_lost"


@lru_cache(maxsize=1024)
def _sounds_secret(name: str) -> bool:
    return name != "token" and _SOUNDS_SECRET.search(name) is not None


class Redactor:
    """A structlog processor that removes secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.clean_text = Redaction(secrets).clean

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Replace secrets in every value, at any depth."""
        del logger, method
        return {name: REDACTED if _sounds_secret(name) else self._clean(value) for name, value in event.items()}

    def _clean(self, value: Any) -> Any:
        match value:
            case str():
                return self.clean_text(value)
            case dict():
                return {name: self._clean(part) for name, part in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._clean(part) for part in value]
            case bool() | int() | float() | None:
                return value
            case _:
                return self.clean_text(str(value))


def _of_a_library(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Move a library's text to the field `message`: it is no event name, and a search for events should not find it.

    uvicorn adds the same text a second time, with escape codes for colours.
    """
    del logger, method
    event.pop("color_message", None)
    event["library"], event["message"], event["event"] = event["_record"].name, event["event"], LIBRARY_EVENT
    return event


def _write_lost(event: object) -> None:
    """Log the event of the lost line, without its values: they are not redacted, and may be secret."""
    with suppress(Exception):
        name = event if isinstance(event, str) else None
        sys.stderr.write(json.dumps({"event": LINE_LOST, "level": "error", "lost": name}) + "\n")


class _NeverRaises(structlog.BoundLoggerBase):
    """A logger whose calls never raise, so that no caller is interrupted."""

    def _proxy_to_logger(self, method_name: str, event: str | None = None, **event_kw: Any) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, **event_kw)
        except Exception:  # noqa: BLE001 - no error here may stop the caller
            return _write_lost(event)


class _Handler(logging.StreamHandler[Any]):
    """Writes to standard error. The base class would print a line that cannot be rendered, without redaction."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in the base class
        """Log the event of the lost line."""
        _write_lost(record.msg["event"] if isinstance(record.msg, dict) else record.name)


def configure(settings: LogSettings, secrets: Iterable[str] = ()) -> None:
    """Send structlog's and the standard library's log lines to standard error, in one form.

    Lines of the worker do not pass through the standard library, which would take most of the time of a line.
    """
    level = settings.level.upper()
    context: list[Any] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]
    render: list[Any] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        Redactor(secrets),
        _console() if settings.format == "console" else _as_json,
    ]
    logger = type("Logger", (_NeverRaises, structlog.make_filtering_bound_logger(level)), {})
    structlog.configure(
        processors=[*context, *render],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=logger,
        cache_logger_on_first_use=True,
    )
    of_libraries = [*context, structlog.stdlib.ExtraAdder(), _of_a_library]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "structlog": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": of_libraries,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
                }
            },
            "handlers": {"stderr": {"()": _Handler, "formatter": "structlog"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                name: {"level": "INFO" if settings.level == "debug" else level} for name, level in _LIBRARIES.items()
            },
        }
    )
    logging.captureWarnings(capture=True)


#: Created once. `Redactor` leaves only values that JSON can represent.
_encode = json.JSONEncoder().encode


def _as_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    del logger, method
    return _encode(event)


def _console() -> Any:
    """Renders lines for a terminal. Texts of others can neither control it nor end the line."""
    render = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )

    def rendered(logger: WrappedLogger, method: str, event: EventDict) -> str:
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = visible(value)
        return render(logger, method, event)

    return rendered
