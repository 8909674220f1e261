"""The recipes for ticketing systems that order by the console."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Console, bearer, served, token_of
from tests.console.test_orders import settings_of
from tests.contract.conftest import RECIPES
from tests.contract.test_interoperability import SERVICENOW, run
from tests.end_to_end.world import World
from tests.missing_parts import require_program
from worker.clock import SystemClock
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID


@pytest.fixture
def steering(world: World, users_file: Path) -> Iterator[Console]:
    """The console beside a worker."""
    world.serve()
    with served(settings_of(world, users_file), SystemClock()) as console:
        yield console


def service_now(record: dict[str, str], status: int, answer: str) -> dict[str, Any]:
    """Run the business rule on a record. What it asked for, and the errors that it logged."""
    arguments = [str(RECIPES / "servicenow-console.js"), json.dumps(record), str(status), answer]
    done = run([require_program("node"), "-e", SERVICENOW, *arguments], "", {})
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_the_service_now_rule_orders_by_the_console(steering: Console, world: World) -> None:
    """A change would wait for an unlink that the console had refused, or that nobody had been asked for."""
    record = {
        "number": "CHG0030192",
        "u_backup_copy_job_id": VENDOR_JOB_ID,
        "u_repository_link_id": VENDOR_LINK_ID,
    }
    made = service_now(record, 202, "{}")
    assert (made["errors"], made["method"]) == ([], "POST")

    def send(token: str) -> tuple[int, str]:
        url = made["url"].replace("unlink.console", steering.url)
        headers = {name: value.replace("unlink.console_token", token) for name, value in made["headers"].items()}
        answer = steering.client.post(url, content=made["body"], headers=headers)
        return answer.status_code, answer.text

    refused = send(token_of("read"))
    assert refused[0] == 403
    (error,) = service_now(record, *refused)["errors"]
    assert ("CHG0030192 was not ordered" in error, "may look at everything" in error) == (True, True)
    assert send(token_of("submit"))[0] == 202
    key = f"servicenow:CHG0030192/{VENDOR_JOB_ID}/{VENDOR_LINK_ID}"
    world.until_ended(key)
    data = world.of(key)[-1].data
    assert (data["outcome"], data["ticket"]["id"], data["requested_by"]) == ("succeeded", "CHG0030192", "j.doe")
    assert data["request"]["user_id"] == "console:submit-program"


def test_the_jira_request_orders_by_the_console(steering: Console, world: World) -> None:
    """What Jira's automation sends, with its smart values filled in, would be no command."""
    values = {
        "issue.key": "OPS-4711",
        "issue.Backup copy job ID": VENDOR_JOB_ID,
        "issue.Repository link ID": VENDOR_LINK_ID,
        "initiator.accountId": "5b10a2844c20165700ede21g",
        "issue.url": "https://jira.example.com/browse/OPS-4711",
    }
    body = (RECIPES / "jira-console-request.json").read_text()
    for name, value in values.items():
        body = body.replace("{{" + name + "}}", value)
    assert "{{" not in body
    headers = {**bearer("submit"), "Content-Type": "application/json"}
    assert steering.client.post("/api/v1/unlinks?retry=true", content=body, headers=headers).status_code == 202
    key = f"jira:OPS-4711/{VENDOR_JOB_ID}/{VENDOR_LINK_ID}"
    world.until_ended(key)
    data = world.of(key)[-1].data
    assert (data["outcome"], data["ticket"]["url"]) == ("succeeded", values["issue.url"])
