"""What arrives, on a real broker: deliveries, pauses, and each way of losing a consumer.

More than 400 lines: all ways to lose a consumer, with the fixtures of this file.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pika
import pytest
from pydantic import SecretStr

from tests.broker.conftest import Site, Worker
from tests.rabbitmq import own_node
from tests.waiting import until
from worker.sandbox.rabbitmq.private_broker import LocalBroker

QUEUE = "unlink.commands.default"


def _unacknowledged(site: Site) -> int:
    (queue,) = [each for each in site.ask("queues") if each["name"] == QUEUE]
    return int(queue.get("messages_unacknowledged", -1))


async def test_delivery_carries_the_message_and_its_properties(worker: Worker, site: Site) -> None:
    """The worker would not see what a publisher said about its command."""
    site.send(
        b"body", content_type="application/json", correlation_id="c", reply_to="reply.x", headers={"a": 7, "b": [True]}
    )
    delivery = await worker.next()
    assert (delivery.body, delivery.content_type, delivery.correlation_id) == (b"body", "application/json", "c")
    assert delivery.reply_to == "reply.x"
    assert delivery.enterprise_manager == "default"
    assert delivery.attempt == 1
    assert delivery.live
    assert delivery.headers == {"a": 7, "b": [True]}
    assert type(delivery.headers["a"]) is int


async def test_reply_address_outside_the_allowed_patterns_is_not_taken(worker: Worker, site: Site) -> None:
    """A publisher could have events sent into anybody's queue."""
    site.send(b"body", reply_to="payroll.commands")
    assert (await worker.next()).reply_to is None


async def test_acknowledged_delivery_is_gone_and_an_unacknowledged_one_returns_on_close(site: Site) -> None:
    """Finished commands would be done again after a restart, or unfinished ones never."""
    worker = await site.start_worker()
    site.send(b"done")
    site.send(b"not done")
    done, not_done = await worker.next(), await worker.next()
    done.acknowledge()
    await worker.broker.close()
    assert not not_done.live
    assert [body for _, _, body in site.take_all(QUEUE)] == [b"not done"]


async def test_requeued_delivery_comes_again(worker: Worker, site: Site) -> None:
    """A command given back would be lost."""
    site.send(b"body")
    (await worker.next()).requeue()
    assert (await worker.next()).body == b"body"


async def test_settling_a_delivery_twice_or_too_late_does_nothing(worker: Worker, site: Site) -> None:
    """An old delivery tag would acknowledge somebody else's command, or end the channel with all in hand."""
    site.send(b"twice")
    twice = await worker.next()
    twice.acknowledge()
    twice.acknowledge()
    twice.requeue()
    site.send(b"late")
    late = await worker.next()
    await asyncio.to_thread(site.close_connections)
    await until(lambda: not late.live)
    await until(lambda: worker.broker.consuming)
    again = await worker.next()
    late.acknowledge()
    late.requeue()
    assert again.live
    assert again.body == b"late"
    assert not site.logged("broker.channel_lost")


async def test_prefetch_is_the_limit_of_each_queue_by_itself(site: Site) -> None:
    """One Enterprise Manager that is slow would take the places of another's commands."""
    worker = await site.start_worker(queues={"default": 2, "other": 3})
    for _ in range(5):
        site.send(b"d")
        site.send(b"o", routing_key="other")
    await until(lambda: len(worker.deliveries) == 5)
    assert sorted(delivery.body for delivery in worker.deliveries) == [b"d", b"d", b"o", b"o", b"o"]
    assert site.count(QUEUE) == 3
    worker.deliveries[0].acknowledge()
    await until(lambda: len(worker.deliveries) == 6)


async def test_paused_queue_hands_nothing_on_until_every_reason_is_gone(worker: Worker, site: Site) -> None:
    """Commands would be taken while their Enterprise Manager is down, or stay untouched when it is back."""
    worker.broker.pause("default", "down")
    worker.broker.pause("default", "ledger")
    worker.broker.pause("default", "ledger")
    await until(lambda: not worker.broker.consuming)
    assert worker.broker.up
    site.send(b"waits")
    worker.broker.resume("default", "down")
    await until(lambda: site.count(QUEUE) == 1)
    assert not worker.broker.consuming
    worker.broker.resume("default", "ledger")
    assert (await worker.next()).body == b"waits"
    await until(lambda: worker.broker.consuming == {"default"})


