"""Frees what an error would keep: its traceback holds the frames of its calls, and so all that they had read."""

from __future__ import annotations

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


def without_frames(error: _Error) -> _Error:
    """The error, without the tracebacks of it and of the errors that it came from.

    For an error that is foreseen, and whose text says all. A frame often holds its own error again, by a future or a
    retry: such a cycle is freed by a search that may be hours away, and a parsed document has up to 60 MB.
    """
    link: BaseException | None = error
    while link is not None and link.__traceback__ is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
