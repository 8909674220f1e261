"""A repeat of a command that arrives while the first one is being answered, at each turn of the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.end_to_end.in_process import Handed, InProcessWorker, worker_for
from tests.waiting import until
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager

#: How many turns of the event loop lie between the repeat and the confirm of the event, at most.
TURNS = 12


async def test_a_repeat_is_answered_at_whichever_turn_of_the_loop_it_arrives(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """A repeat that joined a run after its last acknowledgement was held for ever, and its sender waited."""
    async with worker_for(simulated_enterprise_manager) as worker:
        repeats: dict[str, Handed] = {}
        turns = {f"CHG{number}": number for number in range(TURNS)}
        publish = worker.received.publish

        async def publish_and_repeat(event: Any, reply_to: Any = (), *, refusals: int = 0) -> None:
            await publish(event, reply_to, refusals=refusals)
            key = worker.received.events[-1]["idempotency_key"]
            if key not in repeats:
                repeats[key] = send(worker, key)
                for _ in range(turns[key]):
                    await asyncio.sleep(0)

        worker.received.publish = publish_and_repeat  # type: ignore[method-assign]
        firsts = [send(worker, key) for key in turns]
        await until(lambda: len(repeats) == TURNS and all(first.acknowledged for first in firsts))
        await until(lambda: all(repeat.acknowledged for repeat in repeats.values()), "an answer to each repeat")


def send(worker: InProcessWorker, key: str) -> Handed:
    """Deliver a command that ends at once: there is no such job."""
    nowhere = "00000000-0000-0000-0000-000000000000"
    return worker.send({"idempotency_key": key, "job": {"id": nowhere}, "repository": {"link_id": nowhere}})