@pytest.mark.slow
async def test_paused_queue_keeps_its_consumer_while_a_delivery_is_unacknowledged(worker: Worker, site: Site) -> None:
    """After a node's crash RabbitMQ can withhold the unacknowledged commands of a consumer that was cancelled."""
    site.send(b"under way")
    under_way = await worker.next()
    worker.broker.pause("default", "down")
    for body in (b"1", b"2"):
        site.send(body)
    await until(lambda: _unacknowledged(site) == 3)
    assert worker.broker.consuming == {"default"}
    assert not worker.deliveries
    under_way.acknowledge()
    await until(lambda: not worker.broker.consuming)
    await until(lambda: site.count(QUEUE) == 2)
    assert not worker.deliveries
    worker.broker.resume("default", "down")
    assert [(await worker.next()).body for _ in range(2)] == [b"1", b"2"]


async def test_what_arrived_during_a_pause_is_handed_on_first_and_prefetch_is_never_exceeded(site: Site) -> None:
    """An Enterprise Manager that flaps would bring more unlinks in flight with each pause, or disturb their order."""
    worker = await site.start_worker(queues={"default": 3})
    for number in range(6):
        site.send(b"%d" % number)
    under_way = [await worker.next() for _ in range(3)]
    for _ in range(5):
        worker.broker.pause("default", "flaps")
        await until(lambda: worker.broker.consuming)
        worker.broker.resume("default", "flaps")
    worker.broker.pause("default", "flaps")
    under_way[0].acknowledge()
    await until(lambda: site.count(QUEUE) == 2)
    await until(lambda: _unacknowledged(site) == 3)
    assert not worker.deliveries
    worker.broker.resume("default", "flaps")
    assert (await worker.next()).body == b"3"
    assert not worker.deliveries
    assert all(delivery.live for delivery in under_way)
    assert site.count(QUEUE) == 2


async def test_lost_connection_forgets_what_arrived_during_a_pause(worker: Worker, site: Site) -> None:
    """A command would be taken twice, or its consumer stay registered for a delivery that is no longer there."""
    site.send(b"under way")
    under_way = await worker.next()
    worker.broker.pause("default", "down")
    site.send(b"waits")
    await until(lambda: site.count(QUEUE) == 0)
    # The pause ends at the very moment of the loss, before the consumer's task has noticed the loss.
    under_way._channel.add_on_close_callback(lambda *_: worker.broker.resume("default", "down"))  # noqa: SLF001
    await asyncio.to_thread(site.close_connections)
    assert {(await worker.next()).body for _ in range(2)} == {b"under way", b"waits"}
    assert not worker.deliveries


async def test_what_was_deleted_with_its_queue_during_a_pause_is_not_handed_on(worker: Worker, site: Site) -> None:
    """Whoever deletes a queue in order to stop its commands would see one of them done all the same."""
    site.send(b"under way")
    under_way = await worker.next()
    worker.broker.pause("default", "down")
    site.send(b"deleted")
    await until(lambda: site.count(QUEUE) == 0)
    under_way._channel.add_on_cancel_callback(lambda _: worker.broker.resume("default", "down"))  # noqa: SLF001
    site.delete_queue(QUEUE)
    await until(lambda: site.logged("broker.consumer_cancelled"))
    await until(lambda: worker.broker.consuming == {"default"})
    assert not worker.deliveries


