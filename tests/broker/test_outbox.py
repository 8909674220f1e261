"""What leaves for the broker, on a real one.

More than 400 lines: events, delays and dead letters leave in one way, and are tested side by side.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from contracts.commands import UNKNOWN_NAME
from contracts.events import Outcome, Reason, ReasonCode
from tests.broker.conftest import Site, Worker
from tests.broker.events import make_event
from tests.rabbitmq import own_node
from tests.waiting import until
from worker.broker.problems import BrokerClosedError
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.settings import BrokerSettings
from worker.unlinks.ports.broker import PublishRefusedError


async def test_event_arrives_byte_for_byte_with_its_properties(worker: Worker, site: Site) -> None:
    """A consumer that relies on the documented routing key and properties would miss or misread events."""
    site.queue("subscriber", "unlink.events", "succeeded.*")
    event = make_event(correlation_id="their-own")
    body = event.to_bytes() + b"  "
    await worker.broker.outbox.publish(body)
    properties, routing_key, received = await site.take("subscriber")
    assert received == body
    assert routing_key == "succeeded.default"
    assert properties.content_type == "application/cloudevents+json"
    assert properties.delivery_mode == 2
    assert properties.message_id == event.id
    assert properties.correlation_id == "their-own"
    assert properties.type == "unlink.succeeded.v1"
    assert properties.app_id == "unlink-worker"
    # RabbitMQ 3.10 counts the deliveries of a quorum queue from the first on, in a header of its own.
    headers = {name: value for name, value in properties.headers.items() if not name.startswith("x-")}
    assert headers == {"unlink-from-ledger": True}
    assert abs(properties.timestamp - datetime.now(UTC).timestamp()) < 60


async def test_event_model_is_published_as_its_bytes(worker: Worker, site: Site) -> None:
    """An event and its stored bytes would differ, and a consumer could not tell a repeat."""
    site.queue("subscriber", "unlink.events", "#")
    event = make_event(key="the-key")
    await worker.broker.outbox.publish(event)
    properties, _, received = await site.take("subscriber")
    assert received == event.to_bytes()
    assert properties.correlation_id == "the-key"
    assert "unlink-from-ledger" not in (properties.headers or {})


async def test_correlation_id_too_long_for_a_property_stays_in_the_body(worker: Worker, site: Site) -> None:
    """200 characters that take 600 bytes would keep the event from ever being published."""
    site.queue("subscriber", "unlink.events", "#")
    event = make_event(correlation_id="\N{SNOWMAN}" * 200)
    await worker.broker.outbox.publish(event)
    properties, _, received = await site.take("subscriber")
    assert received == event.to_bytes()
    assert properties.correlation_id == "key-1"


async def test_event_without_a_subscriber_is_kept_in_unrouted(worker: Worker, site: Site) -> None:
    """The result of an unlink that nobody subscribed to yet would be lost."""
    await worker.broker.outbox.publish(make_event())
    _, routing_key, _ = await site.take("unlink.unrouted")
    assert routing_key == "succeeded.default"


async def test_event_that_no_queue_takes_is_repeated_until_one_does(worker: Worker, site: Site) -> None:
    """The broker confirms what it drops: an event would count as published, and be gone."""
    site.delete_queue("unlink.unrouted")
    event = make_event()
    await worker.broker.outbox.publish(event)
    failed = site.logged("broker.publish_failed")
    assert failed[0]["log_level"] == "error"
    assert failed[0]["problem"] == "no queue took it"
    _, _, body = await site.take("unlink.unrouted")
    assert body == event.to_bytes()


async def test_deleted_events_exchange_is_declared_anew_and_the_event_arrives(worker: Worker, site: Site) -> None:
    """An exchange deleted by mistake would stop all events until the worker is restarted."""
    with site.channel() as channel:
        channel.exchange_delete("unlink.events")
    await worker.broker.outbox.publish(make_event())
    assert site.logged("broker.channel_lost")
    await site.take("unlink.unrouted")


@pytest.mark.slow
async def test_two_thousand_outstanding_publishes_are_all_confirmed(worker: Worker, site: Site) -> None:
    """A burst of results would stall, or be counted wrongly where the broker confirms many at once."""
    events = [make_event(key=f"key-{number}") for number in range(2000)]
    await asyncio.wait_for(asyncio.gather(*(worker.broker.outbox.publish(event) for event in events)), 60)
    assert worker.broker.outbox.unconfirmed == 0
    arrived = {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")}
    assert arrived == {event.id for event in events}


@pytest.mark.slow
async def test_broker_restarted_under_publishes_loses_none_and_the_consumer_comes_back(
    worker: Worker, site: Site, broker: LocalBroker
) -> None:
    """A restart of the broker in the middle of a busy hour would lose results, or leave the worker deaf."""
    events = [make_event(key=f"key-{number}") for number in range(3000)]
    publishes = [asyncio.ensure_future(worker.broker.outbox.publish(event)) for event in events[:1500]]
    restart = asyncio.create_task(asyncio.to_thread(own_node(broker).restart))
    await until(lambda: not worker.broker.up)
    publishes += [asyncio.ensure_future(worker.broker.outbox.publish(event)) for event in events[1500:]]
    await asyncio.wait_for(asyncio.gather(restart, *publishes), 90)
    arrived = {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")}
    assert arrived == {event.id for event in events}
    await until(lambda: worker.broker.consuming == {"default"})
    site.send(b"after")
    assert (await worker.next()).body == b"after"


@pytest.mark.rabbitmqctl
async def test_memory_alarm_delays_publishes_without_repeating_them_and_lets_acknowledgements_through(
    site: Site,
) -> None:
    """In an alarm of an hour each waiting event would be sent again and again, or finished work redelivered."""
    worker = await site.start_worker(site.settings.model_copy(update={"confirm_seconds": 0.1}), queues={"default": 1})
    site.send(b"first")
    site.send(b"second")
    first = await worker.next()
    await asyncio.to_thread(site.alarm, on=True)
    publish = asyncio.ensure_future(worker.broker.outbox.publish(make_event()))
    await until(lambda: site.logged("broker.blocked"))
    first.acknowledge()
    assert (await worker.next()).body == b"second"
    assert not publish.done()
    await asyncio.to_thread(site.alarm, on=False)
    await asyncio.wait_for(publish, 20)
    repeats = site.logged("broker.publish_failed")
    assert len(site.take_all("unlink.unrouted")) == 1 + len(repeats)
    assert len(repeats) <= 1, "only what waited before the broker told of its alarm"


@pytest.mark.rabbitmqctl
async def test_publish_without_a_confirm_is_repeated(site: Site) -> None:
    """An event that the broker lost without a word would never be sent again, and its command stay unacknowledged."""
    worker = await site.start_worker(site.settings.model_copy(update={"confirm_seconds": 0.5}))
    await asyncio.to_thread(site.silence, "unlink.unrouted", silent_now=True)
    event = make_event()
    publish = asyncio.ensure_future(worker.broker.outbox.publish(event))
    await until(lambda: len(site.logged("broker.publish_failed")) >= 2, seconds=30)
    assert {entry["problem"] for entry in site.logged("broker.publish_failed")} == {
        "the broker did not confirm in time"
    }
    assert not publish.done()
    await asyncio.to_thread(site.silence, "unlink.unrouted", silent_now=False)
    async with asyncio.timeout(30):
        await publish
    arrived = site.take_all("unlink.unrouted")
    assert len(arrived) >= 2
    assert {body for _, _, body in arrived} == {event.to_bytes()}


#: Of a classic queue, since a quorum queue takes a few messages more.
FULL_AFTER_ONE = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}


async def test_event_that_a_full_subscriber_refuses_is_given_back_and_holds_nothing_up(
    worker: Worker, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One subscriber's full queue would make the worker send the same event for ever, and hold all its slots."""
    monkeypatch.setattr("worker.broker.outbox.REFUSED_SECONDS", 0.5)
    site.queue("healthy", "unlink.events", "#")
    site.queue("full", "unlink.events", "failed.*", **FULL_AFTER_ONE)
    site.send(b"fills it up", "", "full")
    refused = make_event(outcome=Outcome.FAILED)
    with pytest.raises(PublishRefusedError):
        await worker.broker.outbox.publish(refused)
    with pytest.raises(PublishRefusedError):
        await worker.broker.outbox.offer(refused)
    await worker.broker.outbox.publish(make_event(outcome=Outcome.SUCCEEDED))
    received = [properties.message_id for properties, _, _ in site.take_all("healthy")]
    assert received[-1] != refused.id
    assert set(received[:-1]) == {refused.id}


