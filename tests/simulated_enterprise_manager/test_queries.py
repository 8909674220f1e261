from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.simulated_enterprise_manager.client import Client
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_LINK_ID,
)
from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour
from worker.sandbox.simulated_enterprise_manager.filters import FilterInvalidError, filter_of

KNOWN = frozenset({"name", "state", "backupservername"})
ROWS = [
    {"name": name, "state": state, "backupservername": server}
    for name, state, server in [
        ("Copy", "Running", "vbr01"),
        ("Copy", "Finished", "vbr02"),
        ("a;b,c", "Finished", "vbr01"),
        ("(Copy)", "OperationFinished", "vbr01"),
    ]
]


def names(answer: object) -> list[str]:
    """The names in a page of references."""
    return [one["name"] for one in answer.content["refs"]]  # type: ignore[attr-defined] # an Answer of the client


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", [0, 1, 2, 3]),
        ('Name=="Copy"', [0, 1]),
        ("name==copy", [0, 1]),
        ('Name=="Copy";BackupServerName=="vbr02"', [1]),
        ('State==Running,Name=="a;b,c"', [0, 2]),
        ("State!=Finished", [0, 3]),
        ('State==Running,State==Finished;Name=="Copy"', [0, 1]),
        ('(State==Running,State==Finished);Name=="Copy"', [0, 1]),
        ('Name == "(Copy)"', [3]),
        ('Name>="b"', [0, 1]),
    ],
)
def test_a_filter_finds_what_its_grammar_says(text: str, rows: list[int]) -> None:
    """A client's filter is tried on another grammar than the vendor's."""
    matches = filter_of(text, KNOWN, Behaviour())

    assert [position for position, row in enumerate(ROWS) if matches(row)] == rows


@pytest.mark.parametrize(
    "text", ["Name", 'Name="x"', "Name==", "Colour==red", 'Name=="a"b"', '(Name=="a"', "Name==a)", ";", "(" * 50]
)
def test_a_filter_that_cannot_be_read_is_refused(text: str) -> None:
    """A filter that a name has broken finds something all the same."""
    with pytest.raises(FilterInvalidError):
        filter_of(text, KNOWN, Behaviour())


@pytest.mark.parametrize(
    ("rule", "value", "meant"),
    [("backslash", r'"a\"b\\"', 'a"b\\'), ("doubled", '"a""b"', 'a"b'), ("impossible", '"a\\"', "a\\")],
)
def test_a_quote_inside_a_value_is_written_by_the_rule_in_force(rule: str, value: str, meant: str) -> None:
    """A name with a quote is found under one unknown rule only."""
    behaviour = Behaviour()
    behaviour.change(quote_inside_value=rule)

    matches = filter_of(f"Name=={value}", KNOWN, behaviour)

    assert matches({"name": meant})
    assert not matches({"name": value})


def test_names_may_be_compared_by_case() -> None:
    """A job that differs in case alone is taken for the one that was meant."""
    assert filter_of("Name==COPY", KNOWN, Behaviour())(ROWS[0])
    assert not filter_of("Name==COPY", KNOWN, Behaviour(names_by_case=True))(ROWS[0])


def test_a_job_is_found_by_its_name_and_backup_server(client: Client) -> None:
    """A name that two backup servers share is not narrowed down."""
    name = "Twin; x, (y)"
    here = client.em.add_job(name=name, backup_server="vbr01")
    client.em.add_job(name=name, backup_server="vbr02")
    condition, at_one = quote(f'Name=="{name}"'), quote(';BackupServerName=="vbr01"')

    both = client.get(f"query?type=Job&filter={condition}")
    one = client.get(f"query?type=Job&filter={condition}{at_one}")

    assert names(both) == [name, name]
    assert [ref["uid"] for ref in one.content["refs"]] == [f"urn:veeam:Job:{here}"]
    assert one.content["refs"][0]["href"].endswith(f"/api/jobs/{here}")


