"""`unlink-worker console`: web pages and an HTTP API."""

from __future__ import annotations

from worker.cli.output.errors import refuse, refuse_settings, settings_or_exit
from worker.clock import SystemClock
from worker.settings import ConsoleProgramSettings, SettingsInvalidError, secrets_of
from worker.telemetry import logs


def console() -> None:
    """Serve web pages and an HTTP API about unlinks, Enterprise Managers and workers, until SIGTERM or SIGINT.

    Without users it is read-only and serves its own host alone. Needs UNLINK_LEDGER__URL; with UNLINK_BROKER__URL it
    also shows how many commands wait. UNLINK_CONSOLE__HOST and UNLINK_CONSOLE__PORT say where it listens, by default
    http://127.0.0.1:9465/. Exit status 2 for wrong settings.
    """
    try:
        from worker.console.server import serve  # noqa: PLC0415 - an extra that a worker does not install
    except ModuleNotFoundError as error:
        refuse(f"The console needs {error.name}, of the extra `console`: pip install 'unlink-worker[console]'")
    settings = settings_or_exit(ConsoleProgramSettings)
    logs.configure(settings.log, secrets_of(settings))
    try:
        serve(settings, SystemClock())
    except SettingsInvalidError as error:
        refuse_settings(error)
