"""The event of each ended batch."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """To schema 14."""
    op.add_column("batches", sa.Column("event", sa.LargeBinary))