@pytest.mark.rabbitmqctl
async def test_consumer_that_the_broker_does_not_register_is_logged_and_tried_again(
    worker: Worker, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue whose node hangs would stay unconsumed without a word."""
    monkeypatch.setattr("worker.broker.channels.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("worker.broker.intake.CLOSE_SECONDS", 0.5)
    worker.broker.pause("default", "down")
    await until(lambda: not worker.broker.consuming)
    await asyncio.to_thread(site.silence, QUEUE, silent_now=True)
    worker.broker.resume("default", "down")
    await until(lambda: site.logged("broker.channel_lost"))
    assert site.logged("broker.channel_lost")[0]["queue"] == QUEUE
    assert "no answer" in site.logged("broker.channel_lost")[0]["problem"]
    monkeypatch.undo()
    await asyncio.to_thread(site.silence, QUEUE, silent_now=False)
    await until(lambda: worker.broker.consuming == {"default"})
    site.send(b"body")
    (await worker.next()).acknowledge()


async def test_paused_and_resumed_at_once_it_consumes(worker: Worker, site: Site) -> None:
    """A short outage would leave the worker deaf."""
    for _ in range(20):
        worker.broker.pause("default", "flicker")
        await asyncio.sleep(0)
        worker.broker.resume("default", "flicker")
        await asyncio.sleep(0)
    site.send(b"body")
    assert (await worker.next()).body == b"body"


async def test_pause_before_the_start_is_kept(site: Site) -> None:
    """A worker that starts while an Enterprise Manager is down would take its commands."""
    worker = site.make_worker()
    worker.broker.pause("default", "down")
    async with asyncio.timeout(20):
        await worker.broker.start()
    site.send(b"waits")
    assert not worker.broker.consuming
    assert site.count(QUEUE) == 1
    worker.broker.resume("default", "down")
    await worker.next()
    await until(lambda: worker.broker.consuming == {"default"})


async def test_pause_survives_a_lost_connection(worker: Worker, site: Site) -> None:
    """A reconnection would let the commands of an Enterprise Manager in that is down."""
    worker.broker.pause("default", "down")
    await until(lambda: not worker.broker.consuming)
    availability: list[bool] = []
    worker.broker.on_availability(availability.append)
    await asyncio.to_thread(site.close_connections)
    await until(lambda: availability == [False, True])
    site.send(b"waits")
    assert not worker.broker.consuming
    worker.broker.resume("default", "down")
    assert (await worker.next()).body == b"waits"


@pytest.mark.parametrize("paused", [False, True])
async def test_drained_worker_takes_nothing_more_and_can_still_acknowledge(site: Site, *, paused: bool) -> None:
    """On shutdown, work would be taken that nobody does, or work that was done would be done again."""
    worker = await site.start_worker()
    site.send(b"in hand")
    in_hand = await worker.next()
    if paused:
        worker.broker.pause("default", "down")
        site.send(b"arrived during the pause")
        await until(lambda: site.count(QUEUE) == 0)
    await worker.broker.stop_consuming()
    if paused:
        await until(lambda: site.count(QUEUE) == 1)
        site.take_all(QUEUE)
    site.send(b"for others")
    assert in_hand.live
    in_hand.acknowledge()
    await worker.broker.close()
    assert [body for _, _, body in site.take_all(QUEUE)] == [b"for others"]


async def test_drained_while_it_connects_the_worker_takes_nothing(site: Site) -> None:
    """A worker told to stop in its first second would take commands that nobody does."""
    first = await site.start_worker()
    await first.broker.close()
    site.send(b"for others")
    for turns in range(0, 400, 20):
        worker = site.make_worker()
        start = asyncio.create_task(worker.broker.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        await worker.broker.stop_consuming()
        taken = len(worker.deliveries)
        await until(lambda worker=worker: worker.broker.up)
        assert not worker.broker.consuming
        assert len(worker.deliveries) == taken
        await start
        await worker.broker.close()
    assert site.count(QUEUE) == 1


async def test_lost_connection_is_named_and_the_consumer_comes_back(worker: Worker, site: Site) -> None:
    """After a network failure the worker would look alive and take no command."""
    notified: list[bool] = []
    worker.broker.on_availability(notified.append)
    site.send(b"in hand")
    in_hand = await worker.next()
    await asyncio.to_thread(site.close_connections)
    await until(lambda: "consume" in {entry["purpose"] for entry in site.logged("broker.connection_lost")})
    assert not in_hand.live
    assert (await worker.next()).body == b"in hand"
    await until(lambda: worker.broker.up)
    assert {entry["purpose"] for entry in site.logged("broker.connection_lost")} <= {"consume", "publish"}
    assert "tidying up" in site.logged("broker.connection_lost")[0]["problem"]
    assert notified[0] is False
    assert notified[-1] is True
    assert worker.broker.last_problem is None


async def test_queue_for_which_there_is_no_channel_is_named_with_the_remedy(site: Site) -> None:
    """A queue more than the broker allows channels would never be consumed, without a word."""
    few = site.settings.model_copy(update={"url": SecretStr(f"{site.settings.url.get_secret_value()}?channel_max=1")})
    worker = site.make_worker(few, queues={"default": 1, "other": 1})
    start = asyncio.ensure_future(worker.broker.start())
    await until(lambda: len(site.logged("broker.channel_lost")) >= 2)
    queues = {QUEUE, "unlink.commands.other", "unlink.misrouted"}
    assert {entry["queue"] for entry in site.logged("broker.channel_lost")} < queues, "one of them has the channel"
    for entry in site.logged("broker.channel_lost"):
        assert "no free channel" in entry["problem"]
        assert "channel_max" in entry["problem"]
    assert len(worker.broker.consuming) <= 1
    assert not start.done()
    start.cancel()


async def test_deleted_queue_is_named_declared_anew_and_consumed(worker: Worker, site: Site) -> None:
    """After an operator's mistake the worker would look alive and take no command."""
    site.delete_queue(QUEUE)
    await until(lambda: site.logged("broker.consumer_cancelled"))
    await until(lambda: worker.broker.consuming == {"default"})
    assert "the queue was deleted" in site.logged("broker.consumer_cancelled")[0]["problem"]
    assert not site.logged("broker.connection_lost")
    site.send(b"body")
    assert (await worker.next()).body == b"body"


@pytest.fixture
def short_consumer_timeout(broker: LocalBroker) -> Iterator[None]:
    """The broker acts on a delivery that is a second old, and looks twice a second."""
    own_node(broker).rabbitmqctl(
        "eval",
        "application:set_env(rabbit, consumer_timeout, 1000), application:set_env(rabbit, channel_tick_interval, 500).",
    )
    yield
    own_node(broker).rabbitmqctl(
        "eval",
        "application:set_env(rabbit, consumer_timeout, 1800000),"
        "application:set_env(rabbit, channel_tick_interval, 60000).",
    )


@pytest.mark.rabbitmqctl
@pytest.mark.usefixtures("short_consumer_timeout")
async def test_delivery_held_too_long_loses_only_its_own_consumer_and_the_remedy_is_logged(site: Site) -> None:
    """One command held too long would take all Enterprise Managers' commands with it, or leave its queue unconsumed."""
    worker = await site.start_worker(queues={"default": 4, "other": 4})
    site.send(b"held")
    held = await worker.next()

    def losses() -> list[Any]:
        # RabbitMQ closes the channel; from 4.3 on it cancels the consumer.
        return site.logged("broker.channel_lost") + site.logged("broker.consumer_cancelled")

    await until(losses)
    (lost,) = losses()
    assert lost["enterprise_manager"] == "default"
    assert "consumer_timeout" in lost["problem"]
    assert "UNLINK_BROKER__HOLD_SECONDS" in lost["problem"]
    assert "deleted" not in lost["problem"]
    assert "\n" not in lost["problem"]
    assert not held.live
    assert "other" in worker.broker.consuming
    assert not site.logged("broker.connection_lost")
    again = await worker.next()
    assert again.body == b"held"
    again.acknowledge()
    await until(lambda: worker.broker.consuming == {"default", "other"})


def _nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for _ in range(depth):
        table = {"": table}
    return table


_MICROSECONDS = b"\x01tT" + struct.pack(">Q", 1_800_000_000_000_000)
_DEEP = b"\x01f" + b"".join(
    b"F" + struct.pack(">I", 6 * left) + (b"\x00" if left else b"") for left in range(3000, -1, -1)
)


@pytest.mark.parametrize("table", [_MICROSECONDS, _DEEP], ids=["time in microseconds", "nested 3000 deep"])
async def test_headers_that_cannot_be_decoded_cost_the_headers_and_not_the_connection(
    worker: Worker, site: Site, monkeypatch: pytest.MonkeyPatch, table: bytes
) -> None:
    """One message with hostile headers would come back for ever and end the connection each time."""
    with monkeypatch.context() as patched:

        def encode_table(pieces: list[bytes], _headers: object) -> int:
            pieces.append(struct.pack(">I", len(table)) + table)
            return len(table) + 4

        with site.channel() as channel:
            channel.confirm_delivery()
            patched.setattr("pika.data.encode_table", encode_table)
            channel.basic_publish(
                "unlink.commands",
                "default",
                b"body",
                pika.BasicProperties(
                    content_type="application/json", headers={"x": 1}, message_id="m", reply_to="reply.x"
                ),
            )
            patched.undo()
    delivery = await worker.next()
    assert delivery.body == b"body"
    assert delivery.content_type == "application/json"
    assert delivery.reply_to == "reply.x"
    assert delivery.properties.message_id == "m"
    assert delivery.headers == {"unlink-headers-unreadable": True}
    await worker.broker.outbox.delay(delivery, 1, failed=True)
    delivery.acknowledge()
    assert (await worker.next()).attempt == 2
    assert not site.logged("broker.connection_lost")


async def test_odd_properties_and_a_large_body_arrive(worker: Worker, site: Site) -> None:
    """A publisher's odd text or a huge message would end the connection, or hide the message from the dead letters."""
    site.send(
        b"x" * 300_000,
        content_type=b"\xff\xfe",
        correlation_id=b"\xff",
        timestamp=2**63,
        headers={
            "when": datetime(2026, 1, 1, tzinfo=UTC),
            "bytes": b"\xff",
            "nothing": None,
            "nested": _nested(30),
            "unlink-attempt": "many",
        },
    )
    delivery = await worker.next()
    assert len(delivery.body) == 300_000
    assert delivery.content_type is None
    assert delivery.correlation_id is None
    assert delivery.attempt == 1
    await worker.broker.outbox.delay(delivery, 1, failed=True)
    delivery.acknowledge()
    again = await worker.next()
    assert again.attempt == 2
    assert again.headers["bytes"] == b"\xff"
