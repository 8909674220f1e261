"""`doctor --assumptions --with-job --with-repository` finds what each switch changed, and puts the link back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from tests.enterprise_manager.virtual_clock import VirtualClock
from tests.waiting import until
from worker.clock import SystemClock
from worker.doctor.assumptions import examine
from worker.doctor.checks import Check, Result
from worker.doctor.laboratory import LaboratoryLink, RefusedError, TimeLimits
from worker.doctor.trial import TrialOrder
from worker.doctor.trial_checks import SHOWN_BY_A_TRIAL
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager
from worker.settings import EnterpriseManagerSettings

JOB, REPOSITORY = "Laboratory", "Laboratory Repository"

OTHER, REPOSITORY_OF_OTHERS = (f"00000000-0000-4000-8000-00000000000{number}" for number in (2, 1))

#: By a clock that the trial and the simulated one share.
BRIEF = TimeLimits(look=0.05, edit=5, task=2, links=1.2, kept=1.5, restore=10)

#: By the system's clock, in tests of faults and interruptions.
QUICK = replace(BRIEF, edit=1, links=0.4, kept=0.1, restore=60)

SLOW = {"edit_seconds": 0.3}

#: Each value of a switch that a trial can see, and the checks that then differ.
SHOWN: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    (
        {"link_goes_at": "finished", "operation_finished_seconds": 0.2, "operation_finished_looks": 0},
        {"link_goes_with_the_operation"},
    ),
    ({"list_lag_seconds": 1}, {"list_in_time"}),
    ({"edits_of_one_job": "overlapping", **SLOW}, {"edits_serialised"}),
    ({"edits_of_one_job": "second_fails", **SLOW}, {"edits_serialised"}),
    ({"absent_link": "task_fails"}, {"absent_link_404"}),
    ({"absent_link": "task_succeeds"}, {"absent_link_404"}),
    ({"only_link": "400"}, {"only_link_deleted"}),
    ({"only_link": "task_fails"}, {"only_link_deleted"}),
    ({"unknown_state": "Collecting", "unknown_state_looks": 2}, {"task_states"}),
    ({"unknown_state": "Waiting for Laboratory"}, {"task_states"}),
    ({"running_result": "null"}, {"running_task_without_result"}),
    *(
        ({"finished_result": shown}, {"finished_task_with_result"})
        for shown in ("without_message", "empty_message", "null_message", "absent", "null")
    ),
    ({"absent_link": "task_fails", "failed_result_asks": "confirmation"}, {"absent_link_404", "failed_task_says_why"}),
    ({"absent_link": "task_fails", "failed_result_asks": "credentials"}, {"absent_link_404", "failed_task_says_why"}),
    ({"finished_task_kept_seconds": 1}, {"finished_task_kept"}),
    ({"task_delete": "stops_and_fails", **SLOW}, {"task_delete_forgets"}),
    ({"task_delete": "only_forgets", **SLOW}, {"task_delete_stops"}),
    ({"location_header": "always"}, {"location_of_post_only"}),
    ({"location_header": "never"}, {"location_of_post_only"}),
    ({"accepted_body": "empty"}, {"delete_answers_task"}),
    ({"session_cap": 1, "beyond_session_cap": "503"}, {"several_sessions"}),
    ({"session_cap": 1, "beyond_session_cap": "403"}, {"several_sessions"}),
    ({"session_cap": 1, "beyond_session_cap": "oldest_ends"}, {"several_sessions"}),
    ({"session_idle_seconds": 1}, {"idle_session_kept"}),
    ({"success_messages": ["OK"]}, {"message_of_success"}),
    ({"success_messages": ["Ok", "Laboratory was changed"]}, {"message_of_success"}),
]

#: Switches that show only in combination, on a job that runs or whose task fails: the result of one check.
ONE_RESULT: list[tuple[dict[str, Any], str, Result]] = [
    ({"absent_link": "task_fails"}, "failing_task_seems_successful", Result.CONFIRMED),
    (
        {"absent_link": "task_fails", "failing_task_seems_successful": False},
        "failing_task_seems_successful",
        Result.NOT_SHOWN,
    ),
    ({}, "failing_task_seems_successful", Result.NOT_SHOWN),
]

#: What becomes of an edit of a job that runs, as far as its backup sessions say so.
OF_A_RUNNING_JOB: list[tuple[str, Result, str]] = [
    ("accepted", Result.CONFIRMED, "before and after"),
    ("400", Result.DIFFERENT, "status 400"),
    ("task_fails", Result.DIFFERENT, "its task fails"),
    ("waits", Result.DIFFERENT, "did not end"),
]


#: How many trials are made at once: each of them mostly waits.
AT_ONCE = 3

_Case = TypeVar("_Case")


def in_groups(cases: Sequence[_Case]) -> list[list[_Case]]:
    """The cases, in groups that are tried at once."""
    return [list(cases[first : first + AT_ONCE]) for first in range(0, len(cases), AT_ONCE)]


@pytest.fixture
def em(certificates: Path) -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager."""
    with SimulatedEnterpriseManager.start(folder=certificates) as simulated:
        yield simulated


