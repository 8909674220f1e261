"""What the time of day was after how much running time, so that a clock that jumps makes no fresh key forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """To schema 16. The previous version writes no marks and prunes by the time of day alone."""
    op.create_table(
        "clock_marks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("running", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("boot", sa.Text),
        sa.Column("since_boot", sa.BigInteger, nullable=False),
    )
