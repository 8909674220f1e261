"""`unlink-worker links`: what can be unlinked, and its output as input of `submit`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests import programs
from tests.end_to_end.world import World
from tests.preloaded.preloaded import run_program
from tests.terminal import Terminal
from worker.sandbox.processes.worker_process import surroundings
from worker.sandbox.simulated_enterprise_manager import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_NAME,
    Fault,
)

PROGRAM = (sys.executable, "-m", "worker")
NO_UID = "d1b85018-2769-45be-89bc-000000000000"


def links(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command's end."""
    return run_program("links", *arguments, settings=world.environment)


def submit(world: World, commands: str) -> subprocess.CompletedProcess[str]:
    """The end of a submit of these commands, by its standard input."""
    command = [sys.executable, "-m", "worker", "submit", "--wait", "--file", "-"]
    return programs.run(command, input=commands, env=surroundings() | world.environment)


def test_all_links_to_a_repository_are_unlinked_by_what_is_printed(world: World) -> None:
    """An administrator who retires a repository would have to find each job by hand, and to write each command."""
    em = world.enterprise_manager
    kept = em.add_repository(name="Kept")
    retired = em.add_repository(name="Retired, really")
    jobs = [em.add_job(name=f"Copy {number}", links=[retired, kept], linked_backups=[]) for number in range(3)]
    em.add_job(name="No copy job", job_type="Backup")
    listed = links(world, "--repository", "Retired, really", "--output", "csv")
    assert listed.returncode == 0, listed.stderr
    rows = list(csv.DictReader(listed.stdout.splitlines()))
    assert [row["label.job"] for row in rows] == ["Copy 0", "Copy 1", "Copy 2"]
    assert {row["label.repository"] for row in rows} == {"Retired, really"}
    world.start_worker()
    submitted = submit(world, "\ufeff" + listed.stdout)  # Windows puts a byte-order mark before it
    assert submitted.returncode == 0, submitted.stderr
    (batch,) = [line.split()[1] for line in submitted.stdout.splitlines() if line.startswith("batch ")]
    found = run_program("list", "--batch", batch, "--output", "csv", settings=world.environment)
    assert len(list(csv.DictReader(found.stdout.splitlines()))) == 3
    for job in jobs:
        assert [link.repository_uid for link in em.links(job)] == [kept]
    nothing_left = submit(world, links(world, "--repository", "Retired, really", "--output", "csv").stdout)
    assert (nothing_left.returncode, "there is nothing to submit" in nothing_left.stderr) == (0, True)


def test_a_jobs_links_are_listed_with_what_an_unlink_drops(world: World) -> None:
    """Whoever is to unlink a repository would not know its link's ID, nor that linked backups go with it."""
    table = links(world, "--job", VENDOR_JOB_NAME)
    assert table.returncode == 0, table.stderr
    assert VENDOR_LINK_ID in table.stdout
    assert set(f"{VENDOR_REPOSITORY_NAME} {VENDOR_JOB_NAME}".split()) <= set(table.stdout.split())
    by_id = links(world, "--job", VENDOR_JOB_ID, "--output", "json")
    assert json.loads(by_id.stdout.splitlines()[0])["repository"] == {"link_id": VENDOR_LINK_ID}


def test_a_narrow_terminal_shows_job_repository_and_link_whole(world: World) -> None:
    """A person would consent to the plan of `offboard`, which is printed alike, without seeing its jobs."""
    environment = surroundings() | world.environment | {"TERM": "xterm-256color", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)  # it would hold instead of the width
    for columns, shown in ((40, f"{VENDOR_JOB_NAME} / {VENDOR_REPOSITORY_NAME}"), (160, VENDOR_JOB_NAME)):
        terminal = Terminal([*PROGRAM, "links", "--job", VENDOR_JOB_ID], environment, columns=columns)
        terminal.until(VENDOR_LINK_ID)
        assert terminal.wait() == 0
        assert shown in terminal.seen
        assert ("linked backups at risk" in terminal.seen) == (columns == 160), terminal.seen


def test_no_cell_is_a_formula_and_what_is_submitted_has_the_names(world: World) -> None:
    """Who may name a job could run a program on the machine of whoever opens the list in a spreadsheet."""
    em = world.enterprise_manager
    em.add_job(name="=HYPERLINK(1)", links=[em.add_repository(name="@Weekly")], linked_backups=[])
    listed = links(world, "--job", "=HYPERLINK(1)", "--output", "csv")
    (row,) = csv.DictReader(listed.stdout.splitlines())
    assert (row["label.job"], row["label.repository"]) == ("'=HYPERLINK(1)", "'@Weekly")
    world.start_worker()
    done = submit(world, listed.stdout)
    assert (done.returncode, "=HYPERLINK(1) / @Weekly" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "'=" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "Name either --job or --repository."),
        (("--job", "a", "--repository", "b"), 2, "Name either --job or --repository."),
        (("--job", "Copy to Frankfort"), 2, 'no job is named "Copy to Frankfort"'),
        (("--repository", "Nowhere"), 2, 'no repository is named "Nowhere"'),
        (("--repository", NO_UID), 2, f"no repository has the UID {NO_UID}, and no job a link to it"),
        (("--job", "x", "--em", "branch"), 2, "No Enterprise Manager is configured as branch"),
        (("--job", ""), 2, "name: String should have at least 1 character"),
    ],
)
def test_a_name_that_is_not_known_is_said_in_one_line(
    world: World, arguments: tuple[str, ...], status: int, said: str
) -> None:
    """A typing mistake would look like a repository without links."""
    ended = links(world, *arguments)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_job_that_cannot_be_read_is_named_and_the_rest_is_listed(world: World) -> None:
    """A repository would be taken for unused although one job's links could not be read."""
    em = world.enterprise_manager
    strange = em.add_job(name="Strange", links=[])
    other = Fault("wrong_content", path=f"/jobs/{strange}/linked", times=None, body="<Repositories/>")
    em.inject(replace(other, content_type="application/xml"))
    ended = links(world, "--repository", VENDOR_REPOSITORY_NAME)
    assert ended.returncode == 1
    assert VENDOR_LINK_ID in ended.stdout
    assert "Not read, so its links are missing here: Strange: " in ended.stderr
