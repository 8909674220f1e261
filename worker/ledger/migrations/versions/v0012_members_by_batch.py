"""The index for finding the members of a batch by its ID, without regard to case."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """To schema 12. Where schema 11 comes in the same upgrade, the table is still empty."""
    op.create_index("batch_members_by_batch", "batch_members", [sa.text("lower(batch)")])
