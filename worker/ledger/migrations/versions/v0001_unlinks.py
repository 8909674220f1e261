"""The keys, each with its lease, its intent and its end."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """To schema 1."""
    op.create_table(
        "unlinks",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("enterprise_manager", sa.Text, nullable=False),
        sa.Column("command", sa.LargeBinary, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("job_name", sa.Text),
        sa.Column("link_id", sa.Text),
        sa.Column("repository_uid", sa.Text),
        sa.Column("repository_name", sa.Text),
        sa.Column("linked_backups", sa.Text),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("sends", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("task_session", sa.Text),
        sa.Column("submitted_at", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.Column("event", sa.LargeBinary),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    in_flight = sa.text("stage IN ('intended', 'submitted')")
    op.create_index(
        "unlinks_one_in_flight_per_job",
        "unlinks",
        ["enterprise_manager", "job_id"],
        unique=True,
        sqlite_where=in_flight,
        postgresql_where=in_flight,
    )
    unsettled = sa.text("stage <> 'settled'")
    op.create_index(
        "unlinks_unsettled_by_worker", "unlinks", ["worker"], sqlite_where=unsettled, postgresql_where=unsettled
    )
    op.create_index("unlinks_by_end", "unlinks", ["finished_at"])
    usable_from = op.create_table("ledger_schema", sa.Column("usable_from", sa.Integer, nullable=False))
    op.bulk_insert(usable_from, [{"usable_from": 1}])
