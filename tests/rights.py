"""Tests of what a user may not do, run by any user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NOBODY = 65534


@contextmanager
def without_the_rights_of_root() -> Iterator[None]:
    """Be nobody for a while, if this is root. Modules that are imported meanwhile may not be readable."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(mine)
