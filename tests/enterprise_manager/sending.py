"""The permission to send, where a test is not about it."""

from __future__ import annotations

import math


async def at_any_time() -> float:
    """Permit the DELETE, without a last moment."""
    return math.inf
