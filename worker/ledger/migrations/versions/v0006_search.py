"""The search terms of keys, and the broker users who published their commands.

The terms of older keys are filled in by the workers, some keys at a time (`worker.ledger.search_walk`).
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_SEARCHED = (
    "ticket",
    "requester",
    "user_id",
    "job_id",
    "job_name",
    "link_id",
    "repository_uid",
    "repository_name",
    "outcome",
    "reason",
    "batch",
)


def upgrade() -> None:
    """To schema 6. The previous version does not write the new table; the walk finds what it left."""
    op.add_column("unlinks", sa.Column("user_id", sa.Text))
    op.create_table(
        "search_terms",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        *(sa.Column(name, sa.Text) for name in _SEARCHED),
    )
    op.create_index("search_terms_by_time", "search_terms", ["received_at", "key"])
    unfinished = sa.text("finished_at IS NULL")
    op.create_index(
        "search_terms_in_flight",
        "search_terms",
        ["received_at", "key"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    for name in _SEARCHED:
        known = sa.text(f"{name} IS NOT NULL")
        columns = [name, "received_at", "key"]
        op.create_index(f"search_terms_by_{name}", "search_terms", columns, sqlite_where=known, postgresql_where=known)
    walk = op.create_table(
        "search_walk",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("position", sa.Text, nullable=False),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
    )
    is_empty = op.get_bind().scalar(sa.text("SELECT 1 FROM unlinks LIMIT 1")) is None
    op.bulk_insert(walk, [{"id": 1, "position": "", "next_at": 0, "completed_at": 0 if is_empty else None}])
