"""Whether an Enterprise Manager that never answers slows another one's unlinks.

Run as `python -m tests.benchmarks.several_enterprise_managers`. A worker serves a hundred unlinks alone; then another
one serves a hundred beside a second Enterprise Manager, with a hundred commands of its own, which accepts connections
and never answers.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from itertools import islice

import pika
from rich.console import Console

from tests.benchmarks.bench import EM, Bench
from tests.private_servers.black_hole import black_hole
from worker.broker.topology import COMMANDS

#: How many unlinks each of the two has.
EACH = 100

EDIT_SECONDS = 2.0

#: How much longer it may take beside the one that never answers.
MOST_TIMES_AS_LONG = 1.2

DARK = "UNLINK_ENTERPRISE_MANAGERS__DARK__"


def main() -> None:
    """Print both times and their ratio; the exit status is 1 if it is too great."""
    console = Console()
    with Bench() as bench, black_hole() as port:
        bench.enterprise_manager.change_behaviour(edit_seconds=EDIT_SECONDS)
        alone = _seconds(bench, {})
        dark = {f"{DARK}URL": f"https://127.0.0.1:{port}", f"{DARK}USERNAME": "nobody", f"{DARK}PASSWORD": "nothing"}
        beside = _seconds(bench, dark)
    ratio = beside / alone
    console.print(
        f"{EACH} unlinks: {alone:.1f} s alone, {beside:.1f} s beside an Enterprise Manager that never answers: "
        f"{ratio:.2f} times as long (at most {MOST_TIMES_AS_LONG})",
        style="bold",
    )
    sys.exit(ratio > MOST_TIMES_AS_LONG)


def _seconds(bench: Bench, dark: dict[str, str]) -> float:
    """How long a new worker takes for its unlinks."""
    (worker,) = bench.start_workers(1, bench.new_ledger(), {f"{EM}MAX_IN_FLIGHT": "64"} | dark)
    commands = dict(islice(bench.commands().items(), EACH))
    if dark:
        _publish_to_the_dark(bench.broker.url)
    began = time.monotonic()
    bench.publish(commands)
    bench.until_ended(list(commands))
    seconds = time.monotonic() - began
    worker.kill()
    return seconds


def _publish_to_the_dark(broker_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for number in range(EACH):
            command = {
                "command": "unlink.v1",
                "idempotency_key": f"dark-{number}",
                "enterprise_manager": "dark",
                "job": {"id": str(uuid.uuid4())},
                "repository": {"link_id": str(uuid.uuid4())},
            }
            properties = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish(COMMANDS, "dark", json.dumps(command).encode(), properties, mandatory=True)


if __name__ == "__main__":
    main()
