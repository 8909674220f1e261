"""`doctor --assumptions --record`: what it keeps of a server, what it does not, and that it can be replayed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from tests.enterprise_manager.test_assumptions import BACKUP
from tests.enterprise_manager.test_trial import BRIEF, in_groups
from tests.enterprise_manager.virtual_clock import VirtualClock
from worker.doctor.assumptions import examine
from worker.doctor.checks import Check, Result
from worker.doctor.laboratory import LaboratoryLink
from worker.doctor.recording import Recording, netloc_of
from worker.doctor.trial import TrialOrder
from worker.enterprise_manager import paths
from worker.enterprise_manager.logon import TOKEN_HEADER
from worker.enterprise_manager.transport import Answer, Request
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_REPOSITORY_UID,
    SimulatedEnterpriseManager,
)
from worker.sandbox.simulated_enterprise_manager.replay import RecordingInvalidError, Replay
from worker.settings import EnterpriseManagerSettings

REPOSITORY = "7d6c1f0e-5b0a-4c1e-9a57-2b5a6f3d9c11"

LABORATORY = LaboratoryLink("Copy to the basement", "Basement & Co.")


@contextmanager
def installation(certificates: Path, clock: VirtualClock) -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager with a job of each kind, and that of a laboratory."""
    with SimulatedEnterpriseManager.start(folder=certificates, clock=clock.monotonic) as simulated:
        simulated.add_job(name="Backup of Payroll", job_type="Backup")
        simulated.add_job(name="Legacy", job_type="BackupCopy", links=[REPOSITORY])
        simulated.add_job(name="Copy <of> Payroll", links=[REPOSITORY], linked_backups=[BACKUP])
        simulated.add_job(name=LABORATORY.job, links=[simulated.add_repository(LABORATORY.repository)])
        yield simulated


@pytest.fixture
def clock() -> VirtualClock:
    """The clock of the doctor and of the simulated one."""
    return VirtualClock()


@pytest.fixture
def em(certificates: Path, clock: VirtualClock) -> Iterator[SimulatedEnterpriseManager]:
    """The same."""
    with installation(certificates, clock) as simulated:
        yield simulated


def settings_of(em: SimulatedEnterpriseManager, spoken: str) -> EnterpriseManagerSettings:
    """The settings with which a client uses it."""
    return EnterpriseManagerSettings(
        url=em.url,
        username=em.username,
        password=SecretStr(em.password),
        ca_file=em.ca_file,
        max_requests=8,
        format=spoken,
    )


async def examined(
    settings: EnterpriseManagerSettings,
    clock: VirtualClock,
    link: LaboratoryLink | None = None,
    recording: Recording | None = None,
) -> dict[str, Check]:
    """The checks by name."""
    order = None if link is None else TrialOrder(link, lambda _restored, _edits: None, BRIEF)
    checks = examine("lab", settings, clock, order, recording)
    return {check.assumption.value: check async for check in checks}


def results(checks: dict[str, Check]) -> dict[str, tuple[Result, str]]:
    """What was found, and how that was seen."""
    return {name: (check.result, check.seen) for name, check in checks.items()}


#: Groups of switches of which none hides what another one changed.
WITHOUT_A_TRIAL: list[dict[str, Any]] = [
    {"compression": True, "page_size": 1, "names_by_case": True, "links_host": None, "absent_resource": "500"},
    {"json_keys": "camel", "json_byte_order_mark": True, "json_links_name": "", "json_empty_list": "null"},
    {"json_query_lists": "flat", "links_of_other_jobs": "404", "links_of_legacy_copy_jobs": "empty"},
    {"links_in_job_entity": "left_out", "query": "501"},
    {"role": "Restore Operator", "requests_at_once": 2, "latency_seconds": 0.1},
]

WITH_A_TRIAL: list[dict[str, Any]] = [
    {},
    {"list_lag_seconds": 0.2},
    {"edits_of_one_job": "overlapping", "edit_seconds": 0.3, "location_header": "always"},
    {"absent_link": "task_fails", "failed_result_asks": "confirmation", "finished_result": "null"},
    {"task_delete": "only_forgets", "edit_seconds": 0.3, "unknown_state": "Collecting"},
    {"session_cap": 1, "beyond_session_cap": "oldest_ends", "running_result": "null"},
    {"only_link": "400"},
]


