"""Links of the server are followed by their path, and only to what was meant."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.enterprise_manager.ids import JOB, LINK
from worker.enterprise_manager import paths
from worker.enterprise_manager.names import name_filter

DOCUMENTED = f"/api/jobs/{JOB}/linkedBackupRepositories/{LINK}"


def test_the_documented_path_is_that_of_the_vendors_page() -> None:
    """Else the DELETE would go nowhere."""
    assert paths.link(JOB, LINK) == DOCUMENTED
    assert paths.task("task-1") == "/api/tasks/task-1"


def test_a_link_is_followed_by_its_path_whatever_host_it_names() -> None:
    """Else links with Enterprise Manager's own host name would lead nowhere, or the token somewhere else."""
    assert paths.link(JOB, LINK, f"https://em01.corp.example:9398{DOCUMENTED}") == DOCUMENTED
    assert paths.link(JOB, LINK, f"https://evil.example/api/v2/jobs/{JOB}/linkedBackupRepositories/{LINK}?x=1#y") == (
        f"/api/v2/jobs/{JOB}/linkedBackupRepositories/{LINK}"
    )
    assert paths.link(JOB, LINK, f"/veeam{DOCUMENTED.upper().replace('/API/', '/api/')}").lower() == DOCUMENTED.lower()
    assert paths.task("task-1", ["https://em01:9398/api/tasks/task-1"]) == "/api/tasks/task-1"


@pytest.mark.parametrize(
    "href",
    [
        f"https://em01:9398/api/jobs/{JOB}/linkedBackupRepositories/{JOB}",
        f"https://em01:9398/api/jobs/{LINK}/linkedBackupRepositories/{LINK}",
        f"https://em01:9398/api/jobs/{JOB}",
        f"https://em01:9398/api/logonSessions/1/../../jobs/{JOB}/linkedBackupRepositories/{LINK}",
        f"https://em01:9398/api/%2e%2e/jobs/{JOB}/linkedBackupRepositories/{LINK}",
        f"https://em01:9398/api/a?/jobs/{JOB}/linkedBackupRepositories/{LINK}",
        f"https://em01:9398/api/ {DOCUMENTED}",
        f"https://em01:9398/other/jobs/{JOB}/linkedBackupRepositories/{LINK}",
        "https://[not-an-address/api/",
        "",
    ],
)
def test_a_link_to_anything_else_is_not_followed(href: str) -> None:
    """Else a confused or hostile server could have the worker delete something that nobody named."""
    assert paths.link(JOB, LINK, href) == DOCUMENTED


@pytest.mark.parametrize("href", ["https://em01/api/tasks/task-11", "https://em01/api/logonSessions/task-1", "task-1"])
def test_a_task_is_not_taken_for_another(href: str) -> None:
    """As above: stopping a task is a DELETE too."""
    assert paths.task("task-1", [href]) == "/api/tasks/task-1"


@given(st.text())
@example("\ud800")
def test_a_task_id_cannot_leave_its_segment(task_id: str) -> None:
    """As above: the ID is the server's text."""
    path = paths.task(task_id)
    assert path.startswith("/api/tasks/")
    assert "/" not in path.removeprefix("/api/tasks/")
    assert path not in {"/api/tasks/..", "/api/tasks/.", "/api/tasks/"}


def _unquoted(text: str) -> tuple[str, str]:
    """The value at the start of `text` as the vendor says it is read, and what follows it."""
    assert text.startswith('"')
    value, position = "", 1
    while True:
        if text[position : position + 2] == '""':
            value, position = value + '"', position + 2
        elif text[position] == '"':
            return value, text[position + 1 :]
        else:
            value, position = value + text[position], position + 1


@given(st.text(), st.none() | st.text())
@example('x",Name!="', 'y";Name!="')
@example('"', '""')
def test_no_name_can_end_its_quotes(name: str, backup_server: str | None) -> None:
    """Else a job's name could be a query of its own: `x",Name!="` would match every other job."""
    expression = name_filter(name, backup_server)
    value, rest = _unquoted(expression.removeprefix("Name=="))
    assert value == name
    if backup_server is None:
        assert rest == ""
    else:
        assert _unquoted(rest.removeprefix(";BackupServerName==")) == (backup_server, "")
