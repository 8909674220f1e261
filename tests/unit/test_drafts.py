"""Files of commands, and what is said of a mistake in one."""

from __future__ import annotations

import csv
import io
import json

import pytest

from contracts.commands import Batch, Ticket, UnlinkCommand
from worker.cli.publishing.drafts import DraftError, from_csv, from_json_lines, in_batches, ticket_reference
from worker.spreadsheet import as_cell

JOB = "d1b85018-2769-45be-89bc-03f66b60e6cb"
OTHER_JOB = "d1b85018-2769-45be-89bc-03f66b60e6cc"
LINK = "27a1d57f-7c15-43c6-9162-d05aff1c9bb9"


def csv_of(*rows: str) -> io.StringIO:
    """A file of these rows."""
    return io.StringIO("\n".join(rows) + "\n")


def test_csv_rows_become_commands() -> None:
    """A table out of a spreadsheet is submitted as it is: IDs and names, flags, ticket and labels."""
    first, second = from_csv(
        csv_of(
            "job,repository,link_id,ticket_system,ticket_id,dry_run,timeout_seconds,label.site,job_backup_server",
            f"{JOB},,{LINK},jira,OPS-1,,,,",
            'Copy to "X"; all,Scale-out 3,,,,TRUE,700,Bern,vbr01',
        )
    )
    assert (first.command.job.id, first.command.repository.link_id) == (JOB, LINK)
    assert first.command.ticket is not None
    assert first.command.ticket.id == "OPS-1"
    assert second.command.job.name == 'Copy to "X"; all'
    assert second.command.job.backup_server == "vbr01"
    assert second.command.repository.name == "Scale-out 3"
    assert (second.command.dry_run, second.command.timeout_seconds, second.command.labels) == (
        True,
        700,
        {"site": "Bern"},
    )


def test_the_commands_of_a_file_are_one_batch_for_each_enterprise_manager() -> None:
    """A batch of two Enterprise Managers would never end: each sees the ends of its own commands only."""
    rows = [
        f"{JOB},{LINK},,,,",
        f"{JOB},{LINK},branch,,,",
        f"{JOB},{LINK},branch,true,,",
        f"{OTHER_JOB},{LINK},branch,,,",
        f"{OTHER_JOB},{LINK},,,OWN,3",
    ]
    read = from_csv(csv_of("job,link_id,enterprise_manager,dry_run,batch_id,batch_size", *rows))
    drafts = in_batches(read)
    own, first, dry, second, named = (each.command.batch for each in drafts)
    assert own is not None
    assert first is not None
    assert (own.size, first.size, dry) == (1, 2, None)
    assert first == second != own
    assert named is not None
    assert named.id == "OWN"
    assert [json.loads(each.body).get("batch", {}).get("size") for each in drafts] == [1, 2, None, 2, 3]
    assert in_batches(read) == drafts, "another call makes the same batches"


@pytest.mark.parametrize("name", ["=1+1", "+A", "-A", "@A", "'=A", "''@A", "'A'", "A=1", "'"])
def test_a_name_like_a_formula_comes_back_from_the_cell_that_is_written_for_it(name: str) -> None:
    """The file of `links` would run a program on the machine where it is opened; or name another job when submitted."""
    cell = as_cell(name)
    assert not cell.startswith(("=", "+", "-", "@"))
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["job", "repository", "label.job"], [cell, "R", cell]])
    file.seek(0)
    (read,) = from_csv(file)
    assert (read.command.job.name, read.command.labels) == (name, {"job": name})


