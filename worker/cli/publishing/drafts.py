"""Commands before they are published: from options, from JSON Lines, from CSV. All are checked against the contract."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.commands import MAX_BATCH, UnlinkCommand
from contracts.keys import batch_id_for, key_for
from contracts.reading import UnreadableMessageError, read_command, read_object
from worker.spreadsheet import from_cell

_LOOKS_LIKE_AN_ID = re.compile(r"^(urn:veeam:\w+:)?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")

#: The columns of a CSV file that are fields of the command, unchanged.
PLAIN_COLUMNS = (
    "idempotency_key",
    "enterprise_manager",
    "if_absent",
    "not_after",
    "not_before",
    "requested_by",
    "reason",
    "correlation_id",
)
FLAG_COLUMNS = ("dry_run", "allow_linked_backups_removal")
NUMBER_COLUMNS = ("timeout_seconds",)
#: The columns that name job, repository, batch and ticket. A column `label.<name>` is a label.
REFERENCE_COLUMNS = ("job", "job_backup_server", "link_id", "repository", "repository_backup_server")
BATCH_COLUMNS = {"batch_id": "id", "batch_size": "size"}
TICKET_COLUMNS = {"ticket_system": "system", "ticket_id": "id", "ticket_url": "url"}
_LABEL_PREFIX = "label."
_KNOWN_COLUMNS = {
    *(*PLAIN_COLUMNS, *FLAG_COLUMNS, *NUMBER_COLUMNS, *REFERENCE_COLUMNS, *TICKET_COLUMNS, *BATCH_COLUMNS)
}

#: How many wrong lines of a file are named.
_MOST_PROBLEMS = 20


class DraftError(Exception):
    """A command breaks the contract, or cannot be built from the input. The text says where and why."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A valid command, and the bytes to publish."""

    command: UnlinkCommand
    body: bytes


def draft(content: Mapping[str, Any]) -> Draft:
    """A command from its fields. Null fields are omitted, `command` is optional, and a missing key is generated.

    Raises:
        DraftError: it breaks the contract.
    """
    fields = {"command": "unlink.v1"} | {name: value for name, value in content.items() if value is not None}
    if "idempotency_key" not in fields:
        fields["idempotency_key"] = key_for(fields)
    try:
        body = json.dumps(fields, ensure_ascii=False).encode(errors="surrogateescape")
        return Draft(read_command(body), body)
    except UnicodeEncodeError as error:
        raise DraftError("a text has a lone surrogate, which is no character") from error
    except UnreadableMessageError as error:
        raise DraftError(str(error)) from error


def in_batches(drafts: Iterable[Draft]) -> list[Draft]:
    """The commands, with one batch for each Enterprise Manager. Dry runs, and commands with a batch, are unchanged.

    The commands of an Enterprise Manager are also unchanged if they are more than a batch may have.
    """
    drafts = list(drafts)
    keys: dict[str, set[str]] = {}
    for each in drafts:
        if _needs_batch(each.command):
            keys.setdefault(each.command.enterprise_manager, set()).add(each.command.idempotency_key)
    batches = {
        name: {"id": batch_id_for(members), "size": len(members)}
        for name, members in keys.items()
        if len(members) <= MAX_BATCH
    }
    return [_with_batch(each, batches.get(each.command.enterprise_manager)) for each in drafts]


def without_batch(drafts: Iterable[Draft]) -> dict[str, int]:
    """How many commands of each Enterprise Manager are in no batch. Dry runs, which belong to none, do not count."""
    return Counter(each.command.enterprise_manager for each in drafts if _needs_batch(each.command))


def _needs_batch(command: UnlinkCommand) -> bool:
    return command.batch is None and not command.dry_run


def _with_batch(given: Draft, batch: dict[str, Any] | None) -> Draft:
    if batch is None or not _needs_batch(given.command):
        return given
    return draft(json.loads(given.body) | {"batch": batch})


def job_reference(text: str, backup_server: str | None = None) -> dict[str, str]:
    """A job by its ID, if the text looks like one, else by its name."""
    return _reference(text, "id") | _narrowed(backup_server)


def repository_reference(link_id: str | None, text: str | None, backup_server: str | None = None) -> dict[str, str]:
    """A repository by the link's ID; else by its UID, if the text looks like one; else by its name.

    Raises:
        DraftError: both are given, or none.
    """
    if link_id is not None and text is None:
        return {"link_id": link_id} | _narrowed(backup_server)
    if text is not None and link_id is None:
        return _reference(text, "uid") | _narrowed(backup_server)
    raise DraftError("exactly one of link and repository is needed")


def _reference(text: str, identifier: str) -> dict[str, str]:
    return {identifier if _LOOKS_LIKE_AN_ID.match(text) else "name": text}


