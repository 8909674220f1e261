"""Isolates the worker from errors in telemetry: an error is logged, and the caller continues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from worker.unlinks.ports.steps import Step, Steps

_log = structlog.get_logger()


@contextmanager
def isolated(part: str) -> Iterator[None]:
    """Log an error of this part of telemetry instead of raising it. If logging fails too, the error is ignored."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - no error here may stop the unlink
        _log_failure(part, error)


def _log_failure(part: str, error: Exception) -> None:
    with suppress(Exception):
        _log.error("telemetry.failed", part=part, problem=str(error), exc_info=error)


class IsolatedSinks:
    """Gives each step to every sink, in order (`worker.unlinks.ports.steps.Steps`). A sink may raise."""

    def __init__(self, *sinks: Steps) -> None:
        self._sinks = [(type(sink).__name__, sink) for sink in sinks]

    def report(self, step: Step) -> None:
        """Give a step to every sink."""
        for name, sink in self._sinks:
            try:  # `isolated` would take more time than most sinks
                sink.report(step)
            except Exception as error:  # noqa: BLE001 - as in `isolated`
                _log_failure(name, error)
