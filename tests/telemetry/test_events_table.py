"""The table of log events in the documentation, against the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import worker
from worker.telemetry.logs import LIBRARY_EVENT, LINE_LOST
from worker.telemetry.step_log import STEP_EVENTS

WORKER = Path(worker.__file__).parent
TABLE = WORKER / "telemetry" / "EVENTS.md"

#: Methods of a logger, and the level that each logs at.
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
#: Functions that are given an event's name to log, and at which level.
PASSED_ON = {"_after_loss": "warning"}
#: Names of our own for what has one already.
SYNONYMS = {"key", "em", "manager", "job", "link", "task", "trace", "try", "tries", "error", "exception", "err", "msg"}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    """Every call in the program; the sandbox is no part of what runs in production."""
    for path in sorted(WORKER.rglob("*.py")):
        if "sandbox" not in path.relative_to(WORKER).parts:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield path, node


def is_logging(call: ast.Call) -> bool:
    """Whether it is a call of a logger's method, or of one that was picked before."""
    match call.func:
        case ast.Attribute(value=logger, attr=attr):
            return attr in LEVELS and ast.unparse(logger) in {"log", "_log", "self._log"}
        case ast.Name(id=name):
            return name == "log"
    return False


def logged() -> dict[str, set[str]]:
    """The levels of each event that the program logs."""
    found: dict[str, set[str]] = {}
    for _, call in calls():
        name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if not isinstance(name, str):
            continue
        if is_logging(call):
            level = LEVELS[call.func.attr] if isinstance(call.func, ast.Attribute) else "warning"
            found.setdefault(name, set()).add(level)
        elif isinstance(call.func, ast.Attribute) and call.func.attr in PASSED_ON:
            found.setdefault(name, set()).add(PASSED_ON[call.func.attr])
    for name, level in STEP_EVENTS.values():
        found.setdefault(name, set()).add(level)
    return found


def documented() -> dict[str, set[str]]:
    """The levels of each event in the table."""
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| ([a-z, ]+) \| ([^|]+) \|", TABLE.read_text(), flags=re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows), "a name is in the table twice"
    return {name: set(levels.split(", ")) for name, levels, _ in rows}


def test_every_event_is_explained() -> None:
    """Whoever finds a name in the log finds out what it means and what to do."""
    assert sorted(logged().keys() - documented().keys()) == []


def test_every_explained_event_exists() -> None:
    """Nobody waits for an event that is never logged."""
    assert sorted(documented().keys() - logged().keys() - {LIBRARY_EVENT, LINE_LOST}) == []


def test_the_levels_are_those_of_the_table() -> None:
    """An alert or a filter by level sees what the table says that it sees."""
    wrong = {name: levels for name, levels in logged().items() if levels != documented().get(name)}
    assert wrong == {}


def test_names_are_dotted_and_known_before_the_program_runs() -> None:
    """A name that is put together at run time can be neither documented nor searched for."""
    for path, call in calls():
        if not is_logging(call):
            continue
        if path.name == "step_log.py":
            continue  # from its own table, which is in `logged`
        name = call.args[0]
        if isinstance(name, ast.Name) and any(function in path.read_text() for function in PASSED_ON):
            continue  # given by whoever called one of these functions, and checked there
        assert isinstance(name, ast.Constant), f"{path}:{call.lineno}"
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", str(name.value)), f"{path}:{call.lineno}"


def test_one_thing_has_one_key() -> None:
    """A search by job_id finds every line about the job, since no line calls it otherwise."""
    wrong = [
        f"{path.name}:{call.lineno}: {keyword.arg}"
        for path, call in calls()
        if is_logging(call)
        for keyword in call.keywords
        if keyword.arg in SYNONYMS
    ]
    assert wrong == []
