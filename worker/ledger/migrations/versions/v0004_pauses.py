"""Paused Enterprise Managers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """To schema 4. The previous version does not read the new table: its workers continue to consume."""
    op.create_table(
        "pauses",
        sa.Column("enterprise_manager", sa.Text, primary_key=True),
        sa.Column("paused_by", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("paused_at", sa.BigInteger, nullable=False),
    )
