"""The ledger: what became of each idempotency key, kept so that nothing is done twice and nothing is lost.

What is stored. Table `unlinks` has one row a key: the command as it came and its fingerprint, how far its unlink has
come (`stage`), who works on it and until when (`worker`, `token`, `lease_until`), what was seen before the DELETE (the
job, the link's `ObjectInJobId`, the linked backups), the task that answered it, and the bytes of the terminal event.
A key whose run did not succeed may be run again: the row is then that of its last run (`run`), and keeps what was seen,
and until the run has ended the event of the one before. Table `cancellations` has a row for each request to cancel a
run: who, why and when, also for a key that never came yet. Table `steps` has a row for each change of a key, for
people: nothing is decided by it. Table `search_terms` has what each key is found by (`list`), and `search_walk` how far
keys from before schema 6 have been made searchable. Table `workers` has what each worker says of itself every ten
seconds. Table `ledger_schema` says which versions of this program may use the database; `alembic_version` is Alembic's.
No password or session token is stored, but commands and events hold what their publishers put into them: names,
tickets, reasons. Instants are microseconds since 1970, UTC:
`to_timestamp(updated_at / 1e6)` on PostgreSQL, `datetime(updated_at / 1000000, 'unixepoch')` on SQLite.

For how long. A settled key is kept for `UNLINK_LEDGER__RETENTION_DAYS` (90) after its end, then `prune` deletes it with
its steps, its search terms and the requests to cancel it; a request to cancel what never came is deleted as long after
it was made. For so long a repeat of its command is answered with the stored event; later, it is a new command.
A key that is not settled is never deleted by the program.
Retention counts by the ledger's clock: the database's on PostgreSQL, the host's on SQLite. A clock that is more than a
day past the newest end is not followed further, so an idle ledger is pruned only after its next end; a row from before
2020 was written by a clock that was not set, and is kept.

What an operator may delete.

- Any row of `steps`, at any time.
- Any row of `search_terms`, which the workers write again within an hour, and of `workers`.
- A row of `unlinks` with stage `settled`, once no copy of its command can arrive any more.
- A row of `pauses`: the Enterprise Manager's queue is then consumed again, as after `unlink-worker resume`.
- A row of `cancellations` whose key has no row in `unlinks`: if the unlink comes after that, it is sent.
- A row of another stage only if its command is certainly in no queue any more (the queue was purged), no worker runs it
  (`lease_until` has passed) and no task of it is at work in Enterprise Manager. Such a row in stage `intended` or
  `submitted` keeps its job closed to every other unlink; deleting it opens the job again.
- Never a row whose lease is alive, and nothing in the other two tables.

A copy of an SQLite ledger is made with `sqlite3 FILE '.backup COPY'` or `VACUUM INTO`, not by copying the file: part of
it is in FILE-wal. The file belongs on a local disk: SQLite's locks do not hold on network file systems
(https://www.sqlite.org/wal.html, point 2). Going back to an older copy forgets keys, and so allows a second unlink.
"""

from worker.ledger.documents import AUDIT_COLUMNS, Document
from worker.ledger.errors import InspectionError, LedgerClosedError, OutOfOrderError, SchemaTooNewError
from worker.ledger.inspection import Inspection
from worker.ledger.presence import ManagerState, WorkerState
from worker.ledger.records import KeyHistory, Pause, Record, RecordedStep, Step
from worker.ledger.search import Criteria, Cursor, Page

__all__ = [
    "AUDIT_COLUMNS",
    "Criteria",
    "Cursor",
    "Document",
    "Inspection",
    "InspectionError",
    "KeyHistory",
    "LedgerClosedError",
    "ManagerState",
    "OutOfOrderError",
    "Page",
    "Pause",
    "Record",
    "RecordedStep",
    "SchemaTooNewError",
    "Step",
    "WorkerState",
]
