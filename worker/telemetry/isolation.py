"""Isolates the worker from errors in telemetry: an error is logged, and the caller continues."""

from __future__ import annotations

from contextlib import suppress

import structlog

from worker.unlinks.ports.steps import Step, Steps

_log = structlog.get_logger()


class Isolated:
    """Logs an error of this part of telemetry instead of raising it. If logging fails too, the error is ignored.

    A context manager. A class, because one made by `contextlib.contextmanager` takes twice the calls, several times an
    unlink.
    """

    def __init__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> None:
        """Nothing is done before."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Suppress an `Exception`."""
        if not isinstance(error, Exception):
            return False
        _log_failure(self._part, error)
        return True


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
            try:  # `Isolated` would take more time than most sinks
                sink.report(step)
            except Exception as error:  # noqa: BLE001 - as in `Isolated`
                _log_failure(name, error)
