"""The ledger as the commands open it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from worker.cli.output.errors import refuse, refuse_settings
from worker.clock import SystemClock
from worker.ledger import Inspection, InspectionError
from worker.settings import LedgerSettings, SettingsInvalidError


@contextmanager
def opened_ledger(settings: LedgerSettings) -> Iterator[Inspection]:
    """The ledger, over a connection that is kept until the end.

    The command exits with status 1 if the ledger cannot be read, and with 2 for wrong settings.
    """
    try:
        with closing(Inspection(settings, SystemClock(), pooled=True)) as ledger:
            yield ledger
    except SettingsInvalidError as error:
        refuse_settings(error)
    except InspectionError as error:
        refuse(str(error), status=1)