@pytest.mark.parametrize(
    "group",
    in_groups(WITHOUT_A_TRIAL),
    ids=lambda group: " ".join(next(iter(case if isinstance(case, dict) else case[0]), "default") for case in group),
)
async def test_against_a_recording_the_answer_is_the_recorded_one(
    certificates: Path, tmp_path: Path, group: list[dict[str, Any]]
) -> None:
    """Else a user's finding could not become a test."""
    await asyncio.gather(*(_as_recorded(certificates, tmp_path, switches, None) for switches in group))


@pytest.mark.parametrize(
    "group",
    in_groups(WITH_A_TRIAL),
    ids=lambda group: " ".join(next(iter(case if isinstance(case, dict) else case[0]), "default") for case in group),
)
async def test_against_the_recording_of_a_trial_the_answer_is_the_recorded_one(
    certificates: Path, tmp_path: Path, group: list[dict[str, Any]]
) -> None:
    """Else what a user found on a laboratory could not become a test."""
    await asyncio.gather(*(_as_recorded(certificates, tmp_path, switches, LABORATORY) for switches in group))


async def _as_recorded(certificates: Path, folder: Path, switches: dict[str, Any], link: LaboratoryLink | None) -> None:
    spoken = "json" if any(name.startswith("json") for name in switches) else "xml"
    file = folder / f"{len(str(switches))}-{'-'.join(switches)[:60]}.json"
    clock = VirtualClock()
    with installation(certificates, clock) as em:
        em.change_behaviour(**switches)
        recording = Recording()
        recorded = await examined(settings_of(em, spoken), clock, link, recording)
        recording.write(file, netloc_of(settings_of(em, spoken)), link, recorded.values(), keep_names=False)
    named = json.loads(file.read_text()).get("trial")
    with SimulatedEnterpriseManager.start(folder=certificates, replay=file) as replayed:
        again = await examined(
            settings_of(replayed, spoken), VirtualClock(), LaboratoryLink(**named) if named else None
        )
    assert results(again) == results(recorded), switches


#: Names that look like something else, or cannot be written as they are.
ODD_NAMES = [
    "Job",
    "Refs",
    "2024",
    "true",
    "Running",
    "Zahlungsläufe",
    "給与",
    'Pay "roll"',
    "a;b==c",
    "<Job/> & co.",
    "10.20.30.40",
]