def _narrowed(backup_server: str | None) -> dict[str, str]:
    return {"backup_server": backup_server} if backup_server else {}


def from_json_lines(lines: Iterable[str]) -> list[Draft]:
    """Commands from JSON Lines: one command of the contract on each line. Empty lines are skipped.

    Raises:
        DraftError: naming the lines that are wrong.
    """
    return _all(_parsed(number, line) for number, line in enumerate(lines, 1) if line.strip())


def from_csv(lines: Iterable[str]) -> list[Draft]:
    """Commands from CSV: one command in each row, under a row of column names (README).

    The apostrophe before a text that a spreadsheet would take for a formula is no part of it.

    Raises:
        DraftError: naming each unknown column, or the lines that are wrong.
    """
    rows = csv.DictReader(lines, strict=True)
    try:
        names = rows.fieldnames or []
        unknown = [name for name in names if not (name in _KNOWN_COLUMNS or name.startswith(_LABEL_PREFIX))]
        if unknown:
            hint = "" if len(names) > 1 else "; columns are separated by commas"
            listed = ", ".join(name or "a column without a name" for name in unknown)
            raise DraftError(f"there are no such columns: {listed}{hint}")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DraftError(f"columns that are there more than once: {', '.join(repeated)}")
        return _all((rows.line_num, _from_row, row) for row in rows)
    except csv.Error as error:
        raise DraftError(f"line {rows.line_num}: {error}") from error


def _parsed(number: int, line: str) -> tuple[int, Any, str]:
    return number, _from_line, line


def _from_line(line: str) -> Draft:
    try:
        return draft(read_object(line.encode()))
    except UnreadableMessageError as error:
        raise DraftError(str(error)) from error


def _from_row(row: dict[str | None, Any]) -> Draft:
    if None in row:
        raise DraftError("it has more values than there are columns")
    cells: dict[str, str] = {
        str(name): from_cell(value.strip()) for name, value in row.items() if value and value.strip()
    }
    if "job" not in cells:
        raise DraftError("job: missing")
    content: dict[str, Any] = {name: cells[name] for name in PLAIN_COLUMNS if name in cells}
    content |= {name: _flag(name, cells[name]) for name in FLAG_COLUMNS if name in cells}
    content |= {name: _number(name, cells[name]) for name in NUMBER_COLUMNS if name in cells}
    content["job"] = job_reference(cells["job"], cells.get("job_backup_server"))
    content["repository"] = repository_reference(
        cells.get("link_id"), cells.get("repository"), cells.get("repository_backup_server")
    )
    ticket = {field: cells[column] for column, field in TICKET_COLUMNS.items() if column in cells}
    batch: dict[str, Any] = {field: cells[column] for column, field in BATCH_COLUMNS.items() if column in cells}
    if "size" in batch:
        batch["size"] = _number("batch_size", batch["size"])
    content |= {"batch": batch} if batch else {}
    labels = {name.removeprefix(_LABEL_PREFIX): cells[name] for name in cells if name.startswith(_LABEL_PREFIX)}
    return draft(content | ({"ticket": ticket} if ticket else {}) | ({"labels": labels} if labels else {}))


def _flag(name: str, text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise DraftError(f"{name}: true or false is needed")
    return text.lower() == "true"


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DraftError(f"{name}: a whole number is needed") from None


def _all(sources: Iterable[tuple[int, Any, Any]]) -> list[Draft]:
    """The commands of all lines. Wrong lines raise one error: of a file with a mistake, no line is submitted."""
    drafts: list[Draft] = []
    problems: list[str] = []
    for number, make, source in sources:
        try:
            drafts.append(make(source))
        except DraftError as error:
            problems.append(f"line {number}: {error}")
    problems += _contradictions(drafts)
    if problems:
        hidden = len(problems) - _MOST_PROBLEMS
        raise DraftError("\n".join(problems[:_MOST_PROBLEMS] + ([f"and {hidden} more"] if hidden > 0 else [])))
    return drafts


def _contradictions(drafts: list[Draft]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for each in drafts:
        key, fingerprint = each.command.idempotency_key, each.command.fingerprint
        if seen.setdefault(key, fingerprint) != fingerprint:
            yield f"two different commands have the key {key}"


def ticket_reference(ticket: str | None, url: str | None) -> dict[str, Any] | None:
    """A ticket of `SYSTEM:ID`; None if there is none.

    Raises:
        DraftError: it has another form, or there is a URL of no ticket.
    """
    if ticket is None:
        if url is not None:
            raise DraftError("--ticket-url is that of a --ticket, which is missing")
        return None
    system, colon, number = ticket.partition(":")
    if not (system and colon and number):
        raise DraftError("--ticket is SYSTEM:ID, such as jira:OPS-4711")
    return {"system": system, "id": number} | ({"url": url} if url else {})
