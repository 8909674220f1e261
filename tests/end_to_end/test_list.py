"""Finding unlinks by what people know of them, and the export for an audit."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Pool, event, make_url

from tests.end_to_end.test_observing import PROGRAM, ledger_only, surroundings
from tests.end_to_end.test_observing import program as in_process
from tests.end_to_end.world import World, vendor_command
from tests.preloaded.preloaded import run_program
from tests.terminal import Terminal
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_NAME, VENDOR_LINK_ID, VENDOR_REPOSITORY_NAME


def program(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program with nothing but the ledger, to its end."""
    return run_program(*arguments, settings=ledger_only(world))


def keys(world: World, *arguments: str) -> list[str]:
    """What `list` finds."""
    listed = program(world, "list", *arguments, "--output", "json")
    assert listed.returncode == 0, listed.stderr
    return [json.loads(line)["idempotency_key"] for line in listed.stdout.splitlines()]


@pytest.fixture
def ended(world: World) -> World:
    """A world with one unlink that succeeded, and one that failed."""
    world.serve()
    ticket = {"system": "jira", "id": "OPS-1", "url": "https://jira.example.com/browse/OPS-1"}
    repository = {"name": VENDOR_REPOSITORY_NAME}
    asked = {
        "repository": repository,
        "requested_by": "j.doe",
        "reason": '=HYPERLINK("http://evil.example","x")',
        "ticket": ticket,
        "correlation_id": "run 7",
        "labels": {"site": "Zürich"},
    }
    world.unlink("CHG1", **asked)
    world.send(vendor_command("CHG2", job={"name": "Nightly"}, ticket={"system": "jira", "id": "OPS-1"}))
    world.send(vendor_command("CHG3", job={"name": "@Weekly"}, ticket={"system": "jira", "id": "OPS-2"}))
    world.until_ended("CHG2", "CHG3")
    return world


def test_an_unlink_is_found_by_what_people_know_of_it(ended: World) -> None:
    """Most keys are hashes: a person who has the ticket could not ask what became of it."""
    for criterion in (
        ("--ticket", "ops-1", "--outcome", "succeeded"),
        ("--requester", "J.Doe"),
        ("--job", VENDOR_JOB_NAME),
        ("--repository", VENDOR_REPOSITORY_NAME),
        ("--repository", VENDOR_LINK_ID, "--outcome", "succeeded", "--since", "1h"),
    ):
        assert keys(ended, *criterion) == ["CHG1"], criterion
    assert set(keys(ended, "--reason", "job_not_found", "--since", "2020-01-01")) == {"CHG2", "CHG3"}
    assert keys(ended, "--in-flight") == []
    assert keys(ended, "--since", "2099-01-01T00:00+02:00") == []
    assert len(keys(ended, "--limit", "2")) == 2


def test_the_table_shows_what_people_know_and_says_if_there_is_more(ended: World) -> None:
    """A person would read hashes, or take the first page for all."""
    listed = program(ended, "list", "--outcome", "succeeded")
    for word in (*VENDOR_JOB_NAME.split(), *VENDOR_REPOSITORY_NAME.split(), "OPS-1", "j.doe", "CHG1", "succeeded"):
        assert word in listed.stdout
    assert len(listed.stdout.splitlines()) == 2, "a program that reads lines finds no key in a folded one"
    more = program(ended, "list", "--limit", "1")
    assert "These are the newest 1. There are more" in more.stderr
    assert program(ended, "list", "--ticket", "OPS-99").stdout == "Nothing is found.\n"


def test_a_narrow_terminal_shows_each_key_whole(world: World) -> None:
    """The key is what every other command asks for, and a folded one cannot be copied."""
    world.serve()
    key = f"derived:{'0123456789abcdef' * 4}"
    world.unlink(key, ticket={"system": "jira", "id": "OPS-1"}, requested_by="j.doe")
    for columns, lines in ((80, 4), (200, 2)):
        surrounded = surroundings(ledger_only(world), TERM="xterm-256color", NO_COLOR="1")
        terminal = Terminal([*PROGRAM, "list"], surrounded, columns=columns)
        terminal.until(key)
        assert terminal.wait() == 0
        assert f"{'' if columns == 200 else 'job '}{VENDOR_JOB_NAME}" in terminal.seen
        assert len(terminal.seen.splitlines()) <= lines, terminal.seen


