"""A worker whose waits for the broker are short: a minute of refusals is half a second, and a delay is one second.

Everything else is the real program. `NO_DEAD_LETTER` is the text of an error with which each dead letter fails.
"""

from __future__ import annotations

import os
from typing import Any

from worker.broker import outbox
from worker.broker.broker import Broker
from worker.broker.outbox import BrokerOutbox
from worker.cli import main
from worker.unlinks import attempts

#: The delay queue that is used whatever the delay, in seconds.
DELAY_SECONDS = 1


async def fail(*_: Any) -> None:
    """Dead-letter nothing."""
    raise RuntimeError(os.environ["NO_DEAD_LETTER"])


if __name__ == "__main__":
    outbox.REFUSED_SECONDS = 0.5
    attempts.FIRST_RETRY_SECONDS = 1.0
    (Broker.__init__.__kwdefaults__ or {})["delay_tiers"] = (DELAY_SECONDS,)
    if os.environ.get("NO_DEAD_LETTER"):
        BrokerOutbox.dead_letter = fail  # type: ignore[method-assign,assignment]
    main()
