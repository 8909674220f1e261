"""Every statement of the ledger, made once: the same for SQLite and PostgreSQL.

Made once, because making one costs more than carrying it out on SQLite. Parameters that are named like a column fill
that column; `of_key` and `of_token` name a lease; the others say what they are.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    ColumnElement,
    Insert,
    Integer,
    Table,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)

from worker.ledger.records import MOST_STEPS, Step
from worker.ledger.tables import (
    CLOCK_IS_SET,
    EPOCH,
    LaterNow,
    LeaseNow,
    Now,
    cancellations,
    in_flight,
    pauses,
    search_terms,
    steps,
    unlinks,
    unsettled,
)
from worker.unlinks.ports.ledger import Change, Intended, SentAgain, Settled, Stage, Submitted, Withdrawn

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

#: How many keys, and how many of their steps, one transaction of `prune` deletes at most.
KEYS_AT_ONCE: Final = 100
STEPS_AT_ONCE: Final = 2000

_of_key: BindParameter[str] = bindparam("of_key")
_lease_end: ColumnElement[int] = LeaseNow() + bindparam("lease_microseconds", type_=BigInteger())

_NOBODY: Final[dict[str, Any]] = {"worker": None, "lease_until": EPOCH}
_NO_TASK: Final[dict[str, Any]] = {"task_id": None, "task_session": None, "submitted_at": None}

#: Whether the cancellation of this run was requested. Literal, because SQLAlchemy leaves the tables' names out of what
#: SQLite is to return, inside a subquery too.
_cancelled: ColumnElement[bool] = literal_column(
    'EXISTS (SELECT 1 FROM cancellations WHERE cancellations."key" = unlinks."key"'
    " AND cancellations.enterprise_manager = unlinks.enterprise_manager AND cancellations.run = unlinks.run)",
    Boolean,
)


def _since(name: str) -> ColumnElement[int]:
    """The microseconds since a moment in a row, by the clock of leases as far as is known. Literal, as above."""
    at, gap = (literal_column(f"unlinks.{name}_{part}", BigInteger) for part in ("at", "gap"))
    return func.coalesce(LeaseNow() - at - gap, Now() - at, type_=BigInteger())


#: Whether the key belongs to a batch. Literal, as above.
_batched: ColumnElement[bool] = literal_column(
    'EXISTS (SELECT 1 FROM batch_members WHERE batch_members."key" = unlinks."key")', Boolean
)

WHOLE_ROW: Final = (
    *unlinks.c,
    _cancelled.label("cancelled"),
    _batched.label("batched"),
    _since("run_began").label("age"),
    _since("sent").label("since_sent"),
)

#: The fence: no claim was given a higher token since, and the key has not ended.
_ours = and_(unlinks.c.key == _of_key, unlinks.c.token == bindparam("of_token"), unsettled)
_sent = and_(_ours, in_flight())
_of_worker = and_(unlinks.c.worker == bindparam("of_worker"), unsettled)


def insert_into(dialect: str, table: Table) -> Any:
    """An INSERT in the words of a dialect. The module of the other one is not imported."""
    return import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


def _write(condition: ColumnElement[bool], **values: Any) -> Update:
    return update(unlinks).where(condition).values(updated_at=LaterNow(), **values)


# --- taking and keeping ---------------------------------------------------------------------------------------------


#: A lease that has ended; after an outage of the database, only some time later.
_over = (
    type_coerce(unlinks.c.lease_until, BigInteger) + bindparam("grace_microseconds", type_=BigInteger()) <= LeaseNow()
)


@cache
def take(dialect: str) -> ReturningInsert[Any]:
    """Insert a key's row, or take it over if that is allowed: one statement, so that of two workers one gets it."""
    new = insert_into(dialect, unlinks).values(
        stage=Stage.CLAIMED.value,
        token=1,
        attempts=1,
        sends=0,
        run=1,
        may_act=False,
        lease_until=_lease_end,
        updated_at=LaterNow(),
    )
    free = or_(unlinks.c.worker.is_(None), unlinks.c.worker == new.excluded.worker, _over)
    statement: ReturningInsert[Any] = new.on_conflict_do_update(
        index_elements=[unlinks.c.key],
        set_={
            "token": unlinks.c.token + 1,
            "attempts": unlinks.c.attempts + 1,
            "worker": new.excluded.worker,
            "lease_until": new.excluded.lease_until,
            "updated_at": new.excluded.updated_at,
        },
        where=and_(unlinks.c.fingerprint == new.excluded.fingerprint, unsettled, free),
    ).returning(*WHOLE_ROW)
    return statement


_free = or_(unlinks.c.worker.is_(None), unlinks.c.worker == bindparam("of_worker"), _over)