def test_json_lines_are_commands_as_the_contract_has_them() -> None:
    """A script writes what it would publish; a missing key is derived from the ticket, stably."""
    ticket = {"system": "jira", "id": "OPS-1"}
    line = json.dumps({"job": {"id": JOB}, "repository": {"link_id": LINK}, "ticket": ticket})
    (first,) = from_json_lines([line, "\n"])
    (again,) = from_json_lines([line])
    assert first.command.idempotency_key.startswith("derived:")
    assert first == again


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["job,repositry", "a,b"], "there are no such columns: repositry"),
        (["job,repository", "a,b", "c,"], "line 3: exactly one of link and repository"),
        (["job,repository", ",b"], "line 2: job: missing"),
        (["job,repository,dry_run", "a,b,yes"], "line 2: dry_run: true or false is needed"),
        (["job,repository,timeout_seconds", "a,b,soon"], "line 2: timeout_seconds: a whole number"),
        (["job,repository", "a,b,c"], "line 2: it has more values than there are columns"),
        (["job,repository", 'a,"b'], "unexpected end of data"),
        (["job;repository", "a;b"], "there are no such columns: job;repository; columns are separated by commas"),
        (["job\trepository", "a\tb"], "columns are separated by commas"),
        (["job,repository,", "a,b,"], "there are no such columns: a column without a name"),
    ],
)
def test_a_mistake_in_a_file_is_named_by_its_line(rows: list[str], said: str) -> None:
    """Nothing of a file with a mistake is submitted; the person corrects the line that is named."""
    with pytest.raises(DraftError) as caught:
        from_csv(csv_of(*rows))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{", "[]", "1", '{"job": 1}', "[" * 100_000, '{"job": {"name": "\\ud800"}}', '{"\\ud800": 1}']
)
def test_a_line_that_is_no_command_is_named(line: str) -> None:
    """Junk between commands is not skipped."""
    with pytest.raises(DraftError, match="line 2: "):
        from_json_lines(["", line])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('{"job": {"name": "A"}, "repository": {"name": "C"}, "dry_run": true, "dry_run": false}', "dry_run"),
        ('{"job": {"name": "A", "name": "B"}, "repository": {"name": "C"}}', "name"),
    ],
)
def test_a_field_that_is_there_twice_is_refused(line: str, name: str) -> None:
    """The worker refuses such a message. Here one of two values would be taken, and nobody could tell which."""
    with pytest.raises(DraftError, match=f"line 2: .*repeated field '{name}'"):
        from_json_lines(["", line])


def test_of_very_many_mistakes_the_first_are_named_and_the_others_counted() -> None:
    """JSON that is written over thousands of lines would scroll the reason off the screen."""
    with pytest.raises(DraftError) as caught:
        from_json_lines(["["] * 1000)
    lines = str(caught.value).split("\n")
    assert (lines[0][:7], lines[-1]) == ("line 1:", "and 980 more")
    assert len(lines) == 21


def test_csv_takes_the_fields_of_json_lines() -> None:
    """Whoever needs a field that only one of the two takes would have to convert the file."""
    rows = [
        {
            "idempotency_key": "CHG1",
            "enterprise_manager": "branch",
            "job": "Copy",
            "job_backup_server": "vbr01",
            "repository": "Scale-out 3",
            "repository_backup_server": "vbr02",
            "dry_run": "false",
            "allow_linked_backups_removal": "true",
            "if_absent": "fail",
            "timeout_seconds": "700",
            "not_after": "2027-01-31T18:00:00+01:00",
            "not_before": "2027-01-31T02:00:00+01:00",
            "requested_by": "j.doe",
            "reason": "retired",
            "ticket_system": "jira",
            "ticket_id": "OPS-1",
            "ticket_url": "https://jira.example.com/OPS-1",
            "label.site": "Bern",
            "batch_id": "B1",
            "batch_size": "2",
            "correlation_id": "change-1",
        }
    ]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    file.seek(0)
    (by_csv,) = from_csv(file)
    content = json.loads(by_csv.body)
    assert set(content) == set(UnlinkCommand.model_fields)
    assert content["job"].keys() == content["repository"].keys() == {"name", "backup_server"}
    assert content["ticket"].keys() == set(Ticket.model_fields)
    assert content["batch"].keys() == set(Batch.model_fields)
    (by_json,) = from_json_lines([json.dumps(content)])
    assert by_json.command == by_csv.command


def test_one_key_for_two_commands_is_noticed_before_anything_is_submitted() -> None:
    """A copied line with its old key is a mistake, not a duplicate."""
    rows = ["job,repository,idempotency_key", "a,b,K", "a,c,K"]
    with pytest.raises(DraftError, match="two different commands have the key K"):
        from_csv(csv_of(*rows))


def test_a_column_that_is_there_twice_is_refused() -> None:
    """One of two jobs would be taken, and nobody could tell which."""
    with pytest.raises(DraftError, match="columns that are there more than once: job"):
        from_csv(csv_of("job,link_id,job", f"{JOB},{LINK},Other"))


def test_a_url_of_no_ticket_is_refused() -> None:
    """The unlink would be ordered without its ticket, and a new key be made at each call."""
    with pytest.raises(DraftError, match="--ticket-url is that of a --ticket"):
        ticket_reference(None, "https://jira.example.com/OPS-1")
