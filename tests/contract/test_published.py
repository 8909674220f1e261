"""The published schemas and the AsyncAPI document: current, right by others' judgement, and as strict as the models."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

import contracts
from contracts.commands import UnlinkCommand
from contracts.events import REASON_MEANINGS, Event, Evidence, Outcome, Reason, ReasonCode
from contracts.published import COMMANDS, DIALECT, all_schemas, examples
from contracts.reading import PartialParse, UnreadableMessageError, read_message
from tests.preloaded.preloaded import run_program
from worker.broker.topology import DELAY_TIERS, describe
from worker.cli.contracts.asyncapi import document
from worker.cli.contracts.command import files
from worker.sandbox.errors import MissingPartError
from worker.unlinks.outcome import (
    Ending,
    already_absent,
    compose,
    compose_rejection,
    failed,
    planned,
    succeeded,
    timed_out,
)
from worker.unlinks.ports.enterprise_manager import Job, Link, LinkedBackup, Task, TaskTicket
from worker.unlinks.ports.ledger import Entry, Intent, Lease, Stage

FOLDER = Path(contracts.__file__).parent
CONTRACT_PAGE = FOLDER.parent / ".ci" / "contract_page.py"
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)
JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"
SCHEMAS = all_schemas()
UNLINK: dict[str, Any] = {
    "command": "unlink.v1",
    "idempotency_key": "CHG1",
    "job": {"id": JOB},
    "repository": {"link_id": LINK},
}
CANCEL: dict[str, Any] = {"command": "cancel.v1", "idempotency_key": "CHG1"}


def judge(name: str) -> Draft202012Validator:
    """An independent validator of one kind of message."""
    return Draft202012Validator(SCHEMAS[name], format_checker=FormatChecker(["date-time"]))


# --- what is committed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(files()))
def test_the_published_files_are_current(path: str) -> None:
    """Those who build against the files build against what the worker does (else: `make contracts`)."""
    assert (FOLDER / path).read_text() == files()[path]


def test_nothing_else_is_published() -> None:
    """No schema of a message that is no more lies about."""
    assert {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("schemas/*")} | {"asyncapi.json"} == set(
        files()
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_says_what_it_is(name: str) -> None:
    """A tool finds dialect and identity, a person finds title, description and an example."""
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert (schema["$schema"], schema["$id"], schema["title"]) == (DIALECT, f"urn:unlink-worker:{name}", name)
    assert schema["description"]
    assert schema["examples"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_described(name: str) -> None:
    """Nobody has to guess what a field means."""
    schema = SCHEMAS[name]
    for part in [schema, schema["properties"].get("data", {}), *schema.get("$defs", {}).values()]:
        for field, described in part.get("properties", {}).items():
            assert described.get("description") or "$ref" in described, field


@pytest.mark.parametrize(
    ("name", "example"),
    [pytest.param(name, example, id=name) for name in SCHEMAS for example in examples(name)],
)
def test_golden_messages_fit_their_schema(name: str, example: dict[str, Any]) -> None:
    """An independent validator takes the published examples for what they are."""
    judge(name).validate(example)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_event_fits_no_other_outcomes_schema(outcome: Outcome) -> None:
    """A consumer that validates against one kind of event does not take another for it."""
    (example,) = examples(outcome.event_type)
    assert [each for each in Outcome if judge(each.event_type).is_valid(example)] == [outcome]


def test_every_reason_code_has_a_meaning() -> None:
    """Who gets a code finds in the schema what it means."""
    assert set(REASON_MEANINGS) == set(ReasonCode)


# --- the command that prints them -----------------------------------------------------------------------------------


def contracts_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `unlink-worker contracts`."""
    return run_program("contracts", *arguments, settings={})


def test_one_schema_is_printed_as_it_is_published() -> None:
    """What a pipeline fetches from the program is what is in the folder."""
    done = contracts_command("--schema", "cancel.v1")
    assert (done.returncode, done.stdout) == (0, (FOLDER / "schemas" / "cancel.v1.json").read_text())