#: Take an unsettled row over, whatever its content.
TAKE_OVER: Final[ReturningUpdate[Any]] = _write(
    and_(unlinks.c.key == _of_key, unsettled, _free),
    token=unlinks.c.token + 1,
    attempts=unlinks.c.attempts + 1,
    worker=bindparam("of_worker"),
    lease_until=_lease_end,
).returning(*WHOLE_ROW)

#: Start the next run of a settled row. What was seen, and the event of the run that ended, stay.
START_RUN: Final[ReturningUpdate[Any]] = _write(
    and_(unlinks.c.key == _of_key, unlinks.c.run == bindparam("of_run"), ~unsettled),
    stage=Stage.CLAIMED.value,
    token=unlinks.c.token + 1,
    attempts=1,
    sends=0,
    sent_at=None,
    **_NO_TASK,
    cancel_heard_at=None,
    worker=bindparam("of_worker"),
    lease_until=_lease_end,
    run=unlinks.c.run + 1,
    run_began_at=Now(),
    run_began_gap=LeaseNow() - Now(),
).returning(*WHOLE_ROW)

_held = unlinks.alias("held")
#: Locked rows are passed over: a client that hangs with the lock of one row must not cost the leases of all. On SQLite
#: there are no such locks.
_not_locked = (
    select(_held.c.key)
    .where(_held.c.worker == bindparam("of_worker"), _held.c.stage != literal_column("'settled'"))
    .with_for_update(key_share=True, skip_locked=True)
)


@cache
def renew(dialect: str) -> ReturningUpdate[Any]:
    """Make the leases of a worker last from now on."""
    rows = _of_worker if dialect == "sqlite" else and_(_of_worker, unlinks.c.key.in_(_not_locked))
    statement: ReturningUpdate[Any] = (
        update(unlinks)
        .where(rows)
        .values(lease_until=_lease_end)
        .returning(unlinks.c.key, unlinks.c.token, _cancelled.label("cancelled"))
    )
    return statement


LEASES: Final = select(unlinks.c.key, unlinks.c.token).where(_of_worker)

#: The order in which all workers lock rows is that of Python's strings, in which a transaction's claims are.
LOCK: Final = (
    select(unlinks.c.key)
    .where(or_(unlinks.c.key.in_(bindparam("of_keys", expanding=True)), _of_worker))
    .order_by(unlinks.c.key.collate("C"))
    .with_for_update(key_share=True)
)

#: As `RELEASE_ALL`, for a worker that starts: what its name held would else be renewed with what it claims.
END_LEASES: Final = update(unlinks).where(_of_worker).values(**_NOBODY)

RELEASE: Final = _write(_ours, **_NOBODY)

RELEASE_ALL: Final[ReturningUpdate[Any]] = _write(_of_worker, **_NOBODY).returning(unlinks.c.key, unlinks.c.token)

# --- recording ------------------------------------------------------------------------------------------------------

#: The recorded link, or any if none is recorded: no other link is ever removed for a key.
_same_link = or_(
    unlinks.c.link_id.is_(None),
    and_(unlinks.c.link_id == bindparam("seen_link_id"), unlinks.c.job_id == bindparam("seen_job_id")),
)
#: A request to cancel is found in one of two ways. A write that begins after the commit of the request sees its row in
#: `cancellations`. A write that began before sees the mark in the row of the key, if the mark was written first. If the
#: write was first, the mark waits for it, and so does `cancel`.
_not_cancelled = and_(unlinks.c.cancel_heard_at.is_(None), ~_cancelled)
_before_its_intent = and_(_ours, unlinks.c.stage == Stage.CLAIMED.value, _same_link, _not_cancelled)

#: Another key's unlink of the job is under way. One that begins after this check is found by the unique index.
_other = unlinks.alias("other")
_job_is_busy = exists().where(
    _other.c.enterprise_manager == unlinks.c.enterprise_manager,
    _other.c.job_id == bindparam("seen_job_id"),
    in_flight(_other),
    _other.c.key != _of_key,
)

#: For a busy job: only the intent is stored.
REMEMBER: Final = _write(_before_its_intent)

_of_send: BindParameter[int] = bindparam("of_send", type_=Integer())
_one_send_more = {"stage": Stage.INTENDED.value, "sends": unlinks.c.sends + 1}

#: For each change: the statement that carries it out, and the step of the history that it is.
RECORD: Final[dict[type[Change], tuple[Update, Step]]] = {
    Intended: (
        _write(
            and_(_before_its_intent, ~_job_is_busy),
            **_one_send_more,
            sent_gap=LeaseNow() - bindparam("sent_microseconds", type_=BigInteger()),
        ),
        Step.INTENDED,
    ),
    Withdrawn: (
        _write(
            and_(_sent, unlinks.c.sends == _of_send),
            stage=case((_of_send == 1, Stage.CLAIMED.value), else_=Stage.INTENDED.value),
            sent_at=case((_of_send == 1, None), else_=unlinks.c.sent_at),
            sends=unlinks.c.sends - 1,
            **_NO_TASK,
        ),
        Step.WITHDRAWN,
    ),
    SentAgain: (
        _write(and_(_sent, unlinks.c.sends == _of_send - 1, _not_cancelled), **_one_send_more, **_NO_TASK),
        Step.SENT_AGAIN,
    ),
    Submitted: (_write(_sent, stage=Stage.SUBMITTED.value), Step.SUBMITTED),
    Settled: (_write(_ours, stage=Stage.SETTLED.value, **_NOBODY), Step.SETTLED),
}

