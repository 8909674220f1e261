"""The recipes, run as they are written.

More than 400 lines: each recipe needs its own program or play, and all run on the same site.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import pika
import pytest
import yaml
from pika.exceptions import ChannelClosedByBroker

from tests import programs
from tests.contract.conftest import Site
from tests.private_servers.http import Request, serving

TIMEOUT_SECONDS = 90


# --- pipelines ------------------------------------------------------------------------------------------------------


def gitlab_step(recipes: Path) -> str:
    """The lines that GitLab would run."""
    job = yaml.safe_load((recipes / "gitlab-ci.yml").read_text())["unlink-repository"]
    return "\n".join(job["script"])


def jenkins_step(recipes: Path) -> str:
    """The lines that Jenkins would run."""
    found = re.search(r"sh '''(.*?)'''", (recipes / "Jenkinsfile").read_text(), flags=re.DOTALL)
    assert found
    return found.group(1)


def github_step(recipes: Path) -> str:
    """The lines that GitHub Actions would run."""
    (job,) = yaml.safe_load((recipes / "github-actions.yml").read_text())["jobs"].values()
    (step,) = job["steps"]
    return str(step["run"])


def run_step(step: str, site: Site, command: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a step as a pipeline would, with the variables that it has."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "UNLINK_BROKER__URL": site.amqp_url,
        "WORKER_IMAGE": "registry.example.com/unlink-worker@sha256:0",  # GitLab exports it, since it is the job's image
        "JOB_ID": command["job"]["id"],
        "LINK_ID": command["repository"]["link_id"],
        "CI_PROJECT_ID": "7",
        "CI_PIPELINE_ID": command["idempotency_key"],
        "CI_PIPELINE_URL": "https://gitlab.example.com/7",
        "GITLAB_USER_LOGIN": "j.doe",
        "BUILD_TAG": f"jenkins-my job-{command['idempotency_key']}",
        "BUILD_URL": "https://jenkins.example.com/7",
        "JOB": command["job"]["id"],
        "REPOSITORY": command["labels"]["repository"],
        "GITHUB_RUN_ID": command["idempotency_key"],
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "example/operations",
        "GITHUB_ACTOR": "j.doe",
    }
    return programs.run(["bash", "-eu", "-c", step], env=environment, timeout=TIMEOUT_SECONDS)


#: One of them in `make test`; each starts whole workers.
STEPS = (gitlab_step, *(pytest.param(step, marks=pytest.mark.slow) for step in (jenkins_step, github_step)))


@pytest.mark.parametrize("step", STEPS)
def test_a_pipeline_step_waits_for_the_end_and_may_run_again(site: Site, recipes: Path, step: Any) -> None:
    """The pipeline goes on when the link is gone; a step that is run again finds it so, and changes nothing."""
    command = site.new_command(step.__name__)
    first, second = (run_step(step(recipes), site, command) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "succeeded" in first.stdout
    assert site.world.enterprise_manager.links(command["job"]["id"]) == []
    assert site.world.enterprise_manager.deletes_of(command["repository"]["link_id"]) == 1


@pytest.mark.parametrize("step", STEPS)
def test_a_pipeline_step_fails_when_the_link_stays(site: Site, recipes: Path, step: Any) -> None:
    """The pipeline stops when the unlink failed."""
    command = site.new_command(f"{step.__name__}-fails") | {"job": {"id": "00000000-0000-0000-0000-000000000000"}}
    done = run_step(step(recipes), site, command)
    assert done.returncode == 1, done.stderr
    assert "job_not_found" in done.stdout


@pytest.mark.parametrize("step", STEPS)
def test_a_pipeline_step_that_failed_succeeds_once_its_cause_is_gone(site: Site, recipes: Path, step: Any) -> None:
    """Else the re-run button repeats the old failure and runs nothing."""
    command = site.new_command(f"{step.__name__}-again")
    job, enterprise_manager = command["job"]["id"], site.world.enterprise_manager
    enterprise_manager.change_behaviour(running_job="task_fails")
    enterprise_manager.set_running(job, running=True)
    failed = run_step(step(recipes), site, command)
    assert (failed.returncode, "task_failed" in failed.stdout) == (1, True), failed.stdout + failed.stderr
    enterprise_manager.set_running(job, running=False)
    done = run_step(step(recipes), site, command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert enterprise_manager.links(job) == []


def test_the_workflow_for_github_is_one_and_asks_for_no_rights(recipes: Path) -> None:
    """GitHub would refuse it; or a mistake in it could write to the repository."""
    workflow = recipes / "github-actions.yml"
    folder = Path(sys.executable).parent
    for checker in (
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
        ["zizmor", "--offline", "--min-confidence", "medium"],
    ):
        command: list[str | Path] = [folder / checker[0], *checker[1:], workflow]
        done = programs.run(command, timeout=TIMEOUT_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr


# --- Ansible --------------------------------------------------------------------------------------------------------


def play(recipe: Path, site: Site, tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run a play; its exit status, what Ansible counts, and all that it printed."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "UNLINK_BROKER__URL": site.amqp_url,
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
    }
    command: list[str | Path] = ["ansible-playbook", recipe, *arguments]
    done = programs.run(command, env=environment, timeout=300)
    counts = dict(re.findall(r"(\w+)=(\d+)", done.stdout.rpartition("PLAY RECAP")[2]))
    return done.returncode, counts, done.stdout + done.stderr


@pytest.mark.slow
def test_a_play_orders_an_unlink_and_changes_something_once(site: Site, recipes: Path, tmp_path: Path) -> None:
    """A play that runs every night would report a change every night, or go on although the link is still there."""
    command = site.new_command("ansible")
    em = site.world.enterprise_manager
    em.change_behaviour(running_job="task_fails")
    variables = {"job": command["job"]["id"], "repository": command["labels"]["repository"], "ticket": "jira:OPS-77"}
    given = ["-e", json.dumps(variables)]
    recipe = recipes / "ansible-queue.yml"
    status, counts, said = play(recipe, site, tmp_path, "--check", *given)
    assert (status, counts["changed"], "would be removed" in said) == (0, "0", True), said
    assert len(em.links(command["job"]["id"])) == 1
    em.set_running(command["job"]["id"], running=True)
    status, counts, said = play(recipe, site, tmp_path, *given)
    assert (status, counts["failed"], "task_failed" in said) == (2, "1", True), said
    em.set_running(command["job"]["id"], running=False)
    status, counts, said = play(recipe, site, tmp_path, *given)
    assert (status, counts["changed"]) == (0, "1"), said
    assert em.links(command["job"]["id"]) == []
    status, counts, said = play(recipe, site, tmp_path, *given)
    assert (status, counts["changed"]) == (0, "0"), said
    status, counts, said = play(recipe, site, tmp_path, *given, "-e", "job=00000000-0000-0000-0000-000000000000")
    assert (status, counts["failed"], "job_not_found" in said) == (2, "1", True), said


# --- consumers ------------------------------------------------------------------------------------------------------


@contextmanager
def running(program: Sequence[str | Path], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A consumer for a while."""
    with subprocess.Popen(program, env=os.environ | environment) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def ticketing_system(updates: Queue[tuple[str, dict[str, Any]]], failures: int) -> Iterator[str]:
    """A ticketing system's API: its URL. The first calls fail."""
    left = [failures]

    def respond(request: Request) -> None:
        update = json.loads(request.body())
        status = 503 if left[0] else 204
        left[0] = max(left[0] - 1, 0)
        if status == 204:
            updates.put((request.path, update))
        request.answer(status)

    with serving(respond) as url:
        yield url