def test_all_of_it_is_written_to_a_folder(tmp_path: Path) -> None:
    """Somebody without the project's files gets them all from the program."""
    assert contracts_command("--write", str(tmp_path)).returncode == 0
    written = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.json")}
    assert written == files()


@pytest.mark.parametrize("arguments", [["--schema", "unlnk.v1"], ["--asyncapi", "--schema", "unlink.v1"]])
def test_what_cannot_be_printed_is_said_in_one_line(arguments: list[str]) -> None:
    """A misspelt name is answered with a sentence and status 2."""
    done = contracts_command(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# --- commands: schema and model agree -------------------------------------------------------------------------------

TAKEN = [
    UNLINK,
    UNLINK | {"job": {"id": f"urn:veeam:Job:{JOB.upper()}", "name": None}},
    UNLINK | {"job": {"name": "Überwachung / 1"}, "repository": {"name": "x", "backup_server": "b"}},
    UNLINK | {"repository": {"uid": f"urn:veeam:Repository:{LINK}"}},
    UNLINK | {"ticket": {"system": "jira", "id": "1"}, "labels": {"a": ""}, "requested_by": None},
    UNLINK | {"not_after": "2027-01-31T18:00:00Z", "timeout_seconds": 10, "idempotency_key": "a.b_c:d/e-f" * 10},
    CANCEL,
    CANCEL | {"enterprise_manager": "em-2", "requested_by": "me", "reason": "wrong"},
]

REFUSED = [
    UNLINK | {"repositry": {"link_id": LINK}},
    UNLINK | {"job": {}},
    UNLINK | {"job": {"id": None}},
    UNLINK | {"job": {"id": JOB, "name": "x"}},
    UNLINK | {"job": {"id": JOB, "name": "x", "backup_server": "b"}},
    UNLINK | {"job": {"id": JOB, "backup_server": "b"}},
    UNLINK | {"job": {"id": JOB, "nmae": "x"}},
    UNLINK | {"job": {"id": "not-a-uuid"}},
    UNLINK | {"job": {"id": f"urn:veeam:Repository:{JOB}"}},
    UNLINK | {"job": {"backup_server": "b"}},
    UNLINK | {"job": JOB},
    UNLINK | {"repository": {"uid": LINK, "link_id": LINK}},
    UNLINK | {"repository": {"uid": LINK, "name": "x"}},
    UNLINK | {"repository": {"name": "a\nb"}},
    UNLINK | {"repository": {"name": "a", "backup_server": "\x7f"}},
    UNLINK | {"repository": {"name": ""}},
    UNLINK | {"repository": {"name": "x" * 256}},
    UNLINK | {"idempotency_key": "a b"},
    UNLINK | {"idempotency_key": ""},
    UNLINK | {"idempotency_key": "k" * 201},
    UNLINK | {"idempotency_key": None},
    UNLINK | {"enterprise_manager": "a.b"},
    UNLINK | {"enterprise_manager": None},
    UNLINK | {"dry_run": "true"},
    UNLINK | {"dry_run": 1},
    UNLINK | {"timeout_seconds": 9},
    UNLINK | {"timeout_seconds": 1501},
    UNLINK | {"timeout_seconds": 60.5},
    UNLINK | {"timeout_seconds": "60"},
    UNLINK | {"if_absent": "ignore"},
    UNLINK | {"not_after": "2027-01-31T18:00:00"},
    UNLINK | {"not_after": 1800000000},
    UNLINK | {"requested_by": "x" * 201},
    UNLINK | {"reason": "x" * 1001},
    UNLINK | {"correlation_id": ""},
    UNLINK | {"labels": {str(number): "x" for number in range(21)}},
    UNLINK | {"labels": {"": "x"}},
    UNLINK | {"labels": {"x" * 64: "x"}},
    UNLINK | {"labels": {"a": 1}},
    UNLINK | {"labels": None},
    UNLINK | {"ticket": {"system": "jira"}},
    UNLINK | {"ticket": {"system": "jira", "id": "1", "link": "x"}},
    UNLINK | {"command": "unlink.v2"},
    {name: value for name, value in UNLINK.items() if name != "job"},
    {name: value for name, value in UNLINK.items() if name != "idempotency_key"},
    CANCEL | {"job": {"id": JOB}},
    CANCEL | {"idempotency_key": "a b"},
    {"command": "cancel.v1"},
]


def schema_for(command: dict[str, Any]) -> Draft202012Validator:
    """The validator that a careful publisher of this command would use."""
    return judge("cancel.v1" if command["command"] == "cancel.v1" else "unlink.v1")


@pytest.mark.parametrize("command", TAKEN, ids=repr)
def test_what_the_schema_takes_the_worker_takes(command: dict[str, Any]) -> None:
    """A publisher that validates first is not rejected afterwards."""
    schema_for(command).validate(command)
    assert read_message(json.dumps(command).encode()).command == command["command"]


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: repr(command)[:80])
def test_what_the_worker_refuses_the_schema_refuses(command: dict[str, Any]) -> None:
    """A publisher that validates first finds its mistake before the queue does."""
    with pytest.raises(ValidationError):
        schema_for(command).validate(command)
    with pytest.raises(UnreadableMessageError):
        read_message(json.dumps(command).encode())


