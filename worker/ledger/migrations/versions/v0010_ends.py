"""The index for counting how unlinks ended lately."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """To schema 10. Where schema 6 comes in the same upgrade, the table is still empty."""
    op.create_index("search_terms_by_end", "search_terms", ["finished_at", "outcome"])
