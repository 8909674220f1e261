"""Batches on real parts: commands that belong together, and one event when all of them have ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika

from contracts.batches import BATCH_ENDED_KEY
from tests.end_to_end.in_process import worker_for
from tests.end_to_end.world import TIMEOUT_SECONDS, World, vendor_command
from tests.preloaded.preloaded import run_program
from tests.waiting import until
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, Behaviour, SimulatedEnterpriseManager
from worker.unlinks.policy import read_policy

#: A link that is not there.
NOWHERE = {"link_id": "ffffffff-1111-4000-8000-000000000000"}


class EndsOfBatches:
    """A consumer of the ends of batches, with a queue of its own."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(self._queue, "unlink.events", f"{BATCH_ENDED_KEY}.*")

    def other_than(self, *known: dict[str, Any]) -> dict[str, Any]:
        """The next event with another ID: two workers, or two deliveries, may each find a batch ended."""
        while (event := self.next())["id"] in {each["id"] for each in known}:
            assert event in known
        return event

    def next(self) -> dict[str, Any]:
        """The next event, which may be a repeat."""
        over = time.monotonic() + TIMEOUT_SECONDS
        for _method, properties, body in self._channel.consume(self._queue, inactivity_timeout=0.2, auto_ack=True):
            if body is not None:
                event: dict[str, Any] = json.loads(body)
                assert properties.message_id == event["id"]
                return event
            assert time.monotonic() < over, "no end of a batch"
        raise AssertionError("the queue is gone")

    def rest(self) -> list[dict[str, Any]]:
        """Those that come before there is none for a second."""
        found = []
        for _method, _properties, body in self._channel.consume(self._queue, inactivity_timeout=1, auto_ack=True):
            if body is None:
                break
            found.append(json.loads(body))
        return found


@contextmanager
def ends_of_batches(world: World) -> Iterator[EndsOfBatches]:
    """Listen for the ends of batches; a worker has declared the exchange."""
    connection = pika.BlockingConnection(pika.URLParameters(world.environment["UNLINK_BROKER__URL"]))
    try:
        yield EndsOfBatches(connection.channel())
    finally:
        connection.close()


def one_of(key: str, size: int = 2, **changes: Any) -> dict[str, Any]:
    """A command of the batch `OPS-1`."""
    named = {"batch": {"id": "OPS-1", "size": size}, "ticket": {"system": "jira", "id": "OPS-1"}}
    return vendor_command(key, **named | changes)


def test_a_batch_ends_once_all_have_ended_and_again_after_a_retry(world: World, behaviour: Behaviour) -> None:
    """A ticket with two links was closed when the second succeeded, though the first had failed."""
    behaviour.running_job = "task_fails"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=True)
    world.serve()
    with ends_of_batches(world) as ends:
        world.send(one_of("CHG1"))
        world.until_ended("CHG1")
        listed = run_program("list", "--batch", "ops-1", settings=world.environment)
        state = "OPS-1: 1 of 2 commands, 1 missing, 1 failed"
        assert listed.stderr == f"Batch {state} (on default from {world.client.user})\n"
        assert state in run_program("status", "CHG1", settings=world.environment).stdout
        shown = json.loads(run_program("status", "CHG1", "--output", "json", settings=world.environment).stdout)
        assert [(each["members"], each["missing"], each["under_way"]) for each in shown["batches"]] == [(1, 1, 0)]
        world.send(one_of("CHG2", repository=NOWHERE))
        failed = ends.next()
        data = failed["data"]
        assert (failed["subject"], data["user_id"]) == ("OPS-1", world.client.user)
        assert (data["counts"]["succeeded"], data["counts"]["failed"]) == (1, 1)
        assert (data["all_succeeded"], data["not_succeeded"], data["not_succeeded_more"]) == (False, ["CHG1"], 0)
        assert (data["ticket"]["id"], data["correlation_id"]) == ("OPS-1", None)
        world.enterprise_manager.set_running(VENDOR_JOB_ID, running=False)
        world.send({"command": "retry.v1", "idempotency_key": "CHG1", "run": 1})
        succeeded = ends.other_than(failed)
        assert (succeeded["data"]["all_succeeded"], succeeded["data"]["not_succeeded"]) == (True, [])
        assert succeeded["id"] != failed["id"]
        world.until_ended("CHG2")
        assert world.of("CHG2")[-1].data["batch"] == {"id": "OPS-1", "size": 2}
        for repeat in (one_of("CHG1"), {"command": "retry.v1", "idempotency_key": "CHG1", "run": 1}):
            world.send(repeat)
            assert ends.next() == succeeded
        world.send(one_of("CHG3"))
        world.until_ended("CHG3")
        rejected = world.of("CHG3")[-1].data["reason"]
        assert (rejected["code"], "has all of its 2 commands" in rejected["message"]) == ("invalid_message", True)


