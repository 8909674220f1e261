"""The dead letters on a real broker: looked through, sent again, thrown away; and killed in the middle of it.

More than 400 lines: all commands of `dead`, on one desk of queues, ledger and program.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pydantic import SecretStr
from typer.testing import CliRunner

from contracts.commands import UnlinkCommand
from contracts.events import Outcome
from tests.end_to_end.world import TIMEOUT_SECONDS, World, vendor_command
from tests.private_servers.broker_users import BrokerUsers
from tests.terminal import Terminal
from worker.broker.senders import SENDER_HEADER
from worker.cli import app
from worker.clock import SystemClock
from worker.ledger.sql_ledger import SqlLedger
from worker.sandbox.processes.worker_process import surroundings
from worker.settings import LedgerSettings
from worker.unlinks.ports.ledger import (
    Claimed,
    NewClaim,
    Settled,
)

PROGRAM = (sys.executable, "-m", "worker", "dead")
COMMANDS = "unlink.commands.default"


def reason(code: str, message: str = "because") -> dict[str, Any]:
    """The headers that the worker gives a dead letter."""
    return {
        "unlink-attempt": 7,
        "unlink-reason-code": code,
        "unlink-reason": message,
        "unlink-failed-at": datetime(2026, 3, 1, 12, tzinfo=UTC).isoformat(),
        "unlink-queue": COMMANDS,
    }


class Desk:
    """An operator's desk: the broker's queues, a ledger, and the program."""

    def __init__(self, url: str, ledger_url: str) -> None:
        self.url = url
        self.environment = {"UNLINK_BROKER__URL": url, "UNLINK_LEDGER__URL": ledger_url}
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel: BlockingChannel = self._connection.channel()
        self.channel.confirm_delivery()

    def bury(self, body: bytes | dict[str, Any], headers: dict[str, Any] | None = None, **properties: Any) -> None:
        """Put a message into the dead letters, as the worker does."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = pika.BasicProperties(headers=headers or reason("access_denied"), **properties)
        self.channel.basic_publish("unlink.dead", "default", content, given, mandatory=True)

    def count(self, queue: str) -> int:
        """How many messages are ready."""
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def take_all(self, queue: str) -> list[tuple[pika.BasicProperties, bytes]]:
        """Take what is there."""
        taken = []
        for _ in range(self.count(queue)):
            method, properties, body = self.channel.basic_get(queue)
            assert method is not None
            assert properties is not None
            assert body is not None
            self.channel.basic_ack(method.delivery_tag or 0)
            headers = dict(properties.headers or {})
            headers.pop("x-delivery-count", None)  # the broker's, of this very queue
            properties.headers = headers
            taken.append((properties, body))
        return taken

    def until_back(self, count: int) -> None:
        """Wait until so many dead letters are there: a program that was killed held some."""
        over = time.monotonic() + TIMEOUT_SECONDS
        while self.count("unlink.dead") != count:
            self._connection.process_data_events(time_limit=0.05)
            assert time.monotonic() < over, f"{self.count('unlink.dead')} dead letters, and not {count}"

    def run(self, *arguments: str) -> Any:
        """The program, in this process."""
        return CliRunner().invoke(app, ["dead", *arguments], env=self.environment)

    def kill_when(self, condition: Callable[[], bool], *arguments: str) -> None:
        """The program as one of its own, killed as soon as something is so."""
        with subprocess.Popen([*PROGRAM, *arguments], env=surroundings() | self.environment) as program:
            while not condition():
                assert program.poll() is None, "it ended before it was to be killed"
            program.kill()

    async def settle(self, command: dict[str, Any]) -> None:
        """Have the ledger know that a command has ended."""
        settings = LedgerSettings(url=SecretStr(self.environment["UNLINK_LEDGER__URL"]))
        ledger = SqlLedger(settings, "worker", SystemClock())
        await ledger.start()
        key, now = command["idempotency_key"], datetime.now(UTC)
        fingerprint = UnlinkCommand.model_validate_json(json.dumps(command)).fingerprint
        claimed = await ledger.claim(NewClaim(key, fingerprint, "default", b"{}", now))
        assert isinstance(claimed, Claimed)
        await ledger.record(claimed.entry.lease, Settled(Outcome.FAILED, b"{}", now))
        await ledger.close()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@pytest.fixture