def test_the_export_says_who_asked_what_was_seen_what_was_done_and_how_it_is_known(ended: World) -> None:
    """An auditor would have to believe the ticket."""
    listed = program(ended, "list", "--output", "csv")
    rows = {row["idempotency_key"]: row for row in csv.DictReader(io.StringIO(listed.stdout))}
    done = rows["CHG1"]
    assert (
        done.items()
        >= {
            "user_id": urlsplit(ended.environment["UNLINK_BROKER__URL"]).username,
            "requested_by": "j.doe",
            "ticket_system": "jira",
            "ticket_id": "OPS-1",
            "asked_repository": f"name {VENDOR_REPOSITORY_NAME}",
            "job_name": VENDOR_JOB_NAME,
            "repository_name": VENDOR_REPOSITORY_NAME,
            "link_id": VENDOR_LINK_ID,
            "outcome": "succeeded",
            "changed": "true",
            "evidence": "task",
            "verified": "true",
            "task_id": "task-1",
            "allow_linked_backups_removal": "false",
            "correlation_id": "run 7",
            "labels": '{"site": "Zürich"}',
        }.items()
    )
    assert rows["CHG2"].items() >= {"reason_code": "job_not_found", "changed": "false", "sent_at": ""}.items()


def test_no_cell_of_the_export_is_a_formula(ended: World) -> None:
    """Who may order an unlink could run a program on the auditor's machine."""
    listed = program(ended, "list", "--output", "csv")
    rows = {row["idempotency_key"]: row for row in csv.DictReader(io.StringIO(listed.stdout))}
    assert rows["CHG1"]["reason"].startswith("'=HYPERLINK(")
    assert rows["CHG3"]["job_name"] == "'@Weekly"
    assert not [cell for row in rows.values() for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


def test_no_text_makes_a_line_of_the_export(ended: World) -> None:
    """A carriage return in a text would end its line, and a formula begin the next one."""
    ended.unlink("CHG4", job={"name": "Nightly"}, reason="no\r=1+1")
    listed = program(ended, "list", "--output", "csv")
    rows = list(csv.DictReader(io.StringIO(listed.stdout)))
    assert {row["idempotency_key"] for row in rows} == {"CHG1", "CHG2", "CHG3", "CHG4"}


@pytest.mark.parametrize("output", ["text", "json"])
def test_the_status_of_a_ticket_takes_one_connection(ended: World, output: str) -> None:
    """A repository that was offboarded has a thousand keys, and PostgreSQL checks the password for each connection."""
    connections: list[object] = []

    def count(connection: object, _record: object) -> None:
        connections.append(connection)

    event.listen(Pool, "connect", count)
    try:
        both = in_process(ledger_only(ended), "status", "--ticket", "OPS-1", "--output", output)
    finally:
        event.remove(Pool, "connect", count)
    assert (both.exit_code, len(connections)) == (1, 1)


def test_the_status_of_a_ticket_is_that_of_all_its_unlinks(ended: World) -> None:
    """A ticket with two links would be closed although one of them is still there."""
    both = program(ended, "status", "--ticket", "OPS-1")
    assert both.returncode == 1
    assert "CHG1" in both.stdout
    assert "CHG2" in both.stdout
    lines = program(ended, "status", "--ticket", "ops-1", "--output", "json").stdout.splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["failed", "succeeded"]
    assert "steps" in json.loads(lines[0])
    alone = program(ended, "status", "--ticket", "OPS-2")
    assert (alone.returncode, "taken up" in alone.stdout) == (1, True)
    unknown = program(ended, "status", "--ticket", "OPS-99")
    assert (unknown.returncode, unknown.stderr) == (6, "No worker has seen a command of the ticket OPS-99.\n")
    as_key = program(ended, "status", "OPS-1")
    assert (as_key.returncode, as_key.stderr) == (
        6,
        "No worker has seen the key OPS-1. There is a ticket with this ID: use --ticket OPS-1.\n",
    )
    for arguments in ((), ("CHG1", "--ticket", "OPS-1")):
        neither = program(ended, "status", *arguments)
        assert (neither.returncode, neither.stderr) == (2, "Name either a key or --ticket.\n")


def test_a_search_says_that_older_keys_may_be_missing(ended: World) -> None:
    """After an upgrade, an auditor would take what is found for all there is."""
    file = make_url(ended.environment["UNLINK_LEDGER__URL"]).database
    with sqlite3.connect(str(file)) as connection:
        connection.execute("UPDATE search_walk SET completed_at = NULL, next_at = 9e18")
    connection.close()
    listed = program(ended, "list", "--output", "csv")
    assert (listed.returncode, "may be missing here" in listed.stderr) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "yesterday"), "--since 'yesterday' is neither a time such as"),
        (("--outcome", "planned"), "'planned' is not one of"),
        (("--reason", "typo"), "'typo' is not one of"),
    ],
)
def test_a_criterion_that_cannot_hold_is_refused(world: World, arguments: tuple[str, ...], said: str) -> None:
    """A typing mistake would look like an empty ledger."""
    listed = program(world, "list", *arguments)
    assert listed.returncode == 2
    assert said in " ".join(listed.stderr.replace("│", "").split())