def until_consumed(site: Site, queue: str) -> None:
    """Wait until a consumer has made its queue and listens."""
    site.world.until(lambda: _consumers(site, queue) == 1, f"a consumer on {queue}")


def delete_queue(site: Site, queue: str) -> None:
    """Delete a queue, and with it the events that a consumer before did not acknowledge."""
    with pika.BlockingConnection(pika.URLParameters(site.amqp_url)) as connection:
        connection.channel().queue_delete(queue)


def _consumers(site: Site, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(site.amqp_url)) as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).method.consumer_count)
        except ChannelClosedByBroker:
            return 0


def test_the_ticket_is_closed_when_the_link_is_gone(site: Site, recipes: Path) -> None:
    """The requester reads in the ticket what happened; a dry run, a batch's end, or what it does not know is no end."""
    updates: Queue[tuple[str, dict[str, Any]]] = Queue()
    ticket = {"ticket": {"system": "jira", "id": "OPS-1"}}
    gone = site.new_command("closes") | ticket | {"batch": {"id": "closes", "size": 1}}
    stays = site.new_command("stays") | {
        "if_absent": "fail",
        "ticket": {"system": "jira", "id": "OPS-2"},
        "repository": {"link_id": "00000000-0000-0000-0000-000000000000"},
    }
    delete_queue(site, "observer.tickets")
    with (
        ticketing_system(updates, failures=0) as url,
        running([sys.executable, recipes / "close_ticket.py"], {"AMQP_URL": site.amqp_url, "TICKETS_API": url}),
    ):
        until_consumed(site, "observer.tickets")
        with pika.BlockingConnection(pika.URLParameters(site.amqp_url)) as connection:
            # The binding of an earlier version of the recipe lasts.
            connection.channel().queue_bind("observer.tickets", "unlink.events", "#")
        for command in ({**gone, "idempotency_key": "looks", "dry_run": True}, gone, stays):
            site.world.send(command)
            site.world.until_ended(command["idempotency_key"])
        seen = [updates.get(timeout=TIMEOUT_SECONDS) for _ in range(2)]
    assert updates.empty()
    assert seen[0] == ("/tickets/OPS-1", {"state": "closed", "note": "unlink succeeded"})
    path, failed = seen[1]
    assert (path, failed["state"]) == ("/tickets/OPS-2", "open")
    assert failed["note"].startswith("unlink failed")
    assert "no such link" in failed["note"]