def desk(broker_url: str, tmp_path: Path) -> Iterator[Desk]:
    """A desk at a broker that has all its queues."""
    with closing(Desk(broker_url, f"sqlite:///{tmp_path / 'ledger.sqlite'}")) as desk:
        CliRunner().invoke(
            app, ["topology", "declare", "--em", "default"], env=desk.environment, catch_exceptions=False
        )
        yield desk


def keys_in(messages: list[tuple[pika.BasicProperties, bytes]]) -> list[str]:
    """The idempotency keys, in order."""
    return [json.loads(body)["idempotency_key"] for _, body in messages]


# --- looking --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_list_counts_by_reason_and_a_look_changes_nothing(desk: Desk) -> None:
    """An operator sees at a glance what went wrong, and looking loses nothing and mixes nothing up."""
    for number in range(450):  # more than two batches
        desk.bury(vendor_command(f"K{number}"), reason("access_denied" if number % 3 else "invalid_message"))
    desk.channel.basic_publish("unlink.dead", "nowhere", json.dumps(vendor_command("LOST")).encode())
    listed = json.loads(desk.run("list", "--output", "json").stdout)
    assert listed["messages"] == 451
    assert [(group["reason_code"], group["messages"]) for group in listed["groups"]] == [
        ("access_denied", 300),
        ("invalid_message", 150),
        ("unknown", 1),
    ]
    assert listed["groups"][0]["oldest"] == "2026-03-01T12:00:00Z"
    text = desk.run("list", "--reason", "access_denied").stdout
    assert "300 dead letters" in text
    assert "invalid_message" not in text
    each = desk.run("list", "--each", "--reason", "unknown").stdout
    assert each.split()[0] == "451"
    assert desk.run("show", "-p", "3").exit_code == 0
    assert keys_in(desk.take_all("unlink.dead")) == [*(f"K{number}" for number in range(450)), "LOST"]


def test_show_finds_a_letter_by_key_message_id_and_position(desk: Desk) -> None:
    """Somebody with a ticket in hand finds its command, and sees why it lies there."""
    desk.bury(vendor_command("FIRST"))
    desk.bury(vendor_command("SECOND"), reason("invalid_message", "too late"), message_id="m-2", user_id="unlink")
    for arguments in (["SECOND"], ["m-2"], ["--position", "2"]):
        shown = desk.run("show", *arguments)
        assert shown.exit_code == 0
        assert all(part in shown.stdout for part in ("SECOND", "too late", "m-2", '"idempotency_key": "SECOND"'))
        assert max(map(len, shown.stdout.splitlines())) <= 80
    content = json.loads(desk.run("show", "SECOND", "--output", "json").stdout)
    assert (content["position"], content["properties"]["user_id"]) == (2, "unlink")
    assert desk.run("show", "NOBODY").exit_code == 1
    assert desk.run("show").exit_code == 2


def test_a_group_is_one_line_in_a_pipe(desk: Desk) -> None:
    """A program that reads lines would take the rest of a folded name for a group of its own."""
    name = "an-enterprise-manager-with-a-name-as-long-as-one-may-be"
    headers = reason("unknown_enterprise_manager") | {"unlink-queue": f"unlink.commands.{name}"}
    desk.bury(vendor_command("CHG1", enterprise_manager=name), headers)
    heading, line, count = desk.run("list").stdout.splitlines()
    assert heading.split() == ["reason", "manager", "messages", "oldest", "newest"]
    assert line.split()[:3] == ["unknown_enterprise_manager", name, "1"]
    assert count == "1 dead letter"


