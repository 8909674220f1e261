"""A program that knows no path but the first one, and follows links: as the vendor recommends, and scripts do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from tests.simulated_enterprise_manager.client import Client
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_REPOSITORY_UID, SimulatedEnterpriseManager

SOURCE = "33fecc36-554b-437b-8bf8-3fdcb11866e7"
BACKUP = "3b1f2d4c-0c55-4a0e-8a52-1d0f9fd3f7a4"


def furnish(em: SimulatedEnterpriseManager) -> str:
    """Add one of everything. Returns the ID of a copy job."""
    em.add_job(name="Nightly", id=SOURCE, job_type="Backup")
    em.add_job(name="Old copy", job_type="BackupCopy", links=[VENDOR_REPOSITORY_UID])
    links = [VENDOR_REPOSITORY_UID, em.add_repository("Shelf", backup_server="vbr02.corp.example")]
    job = em.add_job(name='Copy & "more" <1>', links=links, linked_jobs=[SOURCE], linked_backups=[BACKUP])
    for each in (job, SOURCE):
        em.set_running(each)
        em.set_running(each, running=False)
    em.set_running(SOURCE)
    return job


def links_in(content: Any) -> Iterator[dict[str, str]]:
    """Every link in a document, wherever it is."""
    if isinstance(content, dict):
        if "rel" in content:
            yield content
        for each in content.values():
            yield from links_in(each)
    if isinstance(content, list):
        for each in content:
            yield from links_in(each)


def path_of(href: str) -> str:
    """The path of a link below the API."""
    return href.partition("/api/")[2]


def follow(content: Any, rel: str, kind: str | None = None) -> str:
    """The path of the first link of that relation and type."""
    (found, *_) = [link for link in links_in(content) if link["rel"] == rel and kind in {None, link.get("type")}]
    return path_of(found["href"])


def test_every_link_of_every_document_leads_to_a_document(em: SimulatedEnterpriseManager, client: Client) -> None:
    """Else a program that follows links would meet a 404 that no real server gives."""
    furnish(em)
    client.end_of(client.request("POST", f"jobs/{SOURCE}?action=stop"))
    before, seen = [""], {""}
    types: set[str] = set()
    while before:
        path = before.pop()
        answer = client.get(path)
        assert (answer.status, answer.content is None) == (200, False), path
        for link in links_in(answer.content):
            followed = path_of(link["href"])
            if link["rel"] in {"Up", "Down", "Alternate", "First", "Next", "Last"} and followed not in seen:
                seen.add(followed)
                before.append(followed)
                types.add(link.get("type", ""))
    assert types >= {"JobReferenceList", "JobList", "QueryService", "TaskList", "BackupList", "HierarchyRootList"}
    assert types >= {"BackupServerList", "BackupJobSessionList", "LinkedJobObjectList", "ObjectInJobList"}


def test_a_script_starts_and_clones_a_job_by_links_alone(em: SimulatedEnterpriseManager, client: Client) -> None:
    """Else scripts that never build a path could not be tried."""
    furnish(em)
    session = client.get(f"logonSessions/{client.session_id}").content
    queries = client.get(follow(session, "Down", "QueryService")).content
    assert client.get(follow(queries, "Down", "JobList")).status == 200
    jobs = client.get(follow(session, "Down", "JobReferenceList")).content
    (reference,) = [job for job in jobs if job["name"] == "Nightly"]
    job = client.get(follow(reference, "Alternate", "Job")).content
    for rel in ("Stop", "Start"):
        task = client.request("POST", follow(job, rel)).content
        assert client.get(path_of(task["href"])).content["result"]["success"] == "true"
        assert client.request("DELETE", follow(task, "Delete")).status == 204
    running = client.get(follow(job, "Down", "BackupJobSessionReferenceList") + "?format=Entity").content
    assert [(run["state"], run["jobname"]) for run in running][-2:] == [("Stopped", "Nightly"), ("Working", "Nightly")]
    name = (
        "<JobCloneSpec><JobName>Weekly</JobName></JobCloneSpec>" if client.format == "xml" else '{"JobName": "Weekly"}'
    )
    assert client.request("POST", follow(job, "Clone"), data=name).status == 202
    copies = [job for job in client.get(follow(session, "Down", "JobList")).content if "Copy" in job["name"]]
    assert client.request("POST", follow(copies[0], "Sync")).status == 202
    assert client.request("POST", follow(copies[0], "ToggleScheduleEnabled")).status == 202
    sources = client.get(follow(copies[0], "Down", "LinkedBackupRepositoryObjectList")).content
    assert client.end_of(client.request("DELETE", follow(sources, "Delete")))["operation"] == "UpdateJob"
    assert client.request("DELETE", follow(session, "Delete")).status == 204


def test_a_query_tells_which_runs_of_a_job_are_under_way(em: SimulatedEnterpriseManager, client: Client) -> None:
    """Else a program that waits for the end of a run, or avoids an edit while one is under way, could not be tried."""
    job = furnish(em)
    condition = 'JobUid=="urn:veeam:Job:{}";State!=Stopped'
    for each, states in ((SOURCE, ["Working"]), (job, [])):
        query = f"query?type=BackupJobSession&format=Entities&filter={condition.format(each)}"
        found = client.get(query).content["entities"]
        assert [run["state"] for run in found] == states
    query = "query?type=BackupJobSession&format=Entities&filter=CreationTime>=2024-02-29T12:30:00"
    assert len(client.get(query).content["entities"]) == 3
    assert client.get(query.replace("2024", "2924")).content["entities"] == []
    assert client.get(query.replace("Creation", "End").replace("2024", "2924")).content["entities"] == []
    assert len(client.get("query?type=BackupJobSession&format=Entities&filter=IsRetry==false").content["entities"]) == 3
    assert client.get("query?type=BackupServer&sortDesc=name").content["refs"][0]["name"] == "vbr02.corp.example"
    assert client.get("query?type=Payroll").status == 400


def test_the_json_of_a_query_is_nested_as_a_public_program_reads_it(em: SimulatedEnterpriseManager) -> None:
    """Else a monitoring plugin that works with a real server would find nothing here."""
    furnish(em)
    with closing(Client(em, "json")) as asking:
        for kind, count in (("BackupJobSession", 3), ("ReplicaJobSession", 0), ("Backup", 1)):
            query = f"query?type={kind}&format=Entities&filter=CreationTime>=2024-02-29T12:30:00"
            body = asking.get(query.partition("&filter")[0] if kind == "Backup" else query).body
            assert len(json.loads(body)["Entities"][f"{kind}s"][f"{kind}s"]) == count
        assert len(json.loads(asking.get("query?type=Repository").body)["Refs"]["Refs"]) == 2


def test_what_does_not_exist_may_be_answered_with_500(em: SimulatedEnterpriseManager, client: Client) -> None:
    """Else a program would be tried with the documented 404 alone, and meet the 500 that was seen."""
    nobody = "00000000-0000-4000-8000-00000000000f"
    collections = (
        "jobs",
        "repositories",
        "backups",
        "backupServers",
        "backupSessions",
        "hierarchyRoots",
        "logonSessions",
    )
    for absent_resource in ("404", "500"):
        em.change_behaviour(absent_resource=absent_resource)
        for path in [f"{each}/{nobody}" for each in collections] + ["tasks/task-99", f"jobs/{nobody}?action=start"]:
            method = "POST" if "action" in path else "GET"
            assert client.request(method, path).status == int(absent_resource), path
        assert client.link(VENDOR_JOB_ID, nobody).status == int(absent_resource)
