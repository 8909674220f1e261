"""A policy between real parts: several users on one broker, whole workers, and those who try to get round it."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pika
import pytest
import requests
from pika.exceptions import ChannelClosedByBroker

from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from tests.private_servers.broker_users import PASSWORD, BrokerUsers
from worker.broker.broker import Broker
from worker.broker.delivery import BrokerDelivery
from worker.broker.senders import SENDER_HEADER
from worker.clock import SystemClock
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID
from worker.settings import BrokerSettings

PRECONDITION_FAILED = 406

#: `snow` may by the job's name, which the commands do not say: they name it by ID.
POLICY = """
[[rules]]
users = ["snow"]
jobs = ["Backup Copy Job - *"]

[[rules]]
users = ["admin"]
linked_backups_removal = true
cancels = true
"""


class Users(BrokerUsers):
    """Users of the broker who may publish commands, each with a way to do so."""

    def send(self, user: str, command: dict[str, Any], **properties: Any) -> None:
        """Publish as this user, confirmed; signed unless `properties` say otherwise."""
        given = {"user_id": user, **properties}
        with closing(pika.BlockingConnection(pika.URLParameters(self.url(user, tags="management")))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            body = json.dumps(command).encode()
            channel.basic_publish("unlink.commands", "default", body, pika.BasicProperties(**given), mandatory=True)

    def send_by_http(self, user: str, command: dict[str, Any], signed_as: str) -> requests.Response:
        """Publish as this user through the management HTTP API."""
        self.url(user, tags="management")
        address = self._broker.management_url.rpartition("@")[2]
        return requests.post(
            f"http://{user}:{PASSWORD}@{address}/api/exchanges/{self._virtual_host}/unlink.commands/publish",
            json={
                "routing_key": "default",
                "properties": {"user_id": signed_as},
                "payload": json.dumps(command),
                "payload_encoding": "string",
            },
            timeout=30,
        )


@pytest.fixture
def users(broker: LocalBroker, virtual_host: str) -> Users:
    """Users on this test's virtual host."""
    return Users(broker, virtual_host)


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """The policy."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def guarded(world: World, policy_file: Path) -> World:
    """A worker with the policy; what comes back is received."""
    world.environment["UNLINK_POLICY_FILE"] = str(policy_file)
    world.serve()
    return world


def denials(world: World, key: str) -> list[str]:
    """Why commands with this key were rejected."""
    rejected = [event.data["reason"] for event in world.of(key) if event.outcome == "rejected"]
    assert all(reason["code"] == "access_denied" for reason in rejected), rejected
    return [reason["message"] for reason in rejected]


def dead_letters(world: World, users: Users) -> list[tuple[pika.BasicProperties, dict[str, Any]]]:
    """Take what was put aside."""
    world.until_acknowledged()
    taken = []
    with closing(pika.BlockingConnection(pika.URLParameters(users.url("reader")))) as connection:
        channel = connection.channel()
        for _ in range(world.client.count("unlink.dead")):
            _, properties, body = channel.basic_get("unlink.dead", auto_ack=True)
            assert properties is not None
            assert body is not None
            taken.append((properties, json.loads(body)))
    return taken


def test_only_who_may_is_served_and_a_denied_command_leaves_no_trace(guarded: World, users: Users) -> None:
    """A stranger removes no link, and does not keep the key from its rightful user either."""
    consenting = vendor_command("LOSS", allow_linked_backups_removal=True)
    users.send("mallory", vendor_command("CHG1", reason="mine"))
    users.send("mallory", vendor_command("PLAN", dry_run=True))
    users.send("snow", consenting)
    users.send("snow", {"command": "cancel.v1", "idempotency_key": "STOP"})
    users.send("mallory", vendor_command("NOBODY"), user_id=None)
    guarded.until_ended("CHG1", "PLAN", "LOSS", "STOP", "NOBODY")
    assert denials(guarded, "CHG1") == ["the policy takes no commands of user 'mallory' for 'default'"]
    assert denials(guarded, "PLAN") == ["the policy takes no commands of user 'mallory' for 'default'"]
    assert denials(guarded, "LOSS") == ["the policy does not let user 'snow' set allow_linked_backups_removal"]
    assert denials(guarded, "STOP") == ["the policy does not let user 'snow' cancel on 'default'"]
    assert denials(guarded, "NOBODY") == ["the policy takes no commands of senders without user_id for 'default'"]
    assert guarded.workers[0].log().count('"command.denied"') == 5
    by_key = {body["idempotency_key"]: properties for properties, body in dead_letters(guarded, users)}
    assert set(by_key) == {"CHG1", "PLAN", "LOSS", "STOP", "NOBODY"}
    headers = by_key["CHG1"].headers or {}
    assert (headers["unlink-reason-code"], headers[SENDER_HEADER]) == ("access_denied", "mallory")
    assert not guarded.enterprise_manager.count(path="jobs")
    users.send("snow", vendor_command("CHG1"))  # the same key, other content
    users.send("admin", {"command": "cancel.v1", "idempotency_key": "LATER"})
    guarded.workers[0].wait_for_log("unlink.cancel_recorded")
    users.send("snow", vendor_command("LATER"))
    guarded.received.clear()
    guarded.until_ended("CHG1", "LATER")
    assert [event.outcome for event in guarded.of("CHG1")] == ["submitted", "succeeded"]
    assert [event.outcome for event in guarded.of("LATER")] == ["cancelled"]
    assert guarded.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 1


def test_a_job_named_by_id_is_looked_at_before_anything_is_done(guarded: World, users: Users) -> None:
    """A rule by name holds whichever way the job is named; what the look denies is neither claimed nor touched."""
    em = guarded.enterprise_manager
    uid = em.add_repository("Elsewhere")
    payroll = em.add_job(name="Payroll")
    link = em.add_link(payroll, uid)
    denied = {"job": {"id": payroll}, "repository": {"link_id": link}}
    users.send("snow", vendor_command("PAYROLL", **denied))
    users.send("snow", vendor_command("PAYPLAN", dry_run=True, **denied))
    users.send("snow", vendor_command("NOWHERE", job={"id": VENDOR_LINK_ID}))
    guarded.until_ended("PAYROLL", "PAYPLAN", "NOWHERE")
    assert denials(guarded, "PAYROLL") == ["the policy takes no commands of user 'snow' for this job"]
    assert denials(guarded, "PAYPLAN") == ["the policy takes no commands of user 'snow' for this job"]
    assert "job_not_found" in denials(guarded, "NOWHERE")[0]
    assert {request.method for request in em.requests} <= {"GET", "POST"}  # POST: the logon
    users.send("admin", vendor_command("PAYROLL", reason="other content", **denied))
    users.send("snow", vendor_command("CHG1"))
    guarded.received.clear()
    guarded.until_ended("PAYROLL", "CHG1")
    assert {event.outcome for event in guarded.received} == {"submitted", "succeeded"}
    assert em.links(payroll) == em.links(VENDOR_JOB_ID) == []


def test_a_sender_cannot_be_forged(guarded: World, users: Users) -> None:
    """Neither the property nor a header lets somebody order in another's name."""
    with pytest.raises(ChannelClosedByBroker) as refused:
        users.send("mallory", vendor_command("AS"), user_id="admin")
    assert refused.value.reply_code == PRECONDITION_FAILED
    assert not users.send_by_http("mallory", vendor_command("AS"), signed_as="admin").ok
    users.send("mallory", vendor_command("SIGNED"), headers={SENDER_HEADER: "admin"})
    users.send("mallory", vendor_command("UNSIGNED"), user_id=None, headers={SENDER_HEADER: "admin"})
    users.send("mallory", vendor_command("LISTED"), user_id=None, headers={SENDER_HEADER: ["admin", "unlink"]})
    assert users.send_by_http("admin", vendor_command("HTTP", dry_run=True), signed_as="admin").json()["routed"]
    guarded.until_ended("SIGNED", "UNSIGNED", "LISTED", "HTTP")
    assert "'mallory'" in denials(guarded, "SIGNED")[0]
    assert "without user_id" in denials(guarded, "UNSIGNED")[0]
    assert "without user_id" in denials(guarded, "LISTED")[0]
    assert [event.outcome for event in guarded.of("HTTP")] == ["planned"]
    assert guarded.of("AS") == []
    assert guarded.enterprise_manager.deletes_of(VENDOR_LINK_ID) == 0


