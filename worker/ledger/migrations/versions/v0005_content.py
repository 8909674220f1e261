"""The fingerprint is of the content alone; requester, reason and deadline are no part of it."""

import sqlalchemy as sa
from alembic import op

from contracts.reading import UnreadableMessageError, read_command

revision = "0005"
down_revision = "0004"

_ROWS_AT_ONCE = 1000


def upgrade() -> None:
    """To schema 5. The previous version must not run on it: it would reject repeats of older keys as reused."""
    unlinks = sa.table("unlinks", sa.column("key"), sa.column("command"), sa.column("fingerprint"))
    change = (
        sa.update(unlinks)
        .where(unlinks.c.key == sa.bindparam("of_key"))
        .values(fingerprint=sa.bindparam("new_fingerprint"))
    )
    connection = op.get_bind()
    last = ""
    page = sa.select(unlinks).where(unlinks.c.key > sa.bindparam("last")).order_by(unlinks.c.key).limit(_ROWS_AT_ONCE)
    while rows := connection.execute(page, {"last": last}).all():
        last = rows[-1].key
        new = [
            {"of_key": row.key, "new_fingerprint": _fingerprint(bytes(row.command), row.fingerprint)} for row in rows
        ]
        connection.execute(change, new)
    schema = sa.table("ledger_schema", sa.column("usable_from"))
    op.execute(sa.insert(schema).values(usable_from=5))


def _fingerprint(command: bytes, known: str) -> str:
    try:
        return read_command(command).fingerprint
    except (
        UnreadableMessageError
    ):  # of no contract that is known: the key keeps its content, and is reused for no other
        return known