def test_an_unknown_command_is_told_which_there_are() -> None:
    """A misspelt command says how it is spelt."""
    with pytest.raises(UnreadableMessageError) as caught:
        read_message(json.dumps(UNLINK | {"command": "unlnk.v1"}).encode())
    assert all(name in str(caught.value) for name in COMMANDS)
    assert caught.value.partial.idempotency_key == "CHG1"


# --- events: what the worker composes fits --------------------------------------------------------------------------

SEEN = Intent(job_id=JOB, job_name=None, link=Link(LINK, JOB), linked_backups=(LinkedBackup(LINK),))
TASK = Task(TaskTicket("task-1", "session"), None, finished=True, success=None, message=None)
VERDICTS = [
    Ending(Outcome.SUBMITTED, seen=SEEN),
    Ending(Outcome.SUBMITTED, seen=SEEN, task=TASK),
    succeeded(SEEN, Evidence.TASK, verified=False, task=TASK),
    succeeded(SEEN, Evidence.LINKS, verified=True),
    already_absent(Job(JOB, None)),
    failed(ReasonCode.EXPIRED, "too late"),
    failed(ReasonCode.TASK_FAILED, "no", changed=None, task=TASK, seen=SEEN),
    timed_out(SEEN, "not known", task=None),
    planned(SEEN),
    Ending(Outcome.CANCELLED, changed=False, seen=SEEN),
]


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.outcome.value)
def test_what_the_worker_says_fits_the_schema(verdict: Ending) -> None:
    """A consumer that validates takes every event, however little is known of what it is about."""
    command = read_message(json.dumps(UNLINK).encode())
    assert isinstance(command, UnlinkCommand)
    entry = Entry(Lease("CHG1", 1), Stage.SUBMITTED, 1, NOON, submitted_at=NOON)
    event = compose(command, entry, verdict, correlation_id="CHG1", now=NOON)
    judge(event.type).validate(json.loads(event.to_bytes()))


def test_a_rejection_of_bytes_fits_the_schema() -> None:
    """So it does when nothing at all could be read."""
    reason = Reason(code=ReasonCode.INVALID_MESSAGE, message="no")
    event = compose_rejection(
        b"\xff", PartialParse(), reason, enterprise_manager="default", correlation_id=None, now=NOON
    )
    judge(event.type).validate(json.loads(event.to_bytes()))


