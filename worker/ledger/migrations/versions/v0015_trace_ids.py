"""The trace of the log lines, with each claim."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """To schema 15."""
    op.add_column("steps", sa.Column("trace_id", sa.Text))
