"""The estate that the sandbox starts with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import requests

from worker.cli.sandbox.estate import JOBS, REPOSITORIES, furnish
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID, SimulatedEnterpriseManager
from worker.sandbox.simulated_enterprise_manager.control import control_over_https

COPY_JOBS = [job for job in JOBS if job.job_type in {"ImmediateBackupCopy", "BackupCopy"}]


@pytest.fixture
def furnished() -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager with the estate."""
    with SimulatedEnterpriseManager.start() as enterprise_manager:
        furnish(enterprise_manager)
        yield enterprise_manager


def test_there_is_enough_to_try(furnished: SimulatedEnterpriseManager) -> None:
    """Somebody who tries the worker for an hour does not run out of links."""
    links = [link.object_in_job_id for job in COPY_JOBS for link in furnished.links(job.id)]
    assert len(COPY_JOBS) >= 12
    assert len(links) >= 50
    assert len(set(links)) == len(links)


def test_it_is_like_a_real_one(furnished: SimulatedEnterpriseManager) -> None:
    """Shared repositories, linked backups, an ambiguous name and other kinds of jobs: each refusal can be tried."""
    shared = Counter((job.backup_server, name) for job in JOBS for name in job.links)
    assert sum(1 for count in shared.values() if count >= 3) >= 5
    (at_risk,) = (job for job in JOBS if furnished.linked_backups(job.id))
    assert at_risk.name == "Copy to Vault"
    names = Counter(job.name for job in JOBS)
    assert [name for name, count in names.items() if count > 1] == ["Copy to Archive"]
    assert {job.backup_server for job in JOBS if job.name == "Copy to Archive"} == set(REPOSITORIES)
    assert {job.job_type for job in JOBS} == {"ImmediateBackupCopy", "BackupCopy", "Backup", "Replica"}


def test_the_vendors_example_is_part_of_it(furnished: SimulatedEnterpriseManager) -> None:
    """The IDs in the READMEs' examples lead to a job and a link."""
    (link,) = furnished.links(VENDOR_JOB_ID)
    assert link.object_in_job_id == VENDOR_LINK_ID


def test_a_link_is_put_back_by_the_names_that_a_person_knows(furnished: SimulatedEnterpriseManager) -> None:
    """One command makes the sandbox as it was, and a mistake in it changes nothing and is explained."""
    job = next(job for job in JOBS if job.name == "Copy to Dublin")
    furnished.remove_link(job.id, job.link_id("NAS Lyon"))
    again = furnished.put_back("Copy to Dublin", "NAS Lyon")
    assert furnished.links(job.id)[-1].object_in_job_id == again != job.link_id("NAS Lyon")
    before = furnished.links(job.id)
    for wrong, said in (
        (("Copy to Dublin", "NAS Lyon"), "NAS Lyon is linked to Copy to Dublin"),
        (("Copy to Nowhere", "NAS Lyon"), "There is no job Copy to Nowhere"),
        (("Copy to Dublin", "Scale-out 1"), "There is no repository Scale-out 1"),
        (("Copy to Archive", "Scale-out 6"), "There are several: job Copy to Archive on vbr01.*, vbr02"),
    ):
        with pytest.raises(LookupError, match=said):
            furnished.put_back(*wrong)
    assert furnished.links(job.id) == before
    archive = next(job for job in reversed(JOBS) if job.name == "Copy to Archive")
    furnished.put_back("Copy to Archive", "NAS Lyon", archive.backup_server)
    assert len(furnished.links(archive.id)) == len(archive.links) + 1


def test_control_over_https_is_verified_by_the_simulations_authority(furnished: SimulatedEnterpriseManager) -> None:
    """The control URL works with the CA file that the sandbox prints, and is gone when the sandbox is."""
    with control_over_https(furnished) as url:
        answer = requests.post(f"{url}about", json={}, timeout=30, verify=str(furnished.ca_file))
        assert answer.json()["result"]["url"] == furnished.url
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{url}about", json={}, timeout=30, verify=str(furnished.ca_file))