def test_references_and_entities(client: Client) -> None:
    """A client that asks for entities reads references, or the other way round."""
    repository = client.em.add_repository("Second", backup_server="vbr02")

    references = client.get("query?type=Repository&filter=Name==Second").content
    entities = client.get("query?type=Repository&format=Entities&filter=Name==Second").content
    jobs = client.get("query?type=Job&format=Entities").content

    assert references["refs"][0]["uid"] == entities["entities"][0]["uid"] == f"urn:veeam:Repository:{repository}"
    assert entities["entities"][0]["kind"] == "WindowsLocal"
    assert jobs["entities"][0]["jobtype"] == "ImmediateBackupCopy"
    assert client.get(f"repositories/{repository}").content["name"] == "Second"
    assert len(client.get("repositories").content) == 2


def test_results_come_in_pages(client: Client) -> None:
    """A client that reads the first page alone is not found out."""
    client.em.behaviour.page_size = 3
    for number in range(1, 7):
        client.em.add_job(name=f"Job {number}")

    pages = [client.get(f"query?type=Job&sortAsc=Name&page={page}") for page in (1, 2, 3, 4)]

    assert [names(page) for page in pages] == [
        [VENDOR_JOB_NAME, "Job 1", "Job 2"],
        ["Job 3", "Job 4", "Job 5"],
        ["Job 6"],
        [],
    ]
    paging = pages[1].content["paginginfo"]
    assert (paging["pagenum"], paging["pagesize"], paging["pagescount"]) == ("2", "3", "3")
    assert [link["rel"] for link in paging["links"]] == ["First", "Prev", "Next", "Last"]
    assert names(client.get("query?type=Job&sortDesc=Name&pageSize=1")) == ["Job 6"]


def test_the_sessions_unfinished_tasks_are_found_in_pages(client: Client, another: Client) -> None:
    """Following many tasks by one query is tried on a server that shows everybody's, or all at once."""
    client.em.change_behaviour(operation_finished_looks=0, edits_held=True)
    another.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    job = client.em.add_job(name="Five", links=[VENDOR_LINK_ID] * 5)
    for link in client.em.links(job)[:4]:
        client.unlink(job, link.object_in_job_id)
    query = "query?type=Task&filter=State!=Finished"

    first, second = client.get(f"{query}&pageSize=3"), client.get(f"{query}&pageSize=3&page=2")
    client.em.behaviour.edits_held = False
    client.states_of("task-4")

    assert [task["taskid"] for task in first.content["resources"]] == ["task-1", "task-2", "task-3"]
    assert [task["state"] for task in second.content["resources"]] == ["Running"]
    assert client.get(query).content["resources"] == []
    assert len(client.get("query?type=Task&filter=State==Finished").content["resources"]) == 4
    assert [task["state"] for task in client.get("tasks").content] == ["Finished"] * 4


def test_a_query_counts_as_a_look_at_every_task(client: Client) -> None:
    """A client that follows its tasks by queries alone waits for ever."""
    client.em.change_behaviour(edit_seconds=0)
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    query = "query?type=Task&filter=State!=Finished"

    assert [task["state"] for task in client.get(query).content["resources"]] == ["OperationFinished"]
    assert client.get(query).content["resources"] == []


@pytest.mark.parametrize(
    "query", ["type=Colour", "type=Job&filter=Name=", "type=Job&page=0", "type=Job&pageSize=x", ""]
)
def test_a_query_that_cannot_be_answered_is_a_bad_request(client: Client, query: str) -> None:
    """A broken query is answered with everything there is."""
    assert client.get(f"query?{query}").status == 400


@pytest.mark.parametrize("status", [400, 501])
def test_a_server_without_queries(client: Client, status: int) -> None:
    """A client that cannot do without queries is not found out."""
    client.em.change_behaviour(query_tasks=str(status))
    assert client.get("query?type=Task").status == status
    assert client.get("query?type=Job").status == 200

    client.em.change_behaviour(query=str(status))
    assert client.get("query?type=Job").status == status


def test_an_unknown_sorting_is_a_bad_request(client: Client) -> None:
    """A misspelt parameter is ignored where a real server refuses it."""
    assert client.get("query?type=Job&sortAsc=Colour").status == 400
