"""The ledger: the state and the outcome of each idempotency key, so that nothing is done twice and nothing is lost.

What is stored, by table:

- `unlinks`: one row for each key, with the command as it was received and its fingerprint, how far the unlink has come
  (`stage`), which worker holds the key and until when (`worker`, `token`, `lease_until`), what was seen before the
  DELETE (the job, the link's `ObjectInJobId`, the linked backups), the task, and the bytes of the terminal event. If a
  key is run again, the row describes its last run (`run`). It keeps what was seen and, until the run has ended, the
  event of the previous run.
- `cancellations`: each request to cancel a run, with who, why and when; also for keys that have not been received.
- `steps`: each change of a key, for people. The worker decides nothing by it.
- `search_terms`: the terms by which each key is found (`list`); `search_walk`: how far keys from before schema 6 have
  been made searchable.
- `batches`, `batch_members`: the batches, and how each of their commands has ended.
- `pauses`: the paused Enterprise Managers. `workers`: the state that each worker reports every ten seconds. `boots`: on
  SQLite, the boot of the host from which leases are counted. `clock_marks`: on SQLite, what the time of day was after
  how much running time.
- `locks`: who reads the dead letters for the console now.
- `ledger_schema`: which versions of this program may use the database; `alembic_version` is Alembic's.

No password or session token is stored, but commands and events contain what their publishers put into them: names,
tickets, reasons. Instants are microseconds since 1970, UTC:
`to_timestamp(updated_at / 1e6)` on PostgreSQL, `datetime(updated_at / 1000000, 'unixepoch')` on SQLite.

How long it is stored. A settled key is kept for `UNLINK_LEDGER__RETENTION_DAYS` (90) after its end. Until then a repeat
of its command is answered with the stored event; later, it is a new command. `prune` then deletes the key with its
steps, its search terms and the requests to cancel it. A request to cancel a key that was never received is deleted the
same time after it was made. The program never deletes a key that is not settled. Two clocks must agree that a key is
old enough (see `retention`), so that a wrong clock deletes nothing: on PostgreSQL the server's and the worker's, on
SQLite the host's and the time for which the host has been running. A host that was switched off keeps its keys for that
much longer. The clock counts only up to one day past the newest end: an idle ledger is pruned only after its next end.
A row from before 2020 was written by a clock that was not set, and is kept.

What an operator may delete.

- Any row of `steps`, at any time.
- Any row of `search_terms`, which the workers write again within an hour, of `workers`, and of `locks`.
- A row of `unlinks` with stage `settled`, once no copy of its command can arrive any more.
- A row of `pauses`: the Enterprise Manager's queue is then consumed again, as after `unlink-worker resume`.
- A row of `cancellations` whose key has no row in `unlinks`: if the unlink comes after that, it is sent.
- A row of another stage only if its command is certainly in no queue any more (the queue was purged), no worker runs it
  (`lease_until` has passed) and no task of it is at work in Enterprise Manager. Such a row in stage `intended` or
  `submitted` keeps its job closed to every other unlink; deleting it opens the job again.
- Never a row whose lease is alive, and no row of any other table: `search_walk`, `batches`, `batch_members`, `boots`,
  `clock_marks`, `ledger_schema`, `alembic_version`.

A copy of an SQLite ledger is made with `sqlite3 FILE '.backup COPY'` or `VACUUM INTO`, not by copying the file: part of
it is in FILE-wal. The file belongs on a local disk: SQLite's locks do not hold on network file systems
(https://www.sqlite.org/wal.html, point 2). Going back to an older copy forgets keys, and so allows a second unlink.
"""

from worker.ledger.batch_pages import BatchMember, BatchPage, MemberCursor
from worker.ledger.batch_states import BatchState
from worker.ledger.documents import AUDIT_COLUMNS, Document
from worker.ledger.errors import (
    InspectionError,
    LedgerClosedError,
    OutOfOrderError,
    PauseChangedError,
    SchemaTooNewError,
)
from worker.ledger.inspection import Inspection
from worker.ledger.presence import ManagerState, WorkerState
from worker.ledger.records import KeyHistory, Pause, Record, RecordedStep, Step
from worker.ledger.search import Criteria, Cursor, Page

__all__ = [
    "AUDIT_COLUMNS",
    "BatchMember",
    "BatchPage",
    "BatchState",
    "Criteria",
    "Cursor",
    "Document",
    "Inspection",
    "InspectionError",
    "KeyHistory",
    "LedgerClosedError",
    "ManagerState",
    "MemberCursor",
    "OutOfOrderError",
    "Page",
    "Pause",
    "PauseChangedError",
    "Record",
    "RecordedStep",
    "SchemaTooNewError",
    "Step",
    "WorkerState",
]
