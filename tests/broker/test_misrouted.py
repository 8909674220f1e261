"""What comes to `unlink.misrouted`, on a real broker: from no queue at all, or because the broker took it away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from contracts.commands import UNKNOWN_NAME
from tests.broker.conftest import Site, Worker
from tests.waiting import until
from worker.broker.misrouted import MISROUTED_SECONDS_HEADER
from worker.sandbox.rabbitmq.private_broker import LocalBroker

QUEUE = "unlink.commands.default"
MISROUTED = "unlink.misrouted"


@pytest.fixture
def limit_of_one(broker: LocalBroker, virtual_host: str) -> Callable[[str], None]:
    """Lowers a queue's delivery limit to one, by a policy."""
    policies = f"{broker.management_url}/api/policies/{virtual_host}"

    def limit(queue: str) -> None:
        definition = {"pattern": f"^{queue}$", "definition": {"delivery-limit": 1}, "apply-to": "queues"}
        requests.put(f"{policies}/{queue}", json=definition, timeout=30).raise_for_status()

    return limit


async def reject_until_gone(site: Site, queue: str) -> None:
    """Deliver and reject the message in a queue until the broker takes it away."""
    await until(lambda: site.count(queue) == 1, f"a message in {queue}")
    with site.channel() as channel:

        def gone() -> bool:
            method, _, _ = channel.basic_get(queue)
            if method is not None:
                channel.basic_reject(method.delivery_tag or 0, requeue=True)
            return site.count(queue) == 0 and method is None

        await until(gone, f"{queue} to be empty")


async def test_command_without_a_queue_comes_back_and_finds_the_queue_that_appeared(worker: Worker, site: Site) -> None:
    """A rolling update that adds an Enterprise Manager would lose the commands that come before its queue."""
    site.send(b"body", routing_key="new", headers={"a": 1})
    for waited in (0, 1, 3):
        delivery = await worker.next()
        assert (delivery.enterprise_manager, delivery.taken_away, delivery.body) == ("new", None, b"body")
        assert (delivery.misrouting.routing_key, delivery.misrouting.seconds) == ("new", waited)
        await worker.broker.outbox.delay(delivery, waited + 1, failed=False)
        delivery.acknowledge()
    other = await site.start_worker(queues={"new": 4})
    found = await other.next()
    assert (found.enterprise_manager, found.misrouting, found.body) == ("new", None, b"body")
    assert found.headers["a"] == 1
    assert found.attempt == 1
    assert MISROUTED_SECONDS_HEADER in found.headers
    await other.broker.outbox.delay(found, 1, failed=False)
    found.acknowledge()
    again = await other.next()
    assert MISROUTED_SECONDS_HEADER not in again.headers
    assert not worker.deliveries


async def test_name_that_this_worker_serves_is_counted_from_the_start_each_time(worker: Worker, site: Site) -> None:
    """Where a queue is missing for a while, a worker that does not know its name would reject its commands."""
    site.send(b"body", exchange=MISROUTED, headers={MISROUTED_SECONDS_HEADER: 599})
    assert (await worker.next()).misrouting.seconds == 0
    site.send(b"body", exchange=MISROUTED, routing_key="other", headers={MISROUTED_SECONDS_HEADER: 599})
    assert (await worker.next()).misrouting.seconds == 599


@pytest.mark.parametrize(
    "routing_key", ["", "a.b", "x" * 65, "with space", "new\n", "ünïcode", UNKNOWN_NAME, b"\xff\xfe"], ids=repr
)
async def test_routing_key_that_is_no_name_is_given_the_reserved_one(
    worker: Worker, site: Site, routing_key: Any
) -> None:
    """The event would have a routing key of the sender's making, or none that can be encoded."""
    site.send(b"body", routing_key=routing_key)
    delivery = await worker.next()
    assert delivery.enterprise_manager == UNKNOWN_NAME
    assert delivery.misrouting.routing_key == (r"\xff\xfe" if isinstance(routing_key, bytes) else routing_key)
    await worker.broker.outbox.delay(delivery, 1, failed=True)
    delivery.acknowledge()
    again = await worker.next()
    assert (again.enterprise_manager, again.attempt) == (UNKNOWN_NAME, 2)