def test_a_letter_is_shown_with_job_repository_and_ticket(desk: Desk) -> None:
    """Most keys are hashes: nobody could tell from the list which change was not made."""
    named = {"job": {"name": "Copy to Bern"}, "repository": {"name": "Scale-out 3"}}
    desk.bury(vendor_command("derived:0123", **named, ticket={"system": "jira", "id": "OPS-1"}))
    assert "derived:0123  Copy to Bern / Scale-out 3  OPS-1" in desk.run("list", "--each").stdout
    shown = " ".join(desk.run("show", "derived:0123").stdout.split())
    assert "unlink Copy to Bern / Scale-out 3" in shown
    assert "ticket OPS-1" in shown


#: Headers that no client in Python can decode: a time counted in microseconds, and tables in tables.
_MICROSECONDS = b"\x01tT" + struct.pack(">Q", 1_800_000_000_000_000)
_DEEP = b"\x01f" + b"".join(
    b"F" + struct.pack(">I", 6 * left) + (b"\x00" if left else b"") for left in range(3000, -1, -1)
)


def test_a_hostile_letter_stops_nobody(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One dead letter could make all others invisible, or write what it likes on the operator's terminal."""
    for table in (_MICROSECONDS, _DEEP):
        with monkeypatch.context() as patched:

            def encode_table(pieces: list[bytes], _headers: object, table: bytes = table) -> int:
                pieces.append(struct.pack(">I", len(table)) + table)
                return len(table) + 4

            patched.setattr("pika.data.encode_table", encode_table)
            desk.bury(vendor_command("HEADERS"), timestamp=2**63)
    desk.bury(b'{"idempotency_key":"\x1b[31mred", "\xe2\x80\xaereversed": 1, "\xe2\x80\xaereversed": 2}')
    desk.bury(b"\xff\xfe\x1b[2J", {"unlink-reason-code": "\x1b]0;title\x07", "\x9b1m": [b"\xff", None]})
    desk.bury(vendor_command("FINE"), {"sent": datetime(9000, 1, 1, tzinfo=UTC), "unlink-failed-at": "yesterday"})
    desk.bury(b'{"idempotency_key": "\\ud800"}', {"unlink-failed-at": "0001-01-01T00:00:00+14:00"})
    desk.bury(b"\xed\xa0\x80", {"unlink-failed-at": "9999-12-31T23:59:59-14:00"})
    for arguments in (["list"], ["list", "--each"], *(["show", "-p", f"{position}"] for position in range(1, 8))):
        result = desk.run(*arguments)
        assert result.exit_code == 0, result.output
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.stdout)
    for line in desk.run("list", "--each", "--output", "json").stdout.splitlines():
        json.loads(line)
    assert desk.count("unlink.dead") == 7


@pytest.mark.parametrize("routing_key", [b"M\xfcller", b"x" * 255], ids=["not UTF-8", "long"])
def test_a_routing_key_of_any_bytes_hides_no_letter(desk: Desk, tmp_path: Path, routing_key: Any) -> None:
    """One publisher's Latin-1 in a routing key or a header would end `dead` with a stack trace for everybody."""
    headers: dict[Any, Any] = {"M\xfcller".encode("latin-1"): b"M\xfcller"}
    odd = dict.fromkeys(("content_type", "correlation_id", "message_id", "type", "app_id", "reply_to"), b"\xe9")
    properties = pika.BasicProperties(headers=headers, **odd)  # type: ignore[arg-type] # what a Latin-1 client sends
    desk.channel.basic_publish("unlink.dead", routing_key, b"not JSON", properties, mandatory=True)
    desk.channel.basic_publish(
        "unlink.dead", routing_key, json.dumps(vendor_command("ODD", enterprise_manager="nowhere")).encode(), properties
    )
    for arguments in (["list"], ["list", "--each"], ["show", "-p", "1"], ["show", "ODD"]):
        for output in ("text", "json"):
            result = desk.run(*arguments, "--output", output)
            assert result.exit_code == 0, result.output
    shown = json.loads(desk.run("show", "ODD", "--output", "json").stdout)
    assert shown["routing_key"] == routing_key.decode(errors="backslashreplace")
    replayed = desk.run("replay", "--all", "--force", "--without-ledger", "--output", "json")
    assert json.loads(replayed.stdout) == {"replayed": 0, "left": {"not_served": 2}}
    record = str(tmp_path / "record")
    discarded = desk.run("discard", "--all", "--yes", "--record", record, "--output", "json")
    assert json.loads(discarded.stdout)["record"] == record
    assert discarded.exit_code == 0
    assert desk.count("unlink.dead") == 0


