from __future__ import annotations

from xml.etree.ElementTree import Element

import defusedxml.ElementTree

from tests.simulated_enterprise_manager.client import Client
from tests.waiting import wait_until
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_UID,
    Behaviour,
    LinkedRepository,
    SimulatedEnterpriseManager,
)

#: The two bodies of the vendor's page on DELETE /jobs/{ID}/linkedBackupRepositories/{ID}.
ACCEPTED = """<Task xmlns="http://www.veeam.com/ent/v1.0" Type="Task" Href="https://localhost:9398/api/tasks/task-1">
 <Links>
   <Link Rel="Delete" Type="Task" Href="https://localhost:9398/api/tasks/task-1" />
 </Links>
 <TaskId>task-1</TaskId>
 <State>Running</State>
 <Operation>UpdateJob</Operation>
</Task>"""
FINISHED = ACCEPTED.replace(
    "<State>Running</State>", "<State>Finished</State>"
).replace("</Task>", '<Result Success="true"><Message>Ok</Message></Result></Task>')  # fmt: skip


def shape(element: Element) -> object:
    """An element without the white space between its children."""
    return element.tag, dict(element.attrib), (element.text or "").strip(), [shape(child) for child in element]


def test_the_vendors_example_is_answered_as_the_vendors_page_has_it(client: Client) -> None:
    """The one exchange that is documented word for word is simulated wrongly, and everything else rests on it."""
    client.em.behaviour.links_host = "localhost:9398"
    accepted = client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    client.states_of("task-1")
    finished = client.get("tasks/task-1")

    assert accepted.status == 202
    assert "Location" not in accepted.headers
    if client.format == "xml":
        assert shape(defusedxml.ElementTree.fromstring(accepted.body)) == shape(
            defusedxml.ElementTree.fromstring(ACCEPTED)
        )
        assert shape(defusedxml.ElementTree.fromstring(finished.body)) == shape(
            defusedxml.ElementTree.fromstring(FINISHED)
        )
    assert finished.content["result"] == {"success": "true", "message": "Ok"}
    assert client.em.links(VENDOR_JOB_ID) == []
    assert client.em.deletes_of(VENDOR_LINK_ID) == 1


def test_a_task_passes_operation_finished_before_it_is_finished(client: Client) -> None:
    """A client that takes the first successful result for the end is not found out."""
    client.em.behaviour.edits_held = True
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)
    running = client.task("task-1")
    assert client.em.links(VENDOR_JOB_ID) == [LinkedRepository(VENDOR_LINK_ID, VENDOR_REPOSITORY_UID)]
    client.em.behaviour.edits_held = False

    sights = [running, *client.states_of("task-1")]

    states = list(dict.fromkeys(sight["state"] for sight in sights))
    assert states == ["Running", "OperationFinished", "Finished"]
    assert "result" not in running
    between = next(sight for sight in sights if sight["state"] == "OperationFinished")
    assert between["result"] == {"success": "true", "message": "OperationFinished"}