def test_a_ticket_that_could_not_be_reached_is_reported_later(site: Site, recipes: Path) -> None:
    """An event is not lost when the ticketing system is away: the consumer ends, and its next start has it again."""
    updates: Queue[tuple[str, dict[str, Any]]] = Queue()
    program: list[str | Path] = [sys.executable, recipes / "close_ticket.py"]
    # Another test's event would use up the failure, and end the consumer before anybody could see it.
    delete_queue(site, "observer.tickets")
    with ticketing_system(updates, failures=1) as url:
        environment = {"AMQP_URL": site.amqp_url, "TICKETS_API": url}
        with running(program, environment) as first:
            until_consumed(site, "observer.tickets")
            site.world.send(site.new_command("later") | {"ticket": {"system": "jira", "id": "OPS-3"}})
            assert first.wait(TIMEOUT_SECONDS) != 0
        with running(program, environment):
            path, update = updates.get(timeout=TIMEOUT_SECONDS)
            assert (path, update["note"]) == ("/tickets/OPS-3", "unlink succeeded")


@dataclass(frozen=True, slots=True)
class Tickets:
    """The tickets that a consumer updates, by the end of their path."""

    site: Site
    updates: Queue[tuple[str, dict[str, Any]]]
    states: dict[str, str] = field(default_factory=dict)

    def order(self, ticket: str, key: str, *, fails: bool = False, **fields: Any) -> dict[str, Any]:
        """Order an unlink for a ticket; the command."""
        command = self.site.new_command(key) | {"ticket": {"system": "jira", "id": ticket}} | fields
        self.site.world.enterprise_manager.set_running(command["job"]["id"], running=fails)
        self.site.world.send(command)
        return command

    def retry(self, command: dict[str, Any]) -> None:
        """Order what failed once more, now that it can succeed."""
        self.site.world.enterprise_manager.set_running(command["job"]["id"], running=False)
        self.site.world.send({"command": "retry.v1", "idempotency_key": command["idempotency_key"], "run": 1})

    def state_after(self, ticket: str, note: str) -> str:
        """Whether a ticket is open, once it has an update with a note in which this occurs."""
        while True:
            path, update = self.updates.get(timeout=TIMEOUT_SECONDS)
            name = path.rpartition("/")[2]
            self.states[name] = update.get("state", self.states.get(name, "not touched"))
            if name == ticket and note in update.get("note", ""):
                return self.states[name]

    def until(self, ticket: str, state: str) -> None:
        """Wait until a ticket is in a state."""
        while self.states.get(ticket) != state:
            self.state_after(ticket, "")


