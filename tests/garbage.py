"""Counts what is alive while nothing searches for cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def alive(*kinds: type) -> int:
    """How many objects of these types there are."""
    return sum(isinstance(each, kinds) for each in gc.get_objects())


@contextmanager
def without_search() -> Iterator[None]:
    """Let no cycle be freed: the next search for them may be hours away."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
