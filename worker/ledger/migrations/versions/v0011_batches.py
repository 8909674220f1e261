"""Batches: which keys belong together, and how each of them ended."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """To schema 11. The previous version must not run on it: it would end keys without their batches."""
    op.create_table(
        "batches",
        sa.Column("enterprise_manager", sa.Text, primary_key=True),
        sa.Column("sender", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("members", sa.Integer, nullable=False),
        sa.Column("joined_at", sa.BigInteger, nullable=False),
    )
    op.create_index("batches_by_time", "batches", ["joined_at"])
    op.create_table(
        "batch_members",
        sa.Column("enterprise_manager", sa.Text, primary_key=True),
        sa.Column("sender", sa.Text, primary_key=True),
        sa.Column("batch", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("event_id", sa.Text),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("ticket", sa.Text),
        sa.Column("correlation_id", sa.Text),
    )
    op.create_index("batch_members_by_key", "batch_members", ["key"])
    columns = ["enterprise_manager", "sender", "batch"]
    for name, condition in (("under_way", "event_id IS NULL"), ("rejected", "fingerprint IS NULL")):
        where = sa.text(condition)
        op.create_index(f"batch_members_{name}", "batch_members", columns, sqlite_where=where, postgresql_where=where)
    op.execute(sa.insert(sa.table("ledger_schema", sa.column("usable_from"))).values(usable_from=11))