@contextmanager
def closing_tickets(site: Site, recipes: Path, tmp_path: Path) -> Iterator[Tickets]:
    """The consumer that closes tickets with several links, at work."""
    site.world.enterprise_manager.change_behaviour(running_job="task_fails")
    updates: Queue[tuple[str, dict[str, Any]]] = Queue()
    with ticketing_system(updates, failures=0) as url:
        environment = {"AMQP_URL": site.amqp_url, "TICKETS_API": url, "TICKETS_DB": str(tmp_path / "tickets.sqlite")}
        with running([sys.executable, recipes / "close_tickets.py"], environment):
            until_consumed(site, "observer.tickets")
            yield Tickets(site, updates)


@pytest.fixture
def tickets(site: Site, recipes: Path, tmp_path: Path) -> Iterator[Tickets]:
    """The same, with a queue of its own."""
    delete_queue(site, "observer.tickets")
    with closing_tickets(site, recipes, tmp_path) as tickets:
        yield tickets


REMOVED, KEPT = "was removed; the task succeeded", "was not removed: "


def test_a_ticket_is_not_closed_while_a_link_of_it_is_known_to_have_stayed(
    site: Site, recipes: Path, tmp_path: Path
) -> None:
    """The success of the second would close the ticket, although the first had failed, and nobody would look again."""
    delete_queue(site, "observer.tickets")
    with closing_tickets(site, recipes, tmp_path) as tickets:
        first = tickets.order("OPS-20", "closes-1", fails=True)
        assert tickets.state_after("OPS-20", KEPT) == "open"
    with closing_tickets(site, recipes, tmp_path) as tickets:  # what it has heard of lasts
        tickets.order("OPS-20", "closes-2")
        assert tickets.state_after("OPS-20", REMOVED) == "open"
        tickets.retry(first)
        assert tickets.state_after("OPS-20", REMOVED) == "closed"


def test_a_dry_run_neither_closes_a_ticket_nor_opens_it_again(tickets: Tickets) -> None:
    """A look at what would happen is no end of anything."""
    command = tickets.order("OPS-21", "looks", dry_run=True, repository={"name": "nowhere"})
    assert tickets.state_after("OPS-21", "Dry run: ") == "not touched"
    tickets.order("OPS-21", "looks")
    assert tickets.state_after("OPS-21", REMOVED) == "closed"
    tickets.site.world.send(command | {"if_absent": "fail"})
    assert tickets.state_after("OPS-21", "Dry run: ") == "closed"


def test_a_ticket_in_two_batches_is_closed_when_both_have_succeeded(tickets: Tickets) -> None:
    """With links on two Enterprise Managers, it has a batch on each: the end of one would speak for the other."""
    one: dict[str, Any] = {"batch": {"id": "closes-1", "size": 2}}
    two: dict[str, Any] = {"batch": {"id": "closes-2", "size": 2}}
    failed = tickets.order("OPS-22", "batch-1-fails", fails=True, **one)
    tickets.order("OPS-22", "batch-1", **one)
    assert tickets.state_after("OPS-22", "Of 2 commands of the batch 'closes-1', 1 succeeded: 1 failed") == "open"
    tickets.order("OPS-22", "batch-2", **two)
    tickets.order("OPS-22", "batch-2-too", **two)
    assert tickets.state_after("OPS-22", "All 2 commands of the batch 'closes-2' succeeded") == "open"
    tickets.retry(failed)
    assert tickets.state_after("OPS-22", "All 2 commands of the batch 'closes-1' succeeded") == "closed"


