"""Reading and pruning the ledger from outside the workers: one connection, no lease, no wait for an outage to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from worker.clock import boot_id
from worker.ledger import locks
from worker.ledger.batch_pages import BatchPage, MemberCursor, batch_page
from worker.ledger.batch_states import BatchState, batches_with_id, batches_with_key
from worker.ledger.database import open_engine, problem_in, read_url
from worker.ledger.errors import InspectionError, PauseChangedError, SchemaTooNewError
from worker.ledger.overview import Overview, overview
from worker.ledger.presence import WorkerState, present
from worker.ledger.records import KeyHistory, Pause, Record
from worker.ledger.retention import Retention
from worker.ledger.schema import require_current
from worker.ledger.search import Criteria, Cursor, Page
from worker.ledger.step_feed import FedStep, newest_step, steps_after, steps_with
from worker.ledger.tables import storable
from worker.ledger.transaction import Transaction
from worker.settings import LedgerSettings
from worker.unlinks.ports.clock import Clock

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: The name under which writes from outside the workers are recorded; they need no lease.
_NOBODY = "command line"

#: How many keys a page holds, if nothing else is asked for.
PAGE = 200


class Inspection:
    """Reads the ledger, whether or not workers run. Does not create one; blocks its thread.

    Args:
        settings: where the database is.
        clock: the time on SQLite.

    Raises:
        SettingsInvalidError: the URL cannot be read.
        InspectionError: in every method: the database cannot be reached, or holds no ledger that this version reads.
    """

    def __init__(self, settings: LedgerSettings, clock: Clock, *, pooled: bool = False) -> None:
        self._url = read_url(settings.url)
        self._retention = Retention(clock, boot_id())
        self._writing: Engine = open_engine(self._url, clock)
        self._reading: Engine = open_engine(self._url, clock, read_only=True, pooled=pooled)

    def close(self) -> None:
        """Close the connections that are kept for the next reading."""
        self._reading.dispose()

    # --- reading ----------------------------------------------------------------------------------------------------

    def history(self, key: str) -> KeyHistory | None:
        """All that is known of a key; None if it is not known."""
        with self._transaction(self._reading) as transaction:
            return transaction.history(storable(key))

    def record(self, key: str) -> Record | None:
        """The last run of a key; None if it is not known."""
        history = self.history(key)
        return None if history is None else history.record

    def find(self, criteria: Criteria, *, after: Cursor | None = None, limit: int = PAGE) -> Page:
        """A page of the keys that meet the criteria, newest first."""
        with self._transaction(self._reading) as transaction:
            return transaction.find(criteria, after, limit)

    def find_all(self, criteria: Criteria) -> Iterator[Page]:
        """All keys that meet the criteria, page by page, without those that are received meanwhile."""
        page = self.find(criteria)
        yield page
        while page.next is not None:
            page = self.find(criteria, after=page.next)
            yield page

    def batches(self, batch: str) -> tuple[BatchState, ...]:
        """The batches with this ID: senders and Enterprise Managers have their own."""
        with self._transaction(self._reading) as transaction:
            return batches_with_id(transaction.connection, storable(batch))

    def batch_page(self, batch: str, *, after: MemberCursor | None = None, limit: int = PAGE) -> BatchPage:
        """The batches with this ID, and a page of their members."""
        with self._transaction(self._reading) as transaction:
            return batch_page(transaction.connection, storable(batch), after, limit)

    def batches_of(self, key: str) -> tuple[BatchState, ...]:
        """The batches that a key has joined."""
        with self._transaction(self._reading) as transaction:
            return batches_with_key(transaction.connection, storable(key))

    def pauses(self) -> tuple[Pause, ...]:
        """The Enterprise Managers that are paused."""
        with self._transaction(self._reading) as transaction:
            return transaction.pauses()

    def workers(self) -> tuple[WorkerState, ...]:
        """The workers that were seen within the last hour."""
        with self._transaction(self._reading) as transaction:
            return present(transaction.connection)

    def overview(self) -> Overview:
        """The unlinks under way, the workers, and the recent ends."""
        with self._transaction(self._reading) as transaction:
            return overview(transaction.connection)

    def newest_step(self) -> int:
        """The ID of the newest recorded step; 0 if there is none."""
        with self._transaction(self._reading) as transaction:
            return newest_step(transaction.connection)

    def steps_after(self, step: int, most: int, key: str | None = None) -> Sequence[FedStep]:
        """The recorded steps that follow this one, of all keys or of one."""
        with self._transaction(self._reading) as transaction:
            return steps_after(transaction.connection, step, most, key)

    def steps_with(self, ids: Sequence[int]) -> Sequence[FedStep]:
        """Those of these recorded steps that there are."""
        with self._transaction(self._reading) as transaction:
            return steps_with(transaction.connection, ids)

    def count_long_settled(self, older_than_days: float) -> int:
        """How many keys `prune` would delete."""
        with self._transaction(self._reading) as transaction:
            return transaction.count_long_settled(older_than_days, self._retention)

    # --- writing ----------------------------------------------------------------------------------------------------

    def pause(
        self, enterprise_manager: str, paused_by: str | None, reason: str | None, seen: str | None = None
    ) -> None:
        """Pause an Enterprise Manager: every worker stops consuming its queue at its next renewal of the leases.

        Raises:
            PauseChangedError: it is not paused since `seen`, an ISO 8601 time; or is paused, and `seen` is empty.
        """
        with self._transaction(self._writing) as transaction:
            _require_pause(transaction, enterprise_manager, seen)
            transaction.pause(enterprise_manager, paused_by, reason)

    def resume(self, enterprise_manager: str, seen: str | None = None) -> bool:
        """Resume an Enterprise Manager. Return whether it was paused. Raises as `pause` does."""
        with self._transaction(self._writing) as transaction:
            _require_pause(transaction, enterprise_manager, seen)
            return transaction.resume(enterprise_manager)

    def take_lock(self, name: str, holder: str, seconds: float) -> bool:
        """Take a lock for so long. Return whether it was free."""
        with self._transaction(self._writing) as transaction:
            return locks.take(transaction.connection, name, holder, seconds)

    def release_lock(self, name: str, holder: str) -> None:
        """Release a lock, unless somebody else has it by now."""
        with self._transaction(self._writing) as transaction:
            locks.release(transaction.connection, name, holder)

    def prune(self, older_than_days: float) -> int:
        """Delete the keys that were settled longer ago, in small transactions. Return their number."""
        total, more = 0, True
        while more:
            with self._transaction(self._writing) as transaction:
                pruned, more = transaction.prune(older_than_days, self._retention)
            total += pruned
        return total

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Transaction]:
        if self._url.get_backend_name() == "sqlite" and not Path(self._url.database or "").is_file():
            raise InspectionError(f"there is no file {self._url.database}: is UNLINK_LEDGER__URL the workers' own?")
        try:
            with engine.connect() as connection, connection.begin():
                require_current(connection)
                yield Transaction(connection, began=0.0, worker=_NOBODY, lease_seconds=0.0)
        except SchemaTooNewError as error:
            raise InspectionError(str(error)) from error
        except SQLAlchemyError as error:
            raise InspectionError(f"the ledger's database cannot be used now: {problem_in(error)}") from error


def _require_pause(transaction: Transaction, enterprise_manager: str, seen: str | None) -> None:
    now = next((each for each in transaction.pauses() if each.enterprise_manager == enterprise_manager), None)
    if seen is not None and seen != ("" if now is None else now.paused_at.isoformat()):
        raise PauseChangedError(now)