def test_what_was_decided_before_keeps_its_end_when_the_policy_changes(
    guarded: World, users: Users, policy_file: Path
) -> None:
    """A redelivery of a command that was carried out would tell its publisher that it was rejected."""
    users.send("snow", vendor_command())
    guarded.until_ended("CHG1")
    guarded.workers[0].stop()
    policy_file.write_text(POLICY.replace("snow", "nobody"))
    guarded.start_worker()
    users.send("snow", vendor_command())
    users.send("snow", vendor_command("NEW"))
    guarded.until_ended("NEW")
    guarded.until_acknowledged()
    guarded.until(lambda: len(guarded.of("CHG1")) == 3, "the stored event")
    assert len(guarded.ends_of("CHG1")) == 1
    assert denials(guarded, "NEW")


def test_a_denied_retry_names_its_ticket_to_whom_knows_it(guarded: World, users: Users, policy_file: Path) -> None:
    """An operator would see a key; or whoever guesses keys would be told the jobs and tickets of others."""
    ticket = {"system": "jira", "id": "OPS-1"}
    absent = {"link_id": "00000000-0000-0000-0000-000000000000"}
    users.send("snow", vendor_command(ticket=ticket, repository=absent, if_absent="fail"))
    guarded.until_ended("CHG1")
    guarded.workers[0].stop()
    policy_file.write_text(POLICY.replace("snow", "nobody"))
    worker = guarded.start_worker()
    told = {}
    for user in ("snow", "mallory"):
        guarded.received.clear()
        users.send(user, {"command": "retry.v1", "idempotency_key": "CHG1", "run": 1, "reason": user})
        guarded.until_ended("CHG1")
        (event,) = guarded.of("CHG1")
        assert event.data["reason"]["code"] == "access_denied"
        told[user] = [event.data[name] and event.data[name]["id"] for name in ("ticket", "job")]
    assert told == {"snow": ["OPS-1", VENDOR_JOB_ID], "mallory": [None, None]}
    denied = [line for line in worker.log().splitlines() if '"command.denied"' in line or '"command.rejected"' in line]
    assert len(denied) == 4
    assert all('"ticket": "OPS-1"' in line for line in denied), denied