NOTE: Final = insert(steps).values(at=Now())

# --- cancelling -----------------------------------------------------------------------------------------------------


@cache
def remember_cancellation(dialect: str) -> ReturningInsert[Any]:
    """Store a request to cancel, unless it is there."""
    new = insert_into(dialect, cancellations).values(requested_at=LaterNow()).on_conflict_do_nothing()
    statement: ReturningInsert[Any] = new.returning(cancellations.c.key)
    return statement


MARK_CANCELLED: Final = (
    update(unlinks)
    .where(
        unlinks.c.key == _of_key,
        unlinks.c.enterprise_manager == bindparam("of_enterprise_manager"),
        unlinks.c.run == bindparam("of_run"),
        unsettled,
        unlinks.c.cancel_heard_at.is_(None),
    )
    .values(cancel_heard_at=Now())
)

#: Deletes the requests to cancel earlier runs.
FORGET_CANCELLATIONS: Final = delete(cancellations).where(
    cancellations.c.key == _of_key, cancellations.c.run < bindparam("before_run")
)

# --- pausing --------------------------------------------------------------------------------------------------------


@cache
def pause(dialect: str) -> Insert:
    """Pause an Enterprise Manager, or say who paused it last."""
    new = insert_into(dialect, pauses).values(paused_at=Now())
    statement: Insert = new.on_conflict_do_update(
        index_elements=[pauses.c.enterprise_manager],
        set_={name: new.excluded[name] for name in ("paused_by", "reason", "paused_at")},
    )
    return statement


RESUME: Final = delete(pauses).where(pauses.c.enterprise_manager == bindparam("of_enterprise_manager"))

PAUSES: Final = select(pauses).order_by(pauses.c.enterprise_manager)

# --- reading and tidying up -----------------------------------------------------------------------------------------

ROW: Final = select(*WHOLE_ROW, LeaseNow().label("now")).where(unlinks.c.key == _of_key)

#: And one more, which tells that there are more.
NEWEST_STEPS: Final = select(steps).where(steps.c.key == _of_key).order_by(steps.c.id.desc()).limit(MOST_STEPS + 1)

CANCELLATIONS: Final = (
    select(cancellations).where(cancellations.c.key == _of_key).order_by(cancellations.c.requested_at)
)

#: See `worker.ledger.retention`. A subquery, because PostgreSQL would read all keys where it knows that much is old.
OLDEST_KEPT: Final = select(bindparam("oldest_kept", type_=BigInteger())).scalar_subquery()

#: `finished_at` comes from a worker's clock. `updated_at` comes from the ledger's, on SQLite the host's, which may have
#: been in 1970 for a while after a start.
_settled_long_ago = and_(
    ~unsettled,
    type_coerce(unlinks.c.finished_at, BigInteger) < OLDEST_KEPT,
    type_coerce(unlinks.c.updated_at, BigInteger) < OLDEST_KEPT,
    unlinks.c.updated_at > CLOCK_IS_SET,
)

COUNT_LONG_SETTLED: Final = select(func.count()).select_from(unlinks).where(_settled_long_ago)

LONG_SETTLED: Final = select(unlinks.c.key).where(_settled_long_ago).limit(KEYS_AT_ONCE)

#: Requests to cancel what never came.
_is_unmet = and_(
    type_coerce(cancellations.c.requested_at, BigInteger) < OLDEST_KEPT,
    cancellations.c.requested_at > CLOCK_IS_SET,
    ~exists().where(unlinks.c.key == cancellations.c.key),
)

LONG_UNMET: Final = select(cancellations.c.key).where(_is_unmet).limit(KEYS_AT_ONCE)

_of_keys: BindParameter[str] = bindparam("of_keys", expanding=True)

PRUNE_STEPS: Final = delete(steps).where(
    steps.c.id.in_(select(steps.c.id).where(steps.c.key.in_(_of_keys)).limit(STEPS_AT_ONCE))
)

PRUNE_TERMS: Final = delete(search_terms).where(search_terms.c.key.in_(_of_keys))

PRUNE: Final = delete(unlinks).where(unlinks.c.key.in_(_of_keys))

PRUNE_CANCELLATIONS: Final = delete(cancellations).where(cancellations.c.key.in_(_of_keys))

PRUNE_UNMET: Final = delete(cancellations).where(cancellations.c.key.in_(_of_keys), _is_unmet)