def test_a_batch_of_several_tickets_closes_those_whose_links_are_gone(tickets: Tickets) -> None:
    """`submit --file` makes one batch of a file of several tickets: none of them would ever be closed."""
    batch: dict[str, Any] = {"batch": {"id": "several", "size": 4}}
    tickets.order("OPS-23", "several-1", **batch)
    assert tickets.state_after("OPS-23", REMOVED) == "open"  # the commands to come may be this ticket's
    tickets.order("OPS-23", "several-2", **batch)
    failed = tickets.order("OPS-24", "several-3", fails=True, **batch)
    tickets.order("OPS-24", "several-4", **batch)
    tickets.until("OPS-23", "closed")
    tickets.retry(failed)
    assert tickets.states["OPS-24"] == "open"
    tickets.until("OPS-24", "closed")


def test_a_chat_reads_what_became_of_each_unlink(site: Site, recipes: Path) -> None:
    """The team would learn of a failed unlink from its ticket, days later; a name could call the whole channel."""
    posts: Queue[dict[str, Any]] = Queue()

    def respond(request: Request) -> None:
        posts.put(json.loads(request.body()))
        request.answer(200)

    ticket = {"system": "jira", "id": "OPS-8 <!channel>", "url": "https://jira.example.com/browse/OPS-8"}
    with (
        serving(respond) as url,
        running([sys.executable, recipes / "notify_chat.py"], {"AMQP_URL": site.amqp_url, "WEBHOOK_URL": url}),
    ):
        until_consumed(site, "observer.chat")
        site.world.send(site.new_command("chat") | {"ticket": ticket})
        text = posts.get(timeout=TIMEOUT_SECONDS)["text"]
        assert text.startswith(
            ":white_check_mark: *succeeded* <https://jira.example.com/browse/OPS-8|OPS-8 &lt;!channel&gt;>: "
        )
        site.world.send(site.new_command("chat-2") | {"job": {"id": "00000000-0000-0000-0000-000000000000"}})
        assert posts.get(timeout=TIMEOUT_SECONDS)["text"].startswith(":warning: *failed* chat-2: ")


def test_the_next_step_of_a_chain_runs_for_each_link_that_is_gone(site: Site, recipes: Path, tmp_path: Path) -> None:
    """A second automation starts with the event, and only when the first has succeeded."""
    step = tmp_path / "step"
    step.write_text('#!/bin/sh\ncat >> "$0.out" && echo >> "$0.out"\n')
    step.chmod(0o755)
    missing = {"job": {"id": "00000000-0000-0000-0000-000000000000"}}
    with running([sys.executable, recipes / "chain.py", step], {"AMQP_URL": site.amqp_url}):
        until_consumed(site, "observer.chain")
        site.world.send(site.new_command("chain-fails") | missing)
        site.world.until_ended("chain-fails")
        site.world.send(site.new_command("chain"))
        out = tmp_path / "step.out"
        site.world.until(lambda: out.exists() and out.read_text().endswith("\n"), "the next step")
    (event,) = map(json.loads, out.read_text().splitlines())
    assert (event["type"], event["subject"]) == ("unlink.succeeded.v1", "chain")


def test_a_next_step_that_always_fails_is_put_aside(site: Site, recipes: Path) -> None:
    """A broken second automation neither loses the event nor runs for ever."""
    with running([sys.executable, recipes / "chain.py", "false"], {"AMQP_URL": site.amqp_url}):
        until_consumed(site, "observer.chain")
        site.world.send(site.new_command("chain-broken"))
        site.world.until(lambda: site.world.client.count("observer.chain.failed") == 1, "the event put aside")


def test_the_consumer_that_closes_tickets_stays_short(recipes: Path) -> None:
    """It is shown in full in the README: about thirty lines."""
    text = (recipes / "close_ticket.py").read_text()
    code = [line for line in text.rpartition('"""\n')[2].splitlines() if line.strip()]
    assert len(code) <= 30