async def test_the_sender_is_known_after_the_delay_queues(broker_url: str, users: Users) -> None:
    """A command that had to wait for a busy job would be denied to its rightful sender, or allowed to a forger."""
    taken: asyncio.Queue[BrokerDelivery] = asyncio.Queue()
    settings = BrokerSettings.model_validate({"url": broker_url})
    arguments: dict[str, Any] = {"queues": {"default": 1}, "reply_to": "", "delay_tiers": (1,)}
    broker = Broker(settings, SystemClock(), deliver=taken.put_nowait, **arguments)
    await broker.start()
    senders = []
    forged = {SENDER_HEADER: "admin"}
    try:
        for properties in ({}, {"headers": forged}, {"user_id": None, "headers": forged}, {"user_id": None}):
            await asyncio.to_thread(users.send, "snow", vendor_command(), **properties)
            async with asyncio.timeout(60):
                for _ in range(2):
                    delivery = await taken.get()
                    await broker.outbox.delay(delivery, 1, failed=False)
                    delivery.acknowledge()
                delivery = await taken.get()
                delivery.acknowledge()
            senders.append(delivery.user_id)
    finally:
        await broker.close()
    assert senders == ["snow", "snow", None, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "UNLINK_POLICY_FILE: Path does not point to a file"),
        ("[[rules]]\nuser = ['a']\n", "UNLINK_POLICY_FILE: no policy can be read there: rules.0.user: unknown field"),
        ("[[rules", "UNLINK_POLICY_FILE: no policy can be read there: it is not TOML"),
    ],
)
def test_a_wrong_policy_ends_the_program_at_the_start(
    world: World, tmp_path: Path, text: str | None, said: str
) -> None:
    """A worker that ran without its policy, or with half of it, would serve the wrong people."""
    path = tmp_path / "wrong.toml"
    if text is not None:
        path.write_text(text)
    ended = run_program("run", settings=world.environment | {"UNLINK_POLICY_FILE": str(path)})
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
