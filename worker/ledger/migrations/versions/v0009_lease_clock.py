"""The differences between a row's times and the lease clock, which does not jump; on SQLite, its start in each boot."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """To schema 9. The previous version does not write the new columns; see `worker.ledger.lease_clock`."""
    op.add_column("unlinks", sa.Column("sent_gap", sa.BigInteger))
    op.add_column("unlinks", sa.Column("run_began_gap", sa.BigInteger))
    op.create_table(
        "boots",
        sa.Column("boot", sa.Text, primary_key=True),
        sa.Column("booted_at", sa.BigInteger, nullable=False),
    )
