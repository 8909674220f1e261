"""The parts of a transaction that write the row of a key, and its history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from worker.ledger.records import Step
from worker.ledger.search_writes import TermWrites
from worker.ledger.statements import NOTE, ROW
from worker.ledger.tables import to_microseconds
from worker.unlinks.ports.ledger import HeldElsewhere, Lease

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping, Update

_MICROSECONDS: Final = 1_000_000


class KeyRows:
    """A worker's access to the rows of keys; see `worker.ledger.transaction.Transaction`."""

    def __init__(
        self, connection: Connection, began: float, worker: str, lease_seconds: float, grace_seconds: float = 0
    ) -> None:
        self.connection = connection
        self.began = began
        self._worker = worker
        self._lease_microseconds = round(lease_seconds * _MICROSECONDS)
        self._grace_microseconds = round(grace_seconds * _MICROSECONDS)
        self._steps: list[dict[str, Any]] = []
        self._terms = TermWrites(connection)

    def finish(self) -> None:
        """Write the history and the search terms of the changes; called last before the commit."""
        if self._steps:
            self.connection.execute(NOTE, self._steps)
        self._terms.write()

    def _update(self, statement: Update, lease: Lease, **parameters: Any) -> bool:
        fence = {"of_key": lease.key, "of_token": lease.token}
        return self.connection.execute(statement, {**fence, **parameters}).rowcount == 1

    def _row(self, key: str) -> RowMapping | None:
        return self.connection.execute(ROW, {"of_key": key}).mappings().one_or_none()

    def _held_elsewhere(self, row: RowMapping) -> HeldElsewhere:
        left = to_microseconds(row["lease_until"]) + self._grace_microseconds - row["now"]
        return HeldElsewhere(seconds=max(left, 0) / _MICROSECONDS, until=row["lease_until"])

    def _note(self, lease: Lease, step: Step, detail: str | None = None, trace_id: str | None = None) -> None:
        self._steps.append(
            {
                "key": lease.key,
                "worker": self._worker,
                "token": lease.token,
                "step": step.value,
                "detail": detail,
                "trace_id": trace_id,
            }
        )
