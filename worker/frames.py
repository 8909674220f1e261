"""Frees what an error would keep: its traceback holds the frames of its calls, and so all that they had read."""

from __future__ import annotations

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


def without_frames(error: _Error) -> _Error:
    """The error, without the tracebacks of it and of the errors that it came from.

    For an error whose text says all, or whose stack trace was logged. A frame often holds its own error again, by a
    variable, a future or a retry: such a cycle is freed by a search that may be hours away, and a parsed document has
    up to 60 MB.
    """
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is not None and link.__traceback__ is not None:
            link.with_traceback(None)  # an assignment would not do for an error that is frozen
            links += (link.__cause__, link.__context__)
    return error