@pytest.mark.parametrize("junk", [-1, 2**31, True, "600", None, [600]])
async def test_count_that_makes_no_sense_counts_as_none(worker: Worker, site: Site, junk: Any) -> None:
    """A sender could have a command rejected at once, or carried around for ever."""
    site.send(b"body", routing_key="new", headers={MISROUTED_SECONDS_HEADER: junk})
    assert (await worker.next()).misrouting.seconds == 0


@pytest.mark.slow
async def test_what_the_delivery_limit_took_away_says_so_however_often_it_goes_round(
    worker: Worker, site: Site, limit_of_one: Callable[[str], None]
) -> None:
    """It would vanish: in the dead letters without an event, or dropped as a cycle of dead-lettering."""
    worker.broker.pause("default", "the test consumes")
    await until(lambda: not worker.broker.consuming)
    limit_of_one(QUEUE)
    site.send(b"body", headers={"a": 1})
    for turn in range(3):
        await reject_until_gone(site, QUEUE)
        delivery = await worker.next()
        assert (delivery.enterprise_manager, delivery.taken_away) == ("default", "delivery_limit"), turn
        assert delivery.misrouting is not None
        assert delivery.headers["a"] == 1
        await worker.broker.outbox.delay(delivery, 1, failed=False)
        delivery.acknowledge()
    worker.broker.resume("default", "the test consumes")
    back = await worker.next()
    assert (back.misrouting, back.taken_away) == (None, "delivery_limit")


async def test_what_expired_says_so(worker: Worker, site: Site) -> None:
    """A command with an expiration of its own would end without an event."""
    worker.broker.pause("default", "the test waits")
    await until(lambda: not worker.broker.consuming)
    site.send(b"body", expiration="1")
    delivery = await worker.next()
    assert (delivery.enterprise_manager, delivery.taken_away) == ("default", "expired")


async def test_what_kills_every_worker_ends_in_the_dead_letters(
    worker: Worker, site: Site, limit_of_one: Callable[[str], None]
) -> None:
    """A message that no worker survives would go round for ever, between queue and workers."""
    worker.broker.pause(UNKNOWN_NAME, "the test consumes")
    await until(lambda: not worker.broker.consuming_misrouted)
    limit_of_one(MISROUTED)
    site.send(b"body", routing_key="new")
    await reject_until_gone(site, MISROUTED)
    properties, _, body = await site.take("unlink.dead")
    assert body == b"body"
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


@pytest.mark.slow
async def test_copies_count_together_how_often_a_command_came_back(
    worker: Worker, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that ends each worker after its claim is delayed in between, and would never be taken away."""
    monkeypatch.setattr("worker.broker.delivery.COMMAND_DELIVERY_LIMIT", 3)
    worker.broker.pause("default", "the test consumes")
    await until(lambda: not worker.broker.consuming)
    site.send(b"body")
    for turn in range(1, 5):
        with site.channel() as channel:
            await until(lambda: site.count(QUEUE) == 1)
            method = channel.basic_get(QUEUE)[0]
            assert method is not None
            channel.basic_reject(method.delivery_tag or 0, requeue=True)
        worker.broker.resume("default", "the test consumes")
        delivery = await worker.next()
        assert (delivery.returns, delivery.taken_away) == (turn, None if turn <= 3 else "delivery_limit")
        worker.broker.pause("default", "the test consumes")
        await worker.broker.outbox.delay(delivery, 1, failed=False)
        delivery.acknowledge()
        await until(lambda: not worker.broker.consuming)


@pytest.mark.parametrize(
    ("forged", "name", "taken_away"),
    [
        ([{"queue": "unlink.commands.default", "reason": "delivery_limit"}], "default", "delivery_limit"),
        ([{"queue": "unlink.commands.a b", "reason": "Ü"}], UNKNOWN_NAME, None),
        ([{"queue": 7, "reason": 8}], "new", None),
        ("nonsense", "new", None),
        ([], "new", None),
    ],
)
async def test_forged_record_of_dead_lettering_is_only_read(
    worker: Worker, site: Site, forged: Any, name: str, taken_away: str | None
) -> None:
    """A sender's header would stop the intake."""
    site.send(b"body", routing_key="new", headers={"x-death": forged})
    delivery = await worker.next()
    assert (delivery.enterprise_manager, delivery.taken_away) == (name, taken_away)
