"""What the ledger raises beside the port's `LeaseLostError`.

LedgerError
+-- LedgerClosedError   the ledger was closed before the call was carried out
+-- OutOfOrderError     the key's stage does not allow this write: a fault of the caller
+-- SchemaTooNewError   the database belongs to a newer version of this program
+-- PauseChangedError   an Enterprise Manager is not paused, or resumed, as the caller believes
+-- InspectionError     the ledger cannot be read from outside the workers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.unlinks.ports.ledger import Lease, LeaseLostError, Stage

if TYPE_CHECKING:
    from worker.ledger.records import Pause


class LedgerError(Exception):
    """The ledger did not do what was asked."""


class LedgerClosedError(LedgerError):
    """The ledger was closed before the call returned; it is not known whether it was written."""

    def __init__(self) -> None:
        super().__init__("the ledger is closed")


class PauseChangedError(LedgerError):
    """Somebody has paused or resumed the Enterprise Manager since the caller looked. Nothing was written.

    `now` is its pause, None if it is not paused.
    """

    def __init__(self, now: Pause | None) -> None:
        super().__init__("the pause has changed")
        self.now = now


class OutOfOrderError(LedgerError):
    """The key's stage does not allow this write. Nothing was written; repeating it does not help."""

    def __init__(self, lease: Lease, stage: Stage, write: str) -> None:
        super().__init__(f"{lease.key} is {stage.value}: {write} is not possible")
        self.lease = lease
        self.stage = stage


class SchemaTooNewError(LedgerError, LeaseLostError):
    """The database was changed by a newer version of this program, in a way that this one cannot work with.

    To the core it is the loss of a lease: nothing was written, and a worker of the newer version goes on.
    """

    def __init__(self, *, needed: int, known: int) -> None:
        super().__init__(
            f"the ledger's database needs a worker that knows schema {needed} or later; this one knows {known}: "
            "run a newer version of the worker, or restore the database as it was before the upgrade"
        )
        self.needed = needed
        self.known = known


class InspectionError(LedgerError):
    """The ledger cannot be read; the text is one line for a person, and holds no password."""
