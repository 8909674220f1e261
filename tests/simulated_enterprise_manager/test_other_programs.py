"""What programs that are written for a real Enterprise Manager ask for beside an unlink."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from tests.simulated_enterprise_manager.client import Client
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_REPOSITORY_UID,
    Behaviour,
    SimulatedEnterpriseManager,
)

SOURCE = "33fecc36-554b-437b-8bf8-3fdcb11866e7"
BACKUP = "3b1f2d4c-0c55-4a0e-8a52-1d0f9fd3f7a4"


def path_of(href: str) -> str:
    """The path of a link below the API."""
    return href.partition("/api/")[2]


def hrefs(content: Any, rel: str) -> list[str]:
    """The paths of the links of that relation."""
    return [path_of(link["href"]) for link in content["links"] if link["rel"] == rel]


@pytest.mark.parametrize("job_type", ["ImmediateBackupCopy", "BackupCopy", "Backup"])
def test_every_link_of_a_job_leads_somewhere(em: SimulatedEnterpriseManager, client: Client, job_type: str) -> None:
    """Else a script that follows the links of a job would meet a 404 that no real server gives."""
    job = em.add_job(name="Any", job_type=job_type, platform="CustomPlatform", links=[VENDOR_REPOSITORY_UID])
    content = client.get(f"jobs/{job}?format=Entity").content
    for rel in ("Up", "Alternate", "Down"):
        for path in hrefs(content, rel):
            assert client.get(path).status == 200, path
    assert content["platform"] == "CustomPlatform"
    assert "jobscheduleoptions" in content
    actions = {"Clone", "ToggleScheduleEnabled"} | ({"Start", "Stop"} if job_type == "Backup" else {"Sync"})
    assert {link["rel"] for link in content["links"]} >= actions


def test_the_elements_of_a_job_stand_in_the_order_of_the_vendors_example(em: SimulatedEnterpriseManager) -> None:
    """Else a client that was generated from the schema, which prescribes the order, could not read it."""
    with closing(Client(em, "xml")) as asking:
        body = asking.get(f"jobs/{VENDOR_JOB_ID}?format=Entity").body.decode()
    names = ["Links", "JobType", "Platform", "Description", "ScheduleConfigured", "ScheduleEnabled"]
    names += ["JobScheduleOptions", "JobInfo", "LinkedJobIncludes", "LinkedBackupIncludes"]
    places = [body.index(f"<{name}") for name in [*names, "LinkedBackupRepositoryIncludes"]]
    assert places == sorted(places)


def test_the_elements_of_a_run_stand_in_the_order_of_the_vendors_example(em: SimulatedEnterpriseManager) -> None:
    """Else a client that was generated from the schema could not read which jobs run."""
    em.set_running(VENDOR_JOB_ID)
    em.set_running(VENDOR_JOB_ID, running=False)
    with closing(Client(em, "xml")) as asking:
        body = asking.get("backupSessions?format=Entity").body.decode()
    names = ["Links", "JobUid", "JobName", "JobType", "CreationTimeUTC", "EndTimeUTC", "State", "Result", "Progress"]
    places = [body.index(f"<{name}>") for name in [*names, "IsRetry"]]
    assert places == sorted(places)


def test_a_job_is_started_stopped_switched_and_cloned(em: SimulatedEnterpriseManager, client: Client) -> None:
    """Else programs that run jobs could not be tried."""
    job = em.add_job(name="Nightly", job_type="Backup")
    em.change_behaviour(running_job="400")
    content = client.get(f"jobs/{job}?format=Entity").content
    for rel in ("Start", "Stop", "ToggleScheduleEnabled"):
        (path,) = hrefs(content, rel)
        assert client.end_of(client.request("POST", path))["result"]["success"] == "true"
    assert client.get(f"jobs/{job}?format=Entity").content["scheduleenabled"] == "false"
    body = json.dumps({"JobName": "Weekly"})
    assert client.end_of(client.request("POST", f"jobs/{job}?action=clone", data=body))["operation"] == "CloneJob"
    assert "Weekly" in [reference["name"] for reference in client.get("jobs").content]
    assert client.request("POST", f"jobs/{job}?action=clone").status == 400
    assert client.request("POST", f"jobs/{job}?action=explode").status == 400


def test_a_job_that_was_started_is_running_until_it_is_stopped(em: SimulatedEnterpriseManager, client: Client) -> None:
    """Else the start of a job would have no effect that a client could see."""
    em.change_behaviour(running_job="400")
    link = em.links(VENDOR_JOB_ID)[0].object_in_job_id
    client.end_of(client.request("POST", f"jobs/{VENDOR_JOB_ID}?action=sync"))
    assert client.unlink(VENDOR_JOB_ID, link).status == 400
    client.end_of(client.request("POST", f"jobs/{VENDOR_JOB_ID}?action=stop"))
    assert client.unlink(VENDOR_JOB_ID, link).status == 202


def test_linked_jobs_are_listed_added_and_removed(em: SimulatedEnterpriseManager, client: Client) -> None:
    """Else the sibling of an unlink could not be tried."""
    em.add_job(name="Source", id=SOURCE, job_type="Backup")
    job = em.add_job(name="Copy", links=[VENDOR_REPOSITORY_UID], linked_jobs=[SOURCE], linked_backups=[BACKUP])
    assert [backup["uid"] for backup in client.get("backups").content] == [f"urn:veeam:Backup:{BACKUP}"]
    (listed,) = client.get(f"jobs/{job}/linkedJobs").content
    assert listed["linkedjobuid"] == f"urn:veeam:Job:{SOURCE}"
    (path,) = hrefs(listed, "Delete")
    repository = em.links(job)[0].object_in_job_id
    assert client.request("DELETE", f"jobs/{job}/linkedJobs/{repository}").status == 404
    assert client.request("DELETE", f"jobs/{job}/linkedBackupRepositories/{listed['objectinjobid']}").status == 404
    assert client.end_of(client.request("DELETE", path))["operation"] == "UpdateJob"
    assert (em.linked_jobs(job), em.linked_backups(job)) == ([], [])
    assert [link.object_in_job_id for link in em.links(job)] == [repository]
    body = json.dumps({"LinkedJobUid": f"urn:veeam:Job:{SOURCE}"})
    client.end_of(client.request("POST", f"jobs/{job}/linkedJobs", data=body))
    assert [link.job_uid for link in em.linked_jobs(job)] == [SOURCE]
    assert client.request("POST", f"jobs/{job}/linkedJobs", data=json.dumps({"LinkedJobUid": BACKUP})).status == 404
    entity = client.get(f"jobs/{job}?format=Entity").content
    assert SOURCE in json.dumps(entity["jobinfo"])


def test_jobs_are_listed_as_entities_and_a_server_by_its_id(client: Client) -> None:
    """Else a script that lists jobs with their types, or the servers that they are on, would find nothing."""
    jobs = client.get("jobs?format=Entity").content
    assert [(job["name"], job["jobtype"]) for job in jobs] == [(VENDOR_JOB_NAME, "ImmediateBackupCopy")]
    (server,) = client.get("backupServers").content
    assert client.get(path_of(server["href"])).content["name"] == server["name"] == "vbr01.corp.example"
    assert client.get("hierarchyRoots").content[0]["uid"].startswith("urn:veeam:HierarchyRoot:")
    assert client.get(f"jobs/{VENDOR_JOB_ID}/includes").content == []
    assert client.get("backupServers/00000000-0000-4000-8000-000000000001").status == 404


PAGE = Path(__file__).parents[2] / "docs" / "simulated-enterprise-manager.md"


def test_the_page_names_every_switch_with_its_values() -> None:
    """Else nobody outside this project would find a switch, or know what it can be set to."""
    text = PAGE.read_text()
    hints = get_type_hints(Behaviour)
    named = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    assert set(named) == set(hints)
    for name, hint in hints.items():
        values = [value for value in get_args(hint) if get_origin(hint) is Literal]
        assert [value for value in values if f"`{value}`" not in named[name]] == [], name