@pytest.fixture
def job(em: SimulatedEnterpriseManager) -> str:
    """The laboratory's job with its link."""
    return em.add_job(name=JOB, links=[em.add_repository(REPOSITORY)])


class Ends:
    """What the trial said of its end."""

    def __init__(self) -> None:
        self.ends: list[tuple[bool, int]] = []

    def __call__(self, restored: bool, edits: int) -> None:
        """Note one end."""
        self.ends.append((restored, edits))


async def tried(
    em: SimulatedEnterpriseManager,
    reported: Ends,
    job: str = JOB,
    repository: str = REPOSITORY,
    limits: TimeLimits | None = None,
    clock: SystemClock | None = None,
    request_seconds: float = 20,
    spoken: str = "xml",
) -> dict[str, Check]:
    """The checks by name; each is there once."""
    server = EnterpriseManagerSettings(
        url=em.url,
        username=em.username,
        password=SecretStr(em.password),
        ca_file=em.ca_file,
        max_requests=4,
        request_timeout_seconds=request_seconds,
        format=spoken,
    )
    order = TrialOrder(LaboratoryLink(job, repository), reported, limits or (QUICK if clock is None else BRIEF))
    return {check.assumption.value: check async for check in examine("lab", server, clock or SystemClock(), order)}


def edits(em: SimulatedEnterpriseManager) -> list[str]:
    """The method and path of each request that could change a job."""
    return [
        f"{request.method} {request.path}"
        for request in em.requests
        if request.method != "GET" and "/jobs/" in request.path
    ]


def different(checks: dict[str, Check]) -> set[str]:
    """The names of what a trial found different."""
    of_trial = {assumption.value for assumption in SHOWN_BY_A_TRIAL}
    return {name for name, check in checks.items() if check.result is Result.DIFFERENT and name in of_trial}


@pytest.mark.parametrize(
    "group",
    in_groups(SHOWN),
    ids=lambda group: " ".join(next(iter(case if isinstance(case, dict) else case[0]), "default") for case in group),
)
@pytest.mark.parametrize("spoken", ["xml", pytest.param("json", marks=pytest.mark.slow)])
async def test_what_a_switch_changed_is_found_and_the_link_is_put_back(
    certificates: Path, group: list[tuple[dict[str, Any], set[str]]], spoken: str
) -> None:
    """Else a user would report a difference that does not exist, miss one, or lose a link of the laboratory."""
    await asyncio.gather(*(_found_and_put_back(certificates, *case, spoken) for case in group))


async def _found_and_put_back(certificates: Path, switches: dict[str, Any], expected: set[str], spoken: str) -> None:
    with laboratory(certificates, switches) as (em, job, clock):
        reported, of_other = Ends(), em.links(OTHER)
        (link,) = em.links(job)
        checks = await tried(em, reported, clock=clock, spoken=spoken)
        assert different(checks) == expected, (switches, checks)
        assert all(check.seen for check in checks.values() if check.result is Result.DIFFERENT)
        assert not any("Laboratory" in check.seen for check in checks.values())
        assert [each.repository_uid for each in em.links(job)] == [link.repository_uid], switches
        assert em.links(OTHER) == of_other
        assert [restored for restored, _ in reported.ends] == [True]
        assert em.sessions == []


@contextmanager
def laboratory(
    certificates: Path, switches: dict[str, Any], clock: VirtualClock | None = None
) -> Iterator[tuple[SimulatedEnterpriseManager, str, VirtualClock]]:
    """A simulated Enterprise Manager, its job with one link, and the clock that it shares with the trial."""
    clock = clock or VirtualClock()
    with SimulatedEnterpriseManager.start(folder=certificates, clock=clock.monotonic) as em:
        job = em.add_job(name=JOB, links=[em.add_repository(REPOSITORY)])
        em.add_job(name="Other", id=OTHER, links=[REPOSITORY_OF_OTHERS])
        em.change_behaviour(**switches)
        yield em, job, clock


