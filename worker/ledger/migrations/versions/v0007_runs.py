"""The runs of a key: which is the last one, who asked for it, and what was asked of each."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """To schema 7. The previous version must not run on it: to it every run is run 1, with the same event IDs."""
    op.add_column("unlinks", sa.Column("run", sa.Integer, nullable=False, server_default="1"))
    op.add_column("unlinks", sa.Column("run_began_at", sa.BigInteger))
    op.add_column("unlinks", sa.Column("retried_by", sa.Text))
    op.add_column("unlinks", sa.Column("retry_user_id", sa.Text))
    op.add_column("unlinks", sa.Column("may_act", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "cancellations_of_runs",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("enterprise_manager", sa.Text, primary_key=True),
        sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("requested_by", sa.Text),
        sa.Column("user_id", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
    )
    op.execute(
        sa.text(
            "INSERT INTO cancellations_of_runs (key, enterprise_manager, run, requested_by, reason, requested_at)"
            " SELECT key, enterprise_manager, 1, requested_by, reason, requested_at FROM cancellations"
        )
    )
    op.drop_table("cancellations")
    op.rename_table("cancellations_of_runs", "cancellations")
    op.create_index("cancellations_by_time", "cancellations", ["requested_at"])
    op.execute(sa.insert(sa.table("ledger_schema", sa.column("usable_from"))).values(usable_from=7))
