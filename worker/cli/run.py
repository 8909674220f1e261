"""`unlink-worker run`."""

from __future__ import annotations

from worker import service
from worker.cli.output.errors import refuse, refuse_settings, settings_or_exit
from worker.ledger import SchemaTooNewError
from worker.settings import Settings, SettingsInvalidError, secrets_of
from worker.telemetry import logs


def run() -> None:
    """Take unlink commands until SIGTERM or SIGINT; then let what is under way end, and stop."""
    settings = settings_or_exit(Settings)
    logs.configure(settings.log, secrets_of(settings))
    try:
        service.run(settings)
    except SettingsInvalidError as error:  # found only when a setting is used: a CA file without a certificate
        refuse_settings(error)
    except SchemaTooNewError as error:
        refuse(str(error))