# --- replaying ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("many", [100, 1000])
async def test_many_letters_survive_a_replay_that_is_killed_half_way(desk: Desk, many: int) -> None:
    """Whatever happens to the operator's machine, no command is lost, and a second run finishes the work."""
    settled = vendor_command("SETTLED")
    await desk.settle(settled)
    desk.bury(settled)
    keys = [f"K{number}" for number in range(many)]
    for key in keys:
        desk.bury(vendor_command(key))
    desk.kill_when(lambda: desk.count(COMMANDS) > many // 3, "replay", "--all")
    replayed = desk.count(COMMANDS)
    assert many // 3 < replayed < many
    over = time.monotonic() + TIMEOUT_SECONDS
    while desk.count("unlink.dead") + desk.count(COMMANDS) < many + 1:
        assert time.monotonic() < over, "dead letters were lost"
    assert desk.count("unlink.dead") + desk.count(COMMANDS) <= many + 2  # one may be in both places
    second = desk.run("replay", "--all", "--output", "json")
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout)["left"] == {"settled": 1}
    assert keys_in(desk.take_all("unlink.dead")) == ["SETTLED"]
    arrived = keys_in(desk.take_all(COMMANDS))
    assert set(arrived) == set(keys)
    assert len(arrived) <= many + 1


async def test_what_is_replayed_starts_afresh_and_the_rest_stays(desk: Desk) -> None:
    """A settled command is not done again; one that would only come back is left, and all others go."""
    settled, reused = vendor_command("SETTLED"), vendor_command("REUSED")
    await desk.settle(settled)
    await desk.settle(reused)
    death = {"x-death": [{"queue": COMMANDS, "reason": "delivery_limit", "count": 1}], "x-first-death-queue": COMMANDS}
    desk.bury(settled)
    desk.bury(vendor_command("REUSED", if_absent="fail"))
    desk.bury(vendor_command("SETTLED", dry_run=True), message_id="dry")
    desk.bury({"command": "cancel.v1", "idempotency_key": "SETTLED"})
    desk.bury(b"not JSON", reason("invalid_message"), message_id="junk")
    desk.bury(vendor_command("ELSEWHERE", enterprise_manager="nowhere"))
    desk.bury(
        vendor_command("FRESH"),
        reason("access_denied") | death | {"traceparent": "00-1", "CC": ["x"]},
        message_id="m-1",
        content_type="application/json",
        correlation_id="c-1",
        reply_to="reply.mine",
    )
    result = desk.run("replay", "--all", "--output", "json")
    assert result.exit_code == 1
    left = {"settled": 2, "key_reused": 1, "unreadable": 1, "not_served": 1}
    assert json.loads(result.stdout) == {"replayed": 2, "left": left}
    (dry, _), (fresh, _) = desk.take_all(COMMANDS)
    assert dry.message_id == "dry"
    assert fresh.headers == {"traceparent": "00-1"}
    assert (fresh.message_id, fresh.content_type, fresh.correlation_id) == ("m-1", "application/json", "c-1")
    assert (fresh.reply_to, fresh.delivery_mode, fresh.user_id) == ("reply.mine", 2, None)
    text = desk.run("replay", "SETTLED")
    assert (text.exit_code, "SETTLED  failed" in text.stdout) == (0, True)
    assert desk.run("replay", "junk", "--force").exit_code == 0
    assert [body for _, body in desk.take_all(COMMANDS)] == [b"not JSON"]
    assert desk.count("unlink.dead") == 4