@pytest.mark.parametrize(("switches", "name", "result"), ONE_RESULT)
async def test_what_shows_only_on_a_failing_task_is_found_there(
    certificates: Path, switches: dict[str, Any], name: str, result: Result
) -> None:
    """Else it would be called confirmed, or different, without having been seen."""
    with laboratory(certificates, switches) as (em, _, clock):
        checks = await tried(em, Ends(), clock=clock)
    assert (checks[name].result, bool(checks[name].seen)) == (result, result is Result.NOT_SHOWN), checks[name]


@pytest.mark.parametrize("links", [1, 2])
@pytest.mark.parametrize(("running_job", "result", "seen"), OF_A_RUNNING_JOB)
async def test_the_edit_of_a_running_job_is_told_by_its_backup_sessions(
    certificates: Path, running_job: str, result: Result, seen: str, links: int
) -> None:
    """Else an answer would be put down to the run of a job that does not run, or to its only link."""
    with laboratory(certificates, {"running_job": running_job}) as (em, job, clock):
        if links > 1:
            em.add_link(job, em.add_repository("Another"))
        em.set_running(job)
        reported = Ends()
        checks = await tried(em, reported, clock=clock)
        found = checks["running_job_edited"]
        # A job's only link may be the reason, too: then neither is shown.
        refused = links == 1 and running_job in {"400", "task_fails"}
        assert (found.result, seen in found.seen) == (Result.NOT_SHOWN if refused else result, True), found
        assert different(checks) == ({"running_job_edited"} if found.result is Result.DIFFERENT else set()), checks
        assert len(em.links(job)) == links
        # While the edit waits for the end of the run, the link is not safe, and nothing else is said.
        assert [restored for restored, _ in reported.ends] == [running_job != "waits"]


class MeddlingClock(VirtualClock):
    """Lets somebody do something in a pause, once, as soon as a condition holds."""

    def __init__(self) -> None:
        super().__init__()
        self.condition: Callable[[], bool] = lambda: False
        self.deed: Callable[[], Any] = lambda: None

    async def sleep(self, seconds: float) -> None:
        """As above."""
        if self.condition():
            self.condition = lambda: False
            self.deed()
        await super().sleep(seconds)


async def test_a_backup_that_is_linked_meanwhile_is_not_put_at_risk(certificates: Path) -> None:
    """Else a trial that began without risk would go on to drop what somebody has linked since."""
    clock = MeddlingClock()
    with laboratory(certificates, {}, clock) as (em, job, _):
        clock.condition = lambda: any(edit.startswith("POST") for edit in edits(em)) and bool(em.links(job))
        clock.deed = lambda: em.add_job(name=JOB, id=job, links=em.links(job), linked_backups=[OTHER])
        reported = Ends()
        checks = await tried(em, reported, clock=clock)
        assert (len(em.links(job)), len(em.linked_backups(job))) == (1, 1)
        assert [restored for restored, _ in reported.ends] == [True]
        assert checks["absent_link_404"].result is Result.CONFIRMED
        assert (checks["edits_serialised"].result, "linked" in checks["edits_serialised"].seen) == (
            Result.NOT_SHOWN,
            True,
        )


async def test_an_idle_session_is_confirmed_only_after_its_time(certificates: Path) -> None:
    """Else a trial of a minute would confirm that a session lives for fourteen, or a longer one call fifteen wrong."""
    patient = replace(BRIEF, look=10, task=60, kept=900)
    for limits, idle, result in (
        (BRIEF, 900, Result.NOT_SHOWN),
        (patient, 900, Result.CONFIRMED),
        (patient, 800, Result.DIFFERENT),
    ):
        with laboratory(certificates, {"session_idle_seconds": idle}) as (em, _, clock):
            checks = await tried(em, Ends(), limits=limits, clock=clock)
        assert checks["idle_session_kept"].result is result, checks


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"job": "Nobody"}, "no job is named"),
        ({"repository": "Nobody"}, "0 links"),
        ({"repository": "Branch Office Repository"}, "0 links"),
        ({"job": "Twice"}, "2 links"),
        ({"job": "Backup"}, "no backup copy job"),
        ({"job": "At risk"}, "1 linked backups"),
        ({"job": "Same"}, "2 jobs are named"),
    ],
)
async def test_a_link_that_may_not_be_removed_is_refused_before_any_change(
    em: SimulatedEnterpriseManager, named: dict[str, Any], why: str
) -> None:
    """Else a slip of the keyboard would edit a production job, or drop its linked backups."""
    uid = em.add_repository(REPOSITORY)
    em.add_job(name=JOB, links=[uid])
    em.add_job(name="Twice", links=[uid, uid])
    em.add_job(name="Backup", job_type="Backup")
    em.add_job(name="At risk", links=[uid], linked_backups=[REPOSITORY_OF_OTHERS])
    em.add_job(name="Same", links=[uid])
    em.add_job(name="Same", links=[uid])
    reported = Ends()
    with pytest.raises(RefusedError, match=why):
        await tried(em, reported, **named)
    assert (edits(em), reported.ends, em.sessions) == ([], [], [])