@pytest.mark.parametrize("spoken", ["xml", pytest.param("json", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_are_replaced_and_the_answer_stays_the_recorded_one(
    certificates: Path, tmp_path: Path, name: str, spoken: str
) -> None:
    """Else a recording would leak, or could not be replayed, only because of what somebody has called a job."""
    clock, file, link = VirtualClock(), tmp_path / "recording.json", LaboratoryLink(f"{name} copy", f"{name} shelf")
    with SimulatedEnterpriseManager.start(folder=certificates, clock=clock.monotonic) as em:
        em.add_repository(name, VENDOR_REPOSITORY_UID, backup_server=f"{name}.example")
        em.add_job(name=name, id=VENDOR_JOB_ID, links=[VENDOR_REPOSITORY_UID], backup_server=f"{name}.example")
        em.add_job(name=link.job, links=[em.add_repository(link.repository)])
        recording = Recording()
        recorded = await examined(settings_of(em, spoken), clock, link, recording)
        recording.write(file, netloc_of(settings_of(em, spoken)), link, recorded.values(), keep_names=False)
    content = json.loads(file.read_text())
    text = json.dumps(content["exchanges"], ensure_ascii=False) + "".join(content["bodies"])
    assert [
        each for each in (f"{name} copy", f"{name} shelf", f"{name}.example", f'Name="{name}"') if each in text
    ] == []
    with SimulatedEnterpriseManager.start(folder=certificates, replay=file) as replayed:
        again = await examined(settings_of(replayed, spoken), VirtualClock(), LaboratoryLink(**content["trial"]))
    assert results(again) == results(recorded)
    assert recorded["edits_serialised"].result is not Result.NEEDS_CHANGE


@pytest.mark.parametrize("spoken", ["xml", "json"])
async def test_a_recording_tells_nothing_of_the_installation(
    em: SimulatedEnterpriseManager, clock: VirtualClock, tmp_path: Path, spoken: str
) -> None:
    """Else nobody could attach it to an issue."""
    em.change_behaviour(absent_link="task_fails")
    settings, recording, file = settings_of(em, spoken), Recording(), tmp_path / "recording.json"
    checks = await examined(settings, clock, LABORATORY, recording)
    recording.write(file, netloc_of(settings), LABORATORY, checks.values(), keep_names=False)
    text = file.read_text()
    for secret in (
        *("Payroll", "basement", "Basement", "Legacy", "Branch", "corp.example", "CORP", "localhost"),
        *("simulated", "Basic", REPOSITORY, BACKUP, str(urlsplit(em.url).port), "administrator", "Cannot find"),
    ):
        assert secret not in text, secret
    for kept in ("ImmediateBackupCopy", "UpdateJob", "OperationFinished", "linkedBackupRepositories", "task-1"):
        assert kept in text, kept
    assert len(text) < 200_000


async def test_names_are_kept_if_asked_for_but_no_secrets(
    em: SimulatedEnterpriseManager, clock: VirtualClock, tmp_path: Path
) -> None:
    """Else a user who may show names could not help with a finding that depends on them."""
    settings, recording, file = settings_of(em, "xml"), Recording(), tmp_path / "recording.json"
    checks = await examined(settings, clock, None, recording)
    recording.write(file, netloc_of(settings), None, checks.values(), keep_names=True)
    text = file.read_text()
    assert "Payroll" in text
    assert "em01.corp.example" in text
    assert settings.basic_credentials not in text
    assert '"X-RestSvcSessionId"' not in text


def test_what_a_proxy_writes_into_headers_and_pages_is_replaced(tmp_path: Path) -> None:
    """Else a proxy's error page, or an odd header, would tell an address or even a token."""
    recording, file = Recording(), tmp_path / "recording.json"
    credentials = base64.b64encode(b"CORP\\anna:s3cr3t").decode()
    headers = {
        "Content-Type": "text/html; server=nas01",
        "Location": "/api/jobs/Payroll?host=nas01",
        "Retry-After": "at nas01",
    }
    page = f"<html><body token='the-token'>nas01: {credentials} s3cr3t</body></html>".encode()
    asked = Request(
        "GET", "/api/jobs/Payroll", {"Payroll": "nas01"}, {"Accept": "application/xml", TOKEN_HEADER: "the-token"}
    )
    logon = Request(
        "POST", paths.LOGON, {"v": "latest"}, {"Accept": "application/xml", "Authorization": f"Basic {credentials}"}
    )
    recording.add(logon, Answer(201, {TOKEN_HEADER: "the-token", "Set-Cookie": "X-RestSvcSessionId=the-token"}, b""))
    recording.add(asked, Answer(503, headers, page))
    recording.add(asked, None, "no answer")
    for keep_names in (False, True):
        recording.write(file, "em:9398", None, [], keep_names=keep_names)
        text = file.read_text()
        file.unlink()
        for secret in ("the-token", "s3cr3t", credentials):
            assert secret not in text, secret
        assert ("nas01" in text, "Payroll" in text) == (keep_names, keep_names)
        assert len(json.loads(text)["exchanges"]) == 3


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"recording": 2}', '{"recording": 1, "exchanges": [], "bodies": []}']
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: str) -> None:
    """Else the simulated one would answer everything with 404, and the user would look for the reason elsewhere."""
    file = tmp_path / "recording.json"
    file.write_text(content)
    with pytest.raises(RecordingInvalidError, match="is no recording"):
        Replay.of(file)


RECORDINGS = sorted((Path(__file__).parents[1] / "recordings").glob("*.json"))


def contents() -> list[dict[str, Any]]:
    """The recordings that say what was found."""
    read = [json.loads(file.read_text()) | {"file": file} for file in RECORDINGS]
    return [content for content in read if "results" in content]


@pytest.mark.parametrize("content", contents(), ids=lambda content: content["file"].stem)
async def test_a_contributed_recording_gives_what_was_found(certificates: Path, content: dict[str, Any]) -> None:
    """Else a change of the doctor would find something else on a real server than its user did."""
    link = LaboratoryLink(**content["trial"]) if "trial" in content else None
    spoken = next(exchange["accept"] for exchange in content["exchanges"] if exchange["method"] == "POST")
    with SimulatedEnterpriseManager.start(folder=certificates, replay=content["file"]) as replayed:
        checks = await examined(settings_of(replayed, spoken), VirtualClock(), link)
    # A check that is newer than the recording asks for what was not recorded.
    assert {name: checks[name].result.value for name in content["results"]} == content["results"]
