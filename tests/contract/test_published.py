"""The published files are current, valid by an independent validator, and as strict as the models."""

from __future__ import annotations

import json
import re
import subprocess
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
from worker.cli.contracts.command import files
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
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)
JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"
SCHEMAS = all_schemas()
FILES = files()
UNLINK: dict[str, Any] = {
    "command": "unlink.v1",
    "idempotency_key": "CHG1",
    "job": {"id": JOB},
    "repository": {"link_id": LINK},
}
CANCEL: dict[str, Any] = {"command": "cancel.v1", "idempotency_key": "CHG1"}


def validator_of(name: str) -> Draft202012Validator:
    """An independent validator of one kind of message."""
    return Draft202012Validator(SCHEMAS[name], format_checker=FormatChecker(["date-time"]))


#: What ajv 8 knows of 2020-12 without being told, as far as the schemas need it.
AJV_KEYWORDS = {
    *("$schema", "$id", "$defs", "$ref", "type", "enum", "const", "title", "description", "default", "examples"),
    *("properties", "required", "additionalProperties", "propertyNames", "maxProperties", "items", "maxItems"),
    *("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "anyOf", "oneOf", "not"),
}


def subschemas(schema: Any) -> list[dict[str, Any]]:
    """A schema, and all in it."""
    if not isinstance(schema, dict):
        return []
    inner = [each for name in ("properties", "$defs") for each in schema.get(name, {}).values()]
    inner += [each for name in ("anyOf", "oneOf") for each in schema.get(name, [])]
    inner += [schema[name] for name in ("items", "not", "propertyNames", "additionalProperties") if name in schema]
    return [schema, *(found for each in inner for found in subschemas(each))]


# --- what is committed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_validator_in_strict_mode_knows_every_keyword_once_given_what_the_readme_names(name: str) -> None:
    """A publisher's ajv would refuse the schema, in the mode that is its default."""
    for schema in subschemas(SCHEMAS[name]):
        assert set(schema) - AJV_KEYWORDS <= {"x-extensible-enum"}
        assert schema.get("format", "date-time") == "date-time"
        # ajv warns of two types in one schema, except with null.
        kinds = schema.get("type", [])
        assert isinstance(kinds, str) or len(set(kinds) - {"null"}) <= 1
        # It compiles patterns with the flag u, which allows fewer escapes than Python.
        assert re.search(r"\\(?!u[0-9A-F]{4})", schema.get("pattern", "")) is None
    assert 'require("ajv-formats")(new Ajv2020()).addKeyword("x-extensible-enum")' in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("path", sorted(FILES))
def test_the_published_files_are_current(path: str) -> None:
    """The files describe what the worker does (to update them: `make contracts`)."""
    assert (FOLDER / path).read_text() == FILES[path]


def test_nothing_else_is_published() -> None:
    """No schema of a removed message is left in the folder."""
    assert {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("schemas/*")} | {"asyncapi.json"} == set(FILES)


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
    """An independent validator accepts the published examples."""
    validator_of(name).validate(example)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_event_fits_no_other_outcomes_schema(outcome: Outcome) -> None:
    """A consumer that validates against one kind of event does not accept another."""
    (example,) = examples(outcome.event_type)
    assert [each for each in Outcome if validator_of(each.event_type).is_valid(example)] == [outcome]


def test_every_reason_code_has_a_meaning() -> None:
    """The schema explains each reason code to its reader."""
    assert set(REASON_MEANINGS) == set(ReasonCode)


# --- the command that prints them -----------------------------------------------------------------------------------


def contracts_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `unlink-worker contracts`."""
    return run_program("contracts", *arguments, settings={})


def test_one_schema_is_printed_as_it_is_published() -> None:
    """A pipeline gets the same schema from the program as from the folder."""
    done = contracts_command("--schema", "cancel.v1")
    assert (done.returncode, done.stdout) == (0, (FOLDER / "schemas" / "cancel.v1.json").read_text())


@pytest.mark.slow
def test_all_of_it_is_written_to_a_folder(tmp_path: Path) -> None:
    """Somebody without the project's files gets them all from the program."""
    assert contracts_command("--write", str(tmp_path)).returncode == 0
    written = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.json")}
    assert written == FILES


@pytest.mark.parametrize("arguments", [["--schema", "unlnk.v1"], ["--asyncapi", "--schema", "unlink.v1"]])
def test_what_cannot_be_printed_is_said_in_one_line(arguments: list[str]) -> None:
    """A misspelt name is answered with a sentence and status 2."""
    done = contracts_command(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# --- commands: schema and model agree -------------------------------------------------------------------------------

ACCEPTED = [
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
    return validator_of("cancel.v1" if command["command"] == "cancel.v1" else "unlink.v1")


@pytest.mark.parametrize("command", ACCEPTED, ids=repr)
def test_the_worker_accepts_what_the_schema_accepts(command: dict[str, Any]) -> None:
    """A publisher that validates first is not rejected afterwards."""
    schema_for(command).validate(command)
    assert read_message(json.dumps(command).encode()).command == command["command"]


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: repr(command)[:80])
def test_the_schema_refuses_what_the_worker_refuses(command: dict[str, Any]) -> None:
    """A publisher that validates first finds its mistake before it publishes."""
    with pytest.raises(ValidationError):
        schema_for(command).validate(command)
    with pytest.raises(UnreadableMessageError):
        read_message(json.dumps(command).encode())


def test_the_refusal_of_an_unknown_command_names_the_known_ones() -> None:
    """The sender of a misspelt command learns the right spelling."""
    with pytest.raises(UnreadableMessageError) as caught:
        read_message(json.dumps(UNLINK | {"command": "unlnk.v1"}).encode())
    assert all(name in str(caught.value) for name in COMMANDS)
    assert caught.value.partial.idempotency_key == "CHG1"


# --- events: what the worker composes fits --------------------------------------------------------------------------

SEEN = Intent(job_id=JOB, job_name=None, link=Link(LINK, JOB), linked_backups=(LinkedBackup(LINK),))
TASK = Task(TaskTicket("task-1", "session"), None, finished=True, success=None, message=None)
ENDINGS = [
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


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.outcome.value)
def test_every_event_of_the_worker_fits_the_schema(ending: Ending) -> None:
    """A consumer that validates accepts every event, however little is known of the unlink."""
    command = read_message(json.dumps(UNLINK).encode())
    assert isinstance(command, UnlinkCommand)
    entry = Entry(Lease("CHG1", 1), Stage.SUBMITTED, 1, NOON, submitted_at=NOON)
    event = compose(command, entry, ending, correlation_id="CHG1", arrived_at=NOON, now=NOON)
    validator_of(event.type).validate(json.loads(event.to_bytes()))


@pytest.mark.parametrize("code", [ReasonCode.INVALID_MESSAGE, ReasonCode.GAVE_UP])
def test_a_rejection_of_bytes_fits_the_schema(code: ReasonCode) -> None:
    """The event of a message that could not be read, or that the worker failed to handle, fits its schema too."""
    reason = Reason(code=code, message="no")
    changed = None if code is ReasonCode.GAVE_UP else False
    event = compose_rejection(
        b"\xff",
        PartialParse(),
        reason,
        changed=changed,
        enterprise_manager="default",
        correlation_id=None,
        user_id=None,
        now=NOON,
    )
    validator_of(event.type).validate(json.loads(event.to_bytes()))


def test_a_consumer_may_be_older_than_the_worker() -> None:
    """An event with a field or a reason code of a later release fits today's schema."""
    (example,) = examples("unlink.failed.v1")
    example["data"]["tomorrow"] = 1
    example["data"]["reason"]["code"] = "struck_by_lightning"
    validator_of("unlink.failed.v1").validate(example)


def test_the_model_of_events_has_no_field_that_the_schema_lacks() -> None:
    """The schema covers every field that is sent."""
    for outcome in Outcome:
        assert set(SCHEMAS[outcome.event_type]["properties"]) == set(Event.model_fields)
