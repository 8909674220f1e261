"""How the times of a row lie to the clock of leases, which does not jump; on SQLite, where that begins in each boot."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """To schema 9. The previous version leaves the new columns as they are; see `worker.ledger.lease_clock`."""
    op.add_column("unlinks", sa.Column("sent_gap", sa.BigInteger))
    op.add_column("unlinks", sa.Column("run_began_gap", sa.BigInteger))
    op.create_table(
        "boots",
        sa.Column("boot", sa.Text, primary_key=True),
        sa.Column("booted_at", sa.BigInteger, nullable=False),
    )