async def test_event_that_was_refused_before_is_given_back_sooner(
    worker: Worker, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundreds of them took a minute of a slot each, every eleven minutes: all others waited."""
    monkeypatch.setattr("worker.broker.outbox.REFUSED_AGAIN_SECONDS", 0.5)
    site.queue("full", "unlink.events", "failed.*", **FULL_AFTER_ONE)
    site.send(b"fills it up", "", "full")
    refused = make_event(outcome=Outcome.FAILED)
    first = asyncio.ensure_future(worker.broker.outbox.publish(refused))
    with pytest.raises(PublishRefusedError):
        await worker.broker.outbox.publish(refused, refusals=1)
    assert not first.done()
    site.take_all("full")
    await first


async def test_message_that_the_broker_answers_by_closing_the_channel_fails_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lost permission would keep all other events from being published, and hold its own command for ever."""
    monkeypatch.setattr("worker.broker.outbox.REFUSED_SECONDS", 2.0)
    declaring = await site.start_worker()
    await declaring.broker.close()
    url = site.new_user(write=r"^unlink\.(events|dead|delay\.2s)$", read=r"^unlink\.")
    worker = await site.start_worker(site.settings.model_copy(update={"url": SecretStr(url), "topology": "verify"}))
    site.send(b"culprit")
    delivery = await worker.next()
    outbox = worker.broker.outbox
    culprits = [asyncio.ensure_future(outbox.delay(delivery, 1, failed=True)) for _ in range(3)]
    events = [make_event(key=f"key-{number}") for number in range(20)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(outbox.publish(event) for event in events))
        await outbox.delay(delivery, 2, failed=True)
    for culprit in culprits:
        with pytest.raises(PublishRefusedError, match=r"lacks a permission.*unlink\.delay\.1s"):
            await asyncio.wait_for(culprit, 60)
    arrived = {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")}
    assert arrived == {event.id for event in events}
    assert site.count("unlink.delay.2s") <= 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("channel_max", [1, 2])
async def test_message_at_fault_fails_alone_where_the_broker_allows_few_channels(
    site: Site, monkeypatch: pytest.MonkeyPatch, channel_max: int
) -> None:
    """Attempts without a free channel followed each other without a pause: nothing else in the worker ran any more."""
    monkeypatch.setattr("worker.broker.outbox.REFUSED_SECONDS", 2.0)
    declaring = await site.start_worker()
    await declaring.broker.close()
    url = site.new_user(write=r"^unlink\.(events|dead|delay\.2s)$", read=r"^unlink\.")
    settings = {"url": SecretStr(f"{url}?channel_max={channel_max}"), "topology": "verify"}
    worker = site.make_worker(site.settings.model_copy(update=settings))
    worker.broker.pause(UNKNOWN_NAME, "its channel is needed")
    await worker.broker.start()
    site.send(b"culprit")
    delivery = await worker.next()
    outbox = worker.broker.outbox
    culprits = [asyncio.ensure_future(outbox.delay(delivery, 1, failed=True)) for _ in range(3)]
    events = [make_event(key=f"key-{number}") for number in range(20)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(outbox.publish(event) for event in events))
    for culprit in culprits:
        with pytest.raises(PublishRefusedError, match=r"lacks a permission.*unlink\.delay\.1s"):
            await asyncio.wait_for(culprit, 60)
    arrived = {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")}
    assert arrived == {event.id for event in events}


async def test_permission_that_is_taken_away_holds_nothing_else_up_and_can_be_given_back(site: Site) -> None:
    """One wrong permission would delay all commands in progress until each worker is restarted."""
    declaring = await site.start_worker()
    await declaring.broker.close()
    permissions = {"write": r"^unlink\.", "read": r"^unlink\."}
    url = SecretStr(site.new_user(**permissions))
    worker = await site.start_worker(site.settings.model_copy(update={"url": url, "topology": "verify"}))
    site.send(b"to be delayed")
    delivery = await worker.next()
    site.permit(**permissions | {"write": r"^unlink\.(events|dead)$"})
    outbox = worker.broker.outbox
    delays = [asyncio.ensure_future(outbox.delay(delivery, 1, failed=True)) for _ in range(3)]
    events = [make_event(key=f"key-{number}") for number in range(20)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(outbox.publish(event) for event in events))
    assert not any(delay.done() for delay in delays)
    site.permit(**permissions)
    await asyncio.wait_for(asyncio.gather(*delays), 60)
    arrived = {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")}
    assert arrived == {event.id for event in events}
    delivery.acknowledge()
    assert [(await worker.next()).body for _ in delays] == [b"to be delayed"] * len(delays)


async def test_deleted_delay_exchange_is_declared_anew_and_holds_nothing_else_up(worker: Worker, site: Site) -> None:
    """Each message for this exchange would close the channel, and all other publishes would be repeated without end."""
    site.send(b"to be delayed")
    delivery = await worker.next()
    with site.channel() as channel:
        channel.exchange_delete("unlink.delay.1s")
    outbox = worker.broker.outbox
    delays = [asyncio.ensure_future(outbox.delay(delivery, 1, failed=True)) for _ in range(3)]
    events = [make_event(key=f"key-{number}") for number in range(20)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(outbox.publish(event) for event in events))
        await asyncio.gather(*delays)
    assert {properties.message_id for properties, _, _ in site.take_all("unlink.unrouted")} == {
        event.id for event in events
    }
    delivery.acknowledge()
    assert [(await worker.next()).body for _ in delays] == [b"to be delayed"] * len(delays)


@pytest.mark.parametrize("count", [2**31, 2**63 - 1, -1, True])
async def test_attempt_that_is_no_count_does_not_keep_a_message_from_being_delayed(
    worker: Worker, site: Site, count: int
) -> None:
    """One more than AMQP's largest number cannot be encoded: the message could be neither delayed nor dead-lettered."""
    site.send(b"odd", headers={"unlink-attempt": count})
    delivery = await worker.next()
    await worker.broker.outbox.delay(delivery, 1, failed=True)
    delivery.acknowledge()
    assert (await worker.next()).attempt == 2


async def test_delayed_twice_in_the_same_tier_a_message_still_comes_back(worker: Worker, site: Site) -> None:
    """With the broker's own death notes copied along, a command that waits a second time would never come back."""
    site.send(
        b"command",
        content_type="application/json",
        correlation_id="c",
        message_id="m",
        type="t",
        app_id="a",
        reply_to="reply.me",
        headers={"mine": [1, "two"], "traceparent": "00-1"},
    )
    arrived_at = set()
    for attempt, failed in ((1, False), (1, True), (2, True)):
        delivery = await worker.next()
        assert delivery.attempt == attempt
        arrived_at.add(delivery.arrived_at)
        await worker.broker.outbox.delay(delivery, 0.3, failed=failed)
        delivery.acknowledge()
    delivery = await worker.next()
    assert (delivery.body, delivery.attempt) == (b"command", 3)
    assert arrived_at == {delivery.arrived_at}, "when the first copy arrived"
    assert delivery.content_type == "application/json"
    assert delivery.correlation_id == "c"
    assert delivery.reply_to == "reply.me"
    assert delivery.headers["mine"] == [1, "two"]
    assert delivery.headers["traceparent"] == "00-1"
    assert (delivery.properties.message_id, delivery.properties.type, delivery.properties.app_id) == ("m", "t", "a")


async def test_refusals_of_an_answer_are_no_attempts_at_its_command(worker: Worker, site: Site) -> None:
    """A retry whose old event a full subscriber refused for an hour was given up after one try."""
    site.send(b"command", headers={"unlink-refusals": 8})
    for counted in ({"refused": True}, {}, {"failed": True}):
        delivery = await worker.next()
        await worker.broker.outbox.delay(delivery, 0.3, **counted)
        delivery.acknowledge()
    delivery = await worker.next()
    assert (delivery.refusals, delivery.attempt) == (9, 2)


async def test_delay_takes_the_shortest_tier_that_is_long_enough(worker: Worker, site: Site) -> None:
    """A command would come back before its time, and in vain."""
    site.send(b"command")
    delivery = await worker.next()
    await worker.broker.outbox.delay(delivery, 1.5, failed=False)
    assert site.count("unlink.delay.2s") == 1
    assert site.count("unlink.delay.1s") == 0
    await worker.broker.outbox.delay(delivery, 9999, failed=False)
    assert site.count("unlink.delay.2s") == 2
    delivery.acknowledge()
    await until(lambda: len(worker.deliveries) == 2)


async def test_expiration_user_and_further_routing_keys_stay_behind_when_delayed(site: Site) -> None:
    """A command would expire while it waits, be refused for its user, or multiply with each delay."""
    worker = await site.start_worker(queues={"default": 16, "other": 16})
    site.send(b"command", user_id=site.user, expiration="60000", headers={"CC": ["other"], "BCC": ["default"]})
    await until(lambda: len(worker.deliveries) == 2)
    first = next(one for one in worker.deliveries if one.enterprise_manager == "default")
    worker.deliveries.clear()
    await worker.broker.outbox.delay(first, 1, failed=True)
    again = await worker.next()
    assert (again.enterprise_manager, again.attempt) == ("default", 2)
    assert "CC" not in again.headers
    assert again.properties.expiration is None
    assert site.count("unlink.commands.other") == 0
    assert not worker.deliveries


async def test_dead_letter_says_why_and_keeps_the_message(worker: Worker, site: Site) -> None:
    """An operator would find a message in the dead letters and not know what was wrong with it."""
    site.send(b"\xff\x00 not JSON", content_type="text/plain", headers={"theirs": 1})
    delivery = await worker.next()
    reason = Reason(code=ReasonCode.INVALID_MESSAGE, message="the message is not UTF-8 " + "x" * 5000)
    await worker.broker.outbox.dead_letter(delivery, reason, 2)
    delivery.acknowledge()
    properties, routing_key, body = await site.take("unlink.dead")
    assert body == b"\xff\x00 not JSON"
    assert routing_key == "default"
    assert properties.content_type == "text/plain"
    headers = properties.headers
    assert headers["theirs"] == 1
    assert headers["unlink-reason-code"] == "invalid_message"
    assert headers["unlink-reason"] == reason.message[:1000]
    assert headers["unlink-queue"] == "unlink.commands.default"
    assert (headers["unlink-attempt"], headers["unlink-run"]) == (1, 2)
    assert datetime.fromisoformat(headers["unlink-failed-at"]).tzinfo is not None


async def test_headers_too_large_to_travel_again_are_left_behind(worker: Worker, site: Site) -> None:
    """Headers that fill the frame would, with ours added, end the connection on every try."""
    site.send(b"command", headers={"huge": "x" * 130_000})
    delivery = await worker.next()
    reason = Reason(code=ReasonCode.INVALID_MESSAGE, message="too much")
    async with asyncio.timeout(10):
        await worker.broker.outbox.dead_letter(delivery, reason)
    properties, _, body = await site.take("unlink.dead")
    assert body == b"command"
    assert properties.headers["unlink-headers-dropped"] is True
    assert properties.headers["unlink-reason"] == "too much"


async def test_who_still_waits_when_the_worker_closes_is_notified(site: Site) -> None:
    """A drain would hang on an event that can no longer be published."""
    nowhere = BrokerSettings(url=SecretStr("amqp://u:p@127.0.0.1:1/"))
    worker = site.make_worker(nowhere)
    start = asyncio.create_task(worker.broker.start())
    publish = asyncio.create_task(worker.broker.outbox.publish(make_event()))
    await asyncio.sleep(0)
    start.cancel()
    await worker.broker.close()
    with pytest.raises(BrokerClosedError):
        await publish