def test_the_list_names_each_link_its_repository_and_its_delete(client: Client) -> None:
    """A client that guesses the second ID of the DELETE is not found out."""
    (link,) = client.get(f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories").content

    delete = next(one for one in link["links"] if one["rel"] == "Delete")
    assert link["objectinjobid"] == VENDOR_LINK_ID
    assert link["linkedbackuprepositoryuid"] == f"urn:veeam:Repository:{VENDOR_REPOSITORY_UID}"
    assert delete["href"].endswith(f"/api/jobs/{VENDOR_JOB_ID}/linkedBackupRepositories/{VENDOR_LINK_ID}")
    assert delete["href"].startswith("https://em01.corp.example:9398/")


def test_links_carry_the_host_that_was_asked_if_so_configured(client: Client) -> None:
    """A client is never tried on a server whose links do resolve."""
    client.em.behaviour.links_host = None

    (link,) = client.get(f"jobs/{VENDOR_JOB_ID}/linkedBackupRepositories").content

    assert all(one["href"].startswith(client.api) for one in link["links"])


def test_a_job_shows_its_type_its_links_and_its_linked_backups(client: Client) -> None:
    """The guard against losing linked backups looks for them where no server puts them."""
    backup = "58c917c7-7b7a-41ff-8676-226656c35c05"
    job = client.em.add_job(
        name="With backups", links=[VENDOR_REPOSITORY_UID], linked_backups=[backup], platform="Hyperv"
    )

    reference, entity = client.get(f"jobs/{job}").content, client.get(f"jobs/{job}?format=Entity").content

    info = entity["jobinfo"]["immediatebackupcopyjobinfo"]
    assert reference["uid"] == entity["uid"] == f"urn:veeam:Job:{job}"
    assert (entity["name"], entity["jobtype"], entity["platform"]) == ("With backups", "ImmediateBackupCopy", "Hyperv")
    assert [one["linkedbackupuid"] for one in info["linkedbackupincludes"]] == [f"urn:veeam:Backup:{backup}"]
    assert [one["objectinjobid"] for one in info["linkedbackuprepositoryincludes"]] == client.links(job)


def test_a_legacy_copy_job_has_no_list_of_repositories_in_its_entity(client: Client) -> None:
    """The other element that the vendor documents is never read."""
    job = client.em.add_job(name="Of 11a", job_type="BackupCopy", linked_backups=[VENDOR_LINK_ID])

    info = client.get(f"jobs/{job}?format=Entity").content["jobinfo"]["backupcopyjobinfo"]

    assert "linkedbackuprepositoryincludes" not in info
    assert len(info["linkedbackupincludes"]) == 1


def test_any_edit_drops_the_linked_backups(client: Client) -> None:
    """The damage that the guard is there for never happens in a test."""
    job = client.em.add_job(name="With backups", links=[VENDOR_REPOSITORY_UID], linked_backups=[VENDOR_JOB_ID])
    other = client.em.add_repository("Other")

    assert client.end_of(client.link(job, other))["result"]["success"] == "true"

    assert client.em.linked_backups(job) == []
    assert [link.repository_uid for link in client.em.links(job)] == [VENDOR_REPOSITORY_UID, other]
    entity = client.get(f"jobs/{job}?format=Entity").content
    assert entity["jobinfo"]["immediatebackupcopyjobinfo"]["linkedbackupincludes"] == []


def test_a_link_that_is_put_back_has_another_id(client: Client) -> None:
    """An old command that removes a link which somebody put back is not noticed."""
    client.end_of(client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID))

    by_hand = client.em.add_link(VENDOR_JOB_ID, VENDOR_REPOSITORY_UID)
    client.end_of(client.link(VENDOR_JOB_ID, VENDOR_REPOSITORY_UID))

    ids = client.links(VENDOR_JOB_ID)
    assert len({VENDOR_LINK_ID, *ids}) == 3
    assert ids[0] == by_hand
    client.em.remove_link(VENDOR_JOB_ID, by_hand)
    assert client.links(VENDOR_JOB_ID) == ids[1:]


def test_an_edit_goes_on_when_its_session_or_the_whole_server_has_gone(client: Client) -> None:
    """Take-over after a crash is tested on a server whose edits die with the client."""
    client.em.behaviour.edits_held = True
    client.unlink(VENDOR_JOB_ID, VENDOR_LINK_ID)

    client.em.restart()

    assert client.get("tasks/task-1").status == 401
    client.token = client.log_on().headers["X-RestSvcSessionId"]
    assert client.get("tasks/task-1").status == 404
    assert client.links(VENDOR_JOB_ID) == [VENDOR_LINK_ID]
    client.em.behaviour.edits_held = False
    wait_until(lambda: client.em.links(VENDOR_JOB_ID) == [])


def test_names_are_escaped_in_both_formats(client: Client) -> None:
    """A name with markup in it breaks the simulation in place of the client."""
    name = """Müller & Söhne <"Ost"> 'x' ]]> \\ 日本 \N{GRINNING FACE}"""
    job = client.em.add_job(name=name, backup_server="a<b>&c")

    entity = client.get(f"jobs/{job}?format=Entity").content

    assert entity["name"] == name
    assert entity["links"][0]["name"] == "a<b>&c"
    assert name in [one["name"] for one in client.get("jobs").content]


def test_characters_that_xml_cannot_hold_do_not_break_the_document(client: Client) -> None:
    """A control character in a name makes the simulated server answer with something that is no XML."""
    job = client.em.add_job(name="bell\x07 tab\t line\n")

    shown = client.get(f"jobs/{job}").content["name"]

    assert shown == ("bell\ufffd tab\t line\n" if client.format == "xml" else "bell\x07 tab\t line\n")


def test_without_accept_or_with_any_the_answer_is_xml(client: Client) -> None:
    """A client that forgets to ask for JSON is not found out."""
    kinds = {
        client.request("GET", "jobs", headers={"Accept": accept}).headers["Content-Type"]
        for accept in ("*/*", "", "text/html")
    }

    assert kinds == {"application/xml; charset=utf-8"}


def test_the_vendors_job_is_always_there() -> None:
    """The example that every document of the project uses fails in a fresh sandbox."""
    with SimulatedEnterpriseManager.start(behaviour=Behaviour(edit_seconds=1)) as em:
        assert em.links(VENDOR_JOB_ID) == [LinkedRepository(VENDOR_LINK_ID, VENDOR_REPOSITORY_UID)]
        assert VENDOR_JOB_NAME