def test_what_is_not_run_counts_too(world: World) -> None:
    """Else one command that was rejected, cancelled or settled before would keep its ticket open."""
    world.serve()
    with ends_of_batches(world) as ends:
        world.send(one_of("settled", batch=None, repository=NOWHERE))
        world.until_ended("settled")
        world.send({"command": "cancel.v1", "idempotency_key": "cancelled"})
        world.until_acknowledged()
        world.send(one_of("cancelled", 5))
        world.send(one_of("settled", 5, repository=NOWHERE))
        world.send(one_of("reused", 5, repository=NOWHERE, batch=None))
        world.until_ended("reused")
        world.send(one_of("reused", 5))
        world.send(one_of("misspelt", 5, time_out=10))
        world.send(one_of("planned", 5, dry_run=True))
        world.send(one_of("failed", 5, repository=NOWHERE, if_absent="fail"))
        first = ends.next()
        data = first["data"]
        assert data["counts"] == {"succeeded": 1, "failed": 1, "rejected": 2, "cancelled": 1, "timed_out": 0}
        assert data["not_succeeded"] == ["cancelled", "failed", "misspelt", "reused"]
        world.until_ended("planned")
        assert world.of("planned")[-1].data["batch"] is None
        world.send(one_of("misspelt", 5, timeout_seconds=10))
        assert ends.other_than(first)["data"]["counts"]["succeeded"] == 2


async def test_a_member_that_the_policy_denies_counts_as_rejected(
    simulated_enterprise_manager: SimulatedEnterpriseManager,
) -> None:
    """Else the batch does not end, and its ticket stays open."""
    policy = read_policy("[[rules]]\nunnamed = true")
    async with worker_for(simulated_enterprise_manager, policy=policy, poll_interval_seconds=0.1) as worker:
        worker.send(one_of("CHG1"))
        assert (await worker.end_of("CHG1"))["outcome"] == "succeeded"
        worker.send(one_of("CHG2", allow_linked_backups_removal=True))
        assert (await worker.end_of("CHG2"))["reason"]["code"] == "access_denied"
        await until(lambda: "counts" in worker.received.events[-1], "the end of the batch")
        ended = worker.received.events[-1]
        assert (ended["counts"]["succeeded"], ended["counts"]["rejected"]) == (1, 1)
        assert ended["not_succeeded"] == ["CHG2"]


def test_what_was_first_ordered_alone_is_retried_with_its_batch(world: World, behaviour: Behaviour) -> None:
    """`retry --batch` would find nothing to run again, although the batch has not succeeded."""
    behaviour.running_job = "task_fails"
    world.enterprise_manager.set_running(VENDOR_JOB_ID, running=True)
    world.serve()
    with ends_of_batches(world) as ends:
        world.unlink("CHG1")
        world.send(one_of("CHG1", 1))
        failed = ends.next()
        assert failed["data"]["not_succeeded"] == ["CHG1"]
        world.enterprise_manager.set_running(VENDOR_JOB_ID, running=False)
        done = run_program("retry", "--batch", "OPS-1", "--yes", "--wait", settings=world.environment)
        assert done.returncode == 0, done.stderr
        assert ends.other_than(failed)["data"]["all_succeeded"] is True
