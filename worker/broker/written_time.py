"""A time that another program has written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

#: The years in which a time is in every time zone's calendar: the first and the last year of `datetime` are not.
_FIRST_YEAR: Final = 2
_LAST_YEAR: Final = 9998


def read_moment(written: object) -> datetime | None:
    """The time in UTC, from ISO 8601, a `datetime` or seconds since 1970; None if there is none, or nobody can show it.

    Without a zone, it is taken for UTC.
    """
    try:
        if isinstance(written, int):
            moment = datetime.fromtimestamp(written, UTC)
        else:
            moment = written if isinstance(written, datetime) else datetime.fromisoformat(str(written))
        in_utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return in_utc if _FIRST_YEAR <= in_utc.year <= _LAST_YEAR else None