async def test_a_replay_of_what_was_given_up_retries_the_run_that_it_ended(desk: Desk) -> None:
    """An operator would replay it, and its sender would only get the old failure again."""
    for key in ("LAST", "OLDER"):
        await desk.settle(vendor_command(key, requested_by="j.doe"))
    wrapped = {"specversion": "1.0", "id": "1", "source": "/x", "type": "unlink.v1", "data": vendor_command("LAST")}
    desk.bury(
        wrapped,
        reason("gave_up") | {"unlink-run": 1},
        content_type="application/cloudevents+json",
        correlation_id="c-1",
        reply_to="reply.mine",
    )
    desk.bury(vendor_command("OLDER"), reason("gave_up") | {"unlink-run": 2})
    desk.bury({"command": "retry.v1", "idempotency_key": "LAST", "run": 1})
    result = desk.run("replay", "--all", "--output", "json")
    assert json.loads(result.stdout) == {"replayed": 2, "left": {"settled": 1}}
    replayed = desk.take_all(COMMANDS)
    assert {(properties.content_type, json.loads(body)["run"]) for properties, body in replayed} == {
        ("application/json", 1),
        (None, 1),
    }
    properties, body = replayed[0]
    assert (properties.correlation_id, properties.reply_to) == ("c-1", "reply.mine")
    assert json.loads(body)["idempotency_key"] == "LAST"
    assert "unlink-run" not in (properties.headers or {})


def test_a_group_or_one_is_replayed_and_no_other(desk: Desk) -> None:
    """An operator who has put one cause right does not set off what was put aside for another."""
    for key, code in (("A1", "access_denied"), ("E1", "expired"), ("A2", "access_denied"), ("E2", "expired")):
        desk.bury(vendor_command(key), reason(code))
    assert desk.run("replay", "--reason", "access_denied", "--em", "other", "--without-ledger").exit_code == 0
    assert desk.count(COMMANDS) == 0
    assert desk.run("replay", "--reason", "access_denied", "--em", "default", "--without-ledger").exit_code == 0
    assert keys_in(desk.take_all(COMMANDS)) == ["A1", "A2"]
    assert desk.run("replay", "-p", "2", "--without-ledger").exit_code == 0
    assert keys_in(desk.take_all(COMMANDS)) == ["E2"]
    assert desk.run("replay", "NOBODY", "--without-ledger").exit_code == 1
    assert keys_in(desk.take_all("unlink.dead")) == ["E1"]


def test_replay_asks_the_ledger_or_says_what_it_means_not_to(desk: Desk, tmp_path: Path) -> None:
    """What has ended is not set off again just because a setting is missing."""
    desk.bury(vendor_command())
    del desk.environment["UNLINK_LEDGER__URL"]
    refused = desk.run("replay", "--all")
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "--without-ledger" in refused.stderr
    desk.environment["UNLINK_LEDGER__URL"] = f"sqlite:///{tmp_path / 'nothing.sqlite'}"
    assert desk.run("replay", "--all").exit_code == 1  # no ledger there: not taken for an empty one
    for wrong in ([], ["--all", "--reason", "expired"], ["-p", "0"]):
        assert desk.run("replay", *wrong).exit_code == 2
    assert desk.count("unlink.dead") == 1
    allowed = desk.run("replay", "--all", "--without-ledger")
    assert (allowed.exit_code, "not known which of these have ended" in allowed.stderr) == (0, True)
    assert desk.count("unlink.dead") == 0