async def test_job_and_repository_may_be_named_by_their_ids(em: SimulatedEnterpriseManager, job: str) -> None:
    """Else a laboratory whose names are not unique could not be used."""
    (link,) = em.links(job)
    checks = await tried(em, Ends(), job, f"urn:veeam:Repository:{link.repository_uid}")
    assert checks["delete_answers_task"].result is Result.CONFIRMED


async def test_an_account_that_may_not_edit_jobs_changes_nothing(em: SimulatedEnterpriseManager, job: str) -> None:
    """Else its refusal would be reported as a difference of the server."""
    em.change_behaviour(role="Portal User")
    before, reported = em.links(job), Ends()
    checks = await tried(em, reported)
    assert different(checks) == set()
    assert checks["delete_answers_task"].result is Result.NOT_WITH_ACCOUNT
    assert em.links(job) == before
    assert [restored for restored, _ in reported.ends] == [True]


@pytest.mark.parametrize("what", ["at the first request that could change a job", "after the removal", "at the POST"])
async def test_an_interruption_puts_the_link_back(em: SimulatedEnterpriseManager, job: str, what: str) -> None:
    """Else Ctrl-C would leave the laboratory without its link."""
    reached: dict[str, Callable[[], bool]] = {
        "at the first request that could change a job": lambda: bool(edits(em)),
        "after the removal": lambda: not em.links(job),
        "at the POST": lambda: any(edit.startswith("POST") for edit in edits(em)),
    }
    (link,) = em.links(job)
    em.change_behaviour(edit_seconds=0.1)
    reported = Ends()
    trial = asyncio.create_task(tried(em, reported))
    await until(reached[what])
    for _ in range(2):
        trial.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert [each.repository_uid for each in em.links(job)] == [link.repository_uid]
    assert [restored for restored, _ in reported.ends] == [True]
    assert em.sessions == []


LOST = [
    Fault("acts_and_drops_connection", "DELETE", "/linkedBackupRepositories/"),
    Fault("acts_and_never_answers", "DELETE", "/linkedBackupRepositories/"),
    Fault("acts_and_drops_connection", "POST", "/linkedBackupRepositories"),
    Fault("status", "POST", "/linkedBackupRepositories", times=3, status=503),
    Fault("status", "POST", "/linkedBackupRepositories", times=2, status=400),
    Fault("drops_connection", "GET", "/tasks/", times=5),
    Fault("status", "GET", "{job}/linkedBackupRepositories", times=8, after=1, status=500),
    Fault("task_fails", "POST", "/linkedBackupRepositories"),
    Fault("task_fails", "DELETE", "/linkedBackupRepositories/"),
]


@pytest.mark.parametrize("faults", in_groups(LOST), ids=[f"from {fault.kind}" for fault, *_ in in_groups(LOST)])
async def test_a_fault_does_not_cost_the_link(certificates: Path, faults: list[Fault]) -> None:
    """Else a lost answer in the middle of a trial would leave the laboratory without its link, or with two."""
    await asyncio.gather(*(_put_back_after(certificates, fault) for fault in faults))


async def _put_back_after(certificates: Path, fault: Fault) -> None:
    with SimulatedEnterpriseManager.start(folder=certificates) as em:
        repository = em.add_repository(REPOSITORY)
        job = em.add_job(name=JOB, links=[repository])
        em.inject(replace(fault, path=fault.path.format(job=job)))
        reported = Ends()
        await tried(em, reported, request_seconds=1)
        assert [each.repository_uid for each in em.links(job)] == [repository], fault
        assert [restored for restored, _ in reported.ends] == [True]


async def test_a_link_that_cannot_be_put_back_is_said_to_be_missing(em: SimulatedEnterpriseManager, job: str) -> None:
    """Else nobody would put it back at the console."""
    em.inject(Fault("status", "POST", f"/jobs/{job}/", times=None, status=400))
    reported = Ends()
    checks = await tried(em, reported, limits=replace(QUICK, restore=0.5))
    assert em.links(job) == []
    assert [restored for restored, _ in reported.ends] == [False]
    assert checks["edits_serialised"].result is Result.NOT_SHOWN
