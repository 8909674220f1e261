"""A worker that kills itself at one boundary of the path: `CRASH_AT` names it. Everything else is the real program."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from worker.broker.delivery import BrokerDelivery
from worker.cli import main
from worker.enterprise_manager import Gateway
from worker.ledger.sql_ledger import SqlLedger
from worker.unlinks.ports.ledger import Intended, Settled, Submitted

#: For each boundary: the class and the method, whether it is crossed before or after the call, and with which change.
BOUNDARIES: dict[str, tuple[Any, ...]] = {
    "delivered": (SqlLedger, "claim", "before"),
    "claimed": (SqlLedger, "claim", "after"),
    "looked": (SqlLedger, "record", "before", Intended),
    "intended": (Gateway, "delete_link", "before"),
    "deleted": (Gateway, "delete_link", "after"),
    "submitted": (SqlLedger, "record", "after", Submitted),
    "following": (Gateway, "task", "before"),
    "followed": (Gateway, "task", "after_finished"),
    "verified": (SqlLedger, "record", "before", Settled),
    "settled": (SqlLedger, "record", "after", Settled),
    "published": (BrokerDelivery, "acknowledge", "before"),
}


def die() -> NoReturn:
    """SIGKILL: no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead by now")


def arm(boundary: str) -> None:
    """Put the crash in place."""
    owner, name, when, *changes = BOUNDARIES[boundary]
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    async def crashing(*arguments: Any, **named: Any) -> Any:
        if changes and not isinstance(arguments[-1], *changes):
            return await original(*arguments, **named)
        if when == "before":
            die()
        result = await original(*arguments, **named)
        if when == "after" or result.finished:
            die()
        return result

    @functools.wraps(original)
    def crashing_at_once(*_arguments: Any, **_named: Any) -> NoReturn:
        die()

    setattr(owner, name, crashing_at_once if owner is BrokerDelivery else crashing)


if __name__ == "__main__":
    arm(os.environ["CRASH_AT"])
    main()