def test_an_operator_needs_few_rights_and_without_them_nothing_is_lost(desk: Desk, broker_users: BrokerUsers) -> None:
    """An operator without the right to publish commands would empty the dead letters into nothing."""
    desk.bury(vendor_command())
    results = []
    for write in ("^$", r"^unlink\.commands$"):
        desk.environment["UNLINK_BROKER__URL"] = broker_users.url("operator", write=write, read=r"^unlink\.dead$")
        results.append(desk.run("replay", "--all", "--without-ledger"))
        desk.until_back(2 - len(results))
    refused, replayed = results
    assert (refused.exit_code, "lacks a permission" in refused.stderr) == (1, True)
    assert replayed.exit_code == 0, replayed.output
    assert keys_in(desk.take_all(COMMANDS)) == ["CHG1"]


def test_a_command_denied_by_mistake_is_carried_out_as_its_senders(
    world: World, broker_users: BrokerUsers, tmp_path: Path
) -> None:
    """After the policy was put right, a replay makes good for it; in the sender's name, not in the operator's."""
    policy = tmp_path / "policy.toml"
    policy.write_text('rules = []\nforwarders = ["unlink"]\n')
    world.environment["UNLINK_POLICY_FILE"] = str(policy)
    operator = world.environment["UNLINK_BROKER__URL"]
    as_keeper = {"UNLINK_BROKER__URL": broker_users.url("keeper")}
    worker = world.serve(as_keeper)
    with closing(pika.BlockingConnection(pika.URLParameters(broker_users.url("jira")))) as connection:
        body = json.dumps(vendor_command()).encode()
        connection.channel().basic_publish("unlink.commands", "default", body, pika.BasicProperties(user_id="jira"))
    world.until_ended("CHG1")
    world.until(lambda: world.client.count("unlink.dead") == 1, "a dead letter")
    worker.stop()
    policy.write_text('forwarders = ["unlink"]\n[[rules]]\nusers = ["jira"]\n')
    world.start_worker(as_keeper)
    world.received.clear()
    environment = {**world.environment, "UNLINK_BROKER__URL": operator}
    replayed = CliRunner().invoke(app, ["dead", "replay", "CHG1"], env=environment)
    assert replayed.exit_code == 0, replayed.output
    world.until_ended("CHG1")
    assert [event.outcome for event in world.of("CHG1")] == ["submitted", "succeeded"]


# --- discarding -----------------------------------------------------------------------------------------------------


def keys_written(record: Path) -> set[str]:
    """The keys in its whole lines: a program that is killed leaves one that is cut off."""
    keys = set()
    for line in record.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            keys.add(json.loads(line)["idempotency_key"])
    return keys


def test_what_is_discarded_is_written_down_in_full(desk: Desk, tmp_path: Path) -> None:
    """Whoever asks later what was thrown away, when, by whom and why, finds all of it."""
    record = tmp_path / "record.jsonl"
    record.write_text('{"cut off')
    desk.bury(vendor_command("KEPT"), reason("expired"))
    desk.bury(vendor_command("TEXT"), message_id="m-1", user_id="unlink")
    desk.bury(b"\xff\x00", reason("access_denied") | {"raw": b"\xfe", "at": datetime(2026, 1, 1, tzinfo=UTC)})
    arguments = ["--reason", "access_denied", "--record", str(record), "--why", "as agreed"]
    assert desk.run("discard", *arguments).exit_code == 2  # nobody there to ask
    assert desk.run("discard", "--all", "--yes").exit_code == 2
    assert desk.count("unlink.dead") == 3
    result = desk.run("discard", *arguments, "--yes")
    assert result.exit_code == 0, result.output
    assert "2 discarded" in result.stdout
    assert keys_in(desk.take_all("unlink.dead")) == ["KEPT"]
    cut, *written = record.read_text().splitlines()
    assert cut == '{"cut off'
    text, binary = map(json.loads, written)
    assert json.loads(text["body"]) == vendor_command("TEXT")
    assert (text["reason_code"], text["why"], text["discarded_by"]["broker_user"]) == (
        "access_denied",
        "as agreed",
        "unlink",
    )
    assert text["properties"] == {"message_id": "m-1", "user_id": "unlink"}
    assert datetime.fromisoformat(text["discarded_at"]) > datetime(2026, 1, 1, tzinfo=UTC)
    assert base64.b64decode(binary["body_base64"]) == b"\xff\x00"
    assert binary["headers"]["raw"] == {"base64": base64.b64encode(b"\xfe").decode()}
    assert binary["headers"]["at"] == "2026-01-01T00:00:00Z"