def test_a_consumer_may_be_older_than_the_worker() -> None:
    """An event with a field or a reason code of tomorrow is valid by the schema of today."""
    (example,) = examples("unlink.failed.v1")
    example["data"]["tomorrow"] = 1
    example["data"]["reason"]["code"] = "struck_by_lightning"
    judge("unlink.failed.v1").validate(example)


def test_the_model_of_events_has_no_field_that_the_schema_lacks() -> None:
    """The schema is of all that is sent."""
    for outcome in Outcome:
        assert set(SCHEMAS[outcome.event_type]["properties"]) == set(Event.model_fields)


# --- the AsyncAPI document ------------------------------------------------------------------------------------------


def test_the_asyncapi_projects_own_parser_finds_no_fault() -> None:
    """Tools of the AsyncAPI project read the document: code and pages can be generated from it."""
    done = subprocess.run(
        [sys.executable, CONTRACT_PAGE, "validate", FOLDER / "asyncapi.json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    if done.returncode == 3:
        raise MissingPartError(done.stderr.strip(), part="node")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_fault_in_the_document_would_be_found(tmp_path: Path) -> None:
    """The parser does judge: a document with a message that leads nowhere is refused."""
    broken = document()
    broken["channels"]["events"]["messages"]["unlink.lost.v1"] = {"$ref": "#/components/messages/unlink.lost.v1"}
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(broken))
    done = subprocess.run(
        [sys.executable, CONTRACT_PAGE, "validate", file], check=False, capture_output=True, text=True, timeout=110
    )
    if done.returncode == 3:
        raise MissingPartError(done.stderr.strip(), part="node")
    assert done.returncode == 1
    assert "unlink.lost.v1" in done.stdout


def test_the_document_has_the_topology_that_the_worker_declares() -> None:
    """Every exchange, queue and binding is there, with its kind and arguments."""
    described = describe(["{enterprise_manager}"], DELAY_TIERS)
    channels = document()["channels"]
    tiers = channels["delays"]["parameters"]["seconds"]["enum"]
    assert tiers == [str(seconds) for seconds in DELAY_TIERS]
    exchanges, queues, bindings = {}, {}, set()
    for channel in channels.values():
        binding = channel.get("bindings", {}).get("amqp", {})
        for seconds in tiers if channel is channels["delays"] else [""]:
            text = json.dumps(binding).replace("{seconds}", seconds).replace(f'"1000 * {seconds}"', f"{seconds}000")
            filled = json.loads(text)
            queue = filled.get("queue")
            for exchange in [
                filled.get("exchange"),
                *(each["exchange"] for each in (queue or {}).get("x-bindings", [])),
            ]:
                if exchange is not None:
                    exchanges[exchange["name"]] = (exchange["type"], exchange.get("x-arguments", {}))
            if queue is not None:
                queues[queue["name"]] = queue["x-arguments"]
                bindings |= {
                    (each["exchange"]["name"], queue["name"], each["routingKey"]) for each in queue["x-bindings"]
                }
    assert exchanges == {each.name: (each.kind, dict(each.arguments)) for each in described.exchanges}
    assert queues == {each.name: dict(each.arguments) for each in described.queues}
    assert bindings == {(each.exchange, each.queue, each.routing_key) for each in described.bindings}


def test_every_message_of_the_document_is_a_published_one() -> None:
    """No kind of message is missing from the document."""
    assert set(SCHEMAS) <= set(document()["components"]["messages"])


def test_the_page_holds_all_that_it_shows(tmp_path: Path) -> None:
    """The page can be mailed: it fetches nothing from anywhere."""
    page = tmp_path / "contract.html"
    done = subprocess.run(
        [sys.executable, CONTRACT_PAGE, "page", FOLDER / "asyncapi.json", page],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    if done.returncode == 3:
        raise MissingPartError(done.stderr.strip(), part="node")
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert "unlink.timed_out.v1" in text
    assert "<link " not in text
    assert 'src="http' not in text
