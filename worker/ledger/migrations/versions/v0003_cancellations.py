"""Requests to cancel."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """To schema 3. The previous version neither writes nor reads what is new: it does not heed a request to cancel."""
    op.create_table(
        "cancellations",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("enterprise_manager", sa.Text, primary_key=True),
        sa.Column("requested_by", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
    )
    op.create_index("cancellations_by_time", "cancellations", ["requested_at"])
    op.add_column("unlinks", sa.Column("cancel_heard_at", sa.BigInteger))