def test_a_record_is_for_its_owner_alone_and_without_one_nothing_is_discarded(desk: Desk, tmp_path: Path) -> None:
    """What cannot be written down stays; what is written down is not for everybody on the host."""
    desk.bury(vendor_command())
    refused = desk.run("discard", "--all", "--yes", "--record", str(tmp_path / "nowhere" / "record.jsonl"))
    assert (refused.exit_code, "cannot be written" in refused.stderr) == (2, True)
    assert desk.count("unlink.dead") == 1
    record = tmp_path / "record.jsonl"
    assert desk.run("discard", "CHG1", "--yes", "--record", str(record)).exit_code == 0
    assert record.stat().st_mode & 0o777 == 0o600
    assert desk.count("unlink.dead") == 0


@pytest.mark.slow
@pytest.mark.parametrize("many", [100, 1000])
def test_every_letter_is_in_the_queue_or_in_the_record_when_discard_is_killed(
    desk: Desk, tmp_path: Path, many: int
) -> None:
    """A dead letter that is nowhere any more would be a command that nobody can ever account for."""
    record = tmp_path / "record.jsonl"
    for number in range(many):
        desk.bury(vendor_command(f"K{number}"))

    def half_way() -> bool:
        return record.exists() and record.read_bytes().count(b"\n") > many // 3

    desk.kill_when(half_way, "discard", "--all", "--yes", "--record", str(record))
    over = time.monotonic() + TIMEOUT_SECONDS
    while desk.count("unlink.dead") + len(keys_written(record)) < many:
        assert time.monotonic() < over, "dead letters were lost"
    assert desk.count("unlink.dead") > 0
    # What the killed program had acknowledged comes back, too, if the broker did not read that before the reset.
    while desk.count("unlink.dead") > 0 or len(keys_written(record)) < many:
        assert desk.run("discard", "--all", "--yes", "--record", str(record)).exit_code == 0
        assert time.monotonic() < over, "dead letters are left"
    assert keys_written(record) == {f"K{number}" for number in range(many)}


@pytest.mark.parametrize(("answer", "left"), [("n", 2), ("y", 0)])
def test_on_a_terminal_discard_asks_first(desk: Desk, tmp_path: Path, answer: str, left: int) -> None:
    """A slip of the hand throws nothing away."""
    desk.bury(vendor_command("A"))
    desk.bury(vendor_command("B"))
    arguments = ["discard", "--all", "--record", str(tmp_path / "record.jsonl")]
    terminal = Terminal([*PROGRAM, *arguments], surroundings() | desk.environment)
    terminal.until("Discard 2 dead letters?")
    terminal.write(f"{answer}\n")
    terminal.wait()
    desk.until_back(left)


def test_a_replay_passes_the_sender_on(desk: Desk) -> None:
    """The worker's policy would take every replayed command for the operator's own."""
    desk.bury(vendor_command("SIGNED"), reason("access_denied") | {SENDER_HEADER: "snow"}, user_id="unlink")
    desk.bury(vendor_command("UNSIGNED"), reason("access_denied") | {SENDER_HEADER: "forged"})
    assert desk.run("replay", "--all", "--without-ledger").exit_code == 0
    (signed, _), (unsigned, _) = desk.take_all(COMMANDS)
    assert (signed.user_id, signed.headers) == ("unlink", {SENDER_HEADER: ["snow", "unlink"]})
    assert (unsigned.user_id, unsigned.headers) == (None, {})
