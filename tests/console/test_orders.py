"""Orders by API and by button, between real parts: a broker, a worker, a simulated Enterprise Manager, a browser."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import Console, bearer, browsing, served, sign_in
from tests.end_to_end.world import World, vendor_command
from tests.waiting import wait_until
from worker.clock import SystemClock
from worker.console.orders import Orders, read_unlink
from worker.console.problems import Problem
from worker.console.readings import Readings
from worker.console.users import Caller, Role
from worker.sandbox.simulated_enterprise_manager import Behaviour
from worker.settings import BrokerSettings, ConsoleProgramSettings, ConsoleSettings, LedgerSettings

WAIT = {"Prefer": "wait=50"}

POLICY = """
[[rules]]
users = ["console:submit-*", "console:operate*"]
cancels = true
"""


def settings_of(world: World, users_file: Path, **more: Any) -> ConsoleProgramSettings:
    """The console's settings beside these workers."""
    return ConsoleProgramSettings(
        ledger=LedgerSettings.model_validate({"url": world.environment["UNLINK_LEDGER__URL"]}),
        broker=BrokerSettings.model_validate({"url": world.environment["UNLINK_BROKER__URL"]}),
        console=ConsoleSettings(users_file=users_file),
        **more,
    )


@pytest.fixture
def steering(world: World, users_file: Path) -> Iterator[Console]:
    """The console beside a worker."""
    world.serve()
    with served(settings_of(world, users_file), SystemClock()) as console:
        yield console


def order(console: Console, command: dict[str, Any] | bytes, role: str = "submit", **headers: str) -> httpx.Response:
    """Order by the API."""
    body = command if isinstance(command, bytes) else json.dumps(command).encode()
    given = {**bearer(role), "Content-Type": "application/json", **headers}
    return console.client.post("/api/v1/unlinks", content=body, headers=given)


def path_of(key: str) -> str:
    """Where an unlink is."""
    return "/api/v1/unlinks/" + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def test_an_order_is_on_its_queue_and_found_at_its_location(steering: Console, world: World) -> None:
    """A program would have to speak AMQP."""
    answer = order(steering, vendor_command("CHG/1"))
    assert (answer.status_code, answer.headers["location"]) == (202, path_of("CHG/1"))
    assert answer.json()["event"] is None
    world.until_ended("CHG/1")
    unlink = steering.get(answer.headers["location"], headers=bearer("read")).json()
    assert (unlink["outcome"], unlink["request"]["user_id"]) == ("succeeded", "console:submit-program")


def test_the_end_can_be_waited_for(steering: Console) -> None:
    """A program would have to poll, or to listen."""
    answer = order(steering, vendor_command(), **WAIT)
    assert (answer.status_code, answer.json()["event"]["data"]["outcome"]) == (200, "succeeded")
    again = order(steering, vendor_command(), **WAIT)
    assert again.json()["event"]["id"] == answer.json()["event"]["id"]


def test_a_body_in_another_encoding_is_refused(steering: Console) -> None:
    """A fault of the console, with a stack trace in its log."""
    body = json.dumps(vendor_command()).encode("utf-16")
    answer = order(steering, body, **{"Idempotency-Key": "CHG1"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.slow
def test_who_waits_is_answered_when_the_console_is_to_stop(
    world: World, users_file: Path, behaviour: Behaviour
) -> None:
    """An order would be on the queue, its sender get an error, and nobody find out who ordered it."""
    world.serve()
    behaviour.edits_held = True
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | world.environment | {"UNLINK_CONSOLE__USERS_FILE": str(users_file)}
    environment |= {"UNLINK_CONSOLE__PORT": str(port), "UNLINK_LOG__FORMAT": "json"}
    url = f"http://127.0.0.1:{port}"
    command = (sys.executable, "-m", "worker", "console")
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as console,
        ThreadPoolExecutor(1) as program,
    ):
        wait_until(lambda: is_alive(url))
        headers = {**bearer("submit"), **WAIT}
        waiting = program.submit(
            httpx.post, f"{url}/api/v1/unlinks", json=vendor_command(), headers=headers, timeout=90
        )
        sent = world.enterprise_manager
        world.until(lambda: any(each.method == "DELETE" for each in sent.requests), "the DELETE")
        console.terminate()
        assert waiting.result().status_code == 202
        _, output = console.communicate(timeout=60)
    assert console.returncode == 0
    line = next(json.loads(line) for line in output.splitlines() if '"console.action"' in line)
    assert (line["user"], line["target"], line["result"]) == ("submit-program", "CHG1", "on the queue")
    behaviour.edits_held = False


def is_alive(url: str) -> bool:
    """Whether a console answers there."""
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_dry_run_gives_the_plan(steering: Console, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody would see before what would be lost; or the log would say that it was lost."""
    for headers, status in (({}, 202), (WAIT, 200)):
        capsys.readouterr()
        answer = order(steering, vendor_command(dry_run=True), **headers)
        assert (answer.status_code, answer.json()["href"], "location" in answer.headers) == (status, None, False)
        assert "action=plan " in next(line for line in capsys.readouterr().out.splitlines() if "console.action" in line)
    assert answer.json()["event"]["data"]["outcome"] == "planned"
    assert steering.get(path_of("CHG1"), headers=bearer("read")).status_code == 404
    assert order(steering, vendor_command(), **WAIT).json()["event"]["data"]["changed"] is True


async def test_a_plan_is_waited_for_beside_all_that_wait(world: World, users_file: Path) -> None:
    """While sixteen programs wait for their unlinks, people would be told that no worker answers."""
    world.serve()
    settings = settings_of(world, users_file)
    readings = Readings(settings.ledger, settings.broker, SystemClock())
    orders = Orders(settings.broker, None, readings, threading.Event())
    caller = Caller("j.doe", Role.OPERATE, "192.0.2.7")
    plan = read_unlink(json.dumps(vendor_command(dry_run=True)).encode(), None, None)
    while not orders._waiting.locked():  # noqa: SLF001 - sixteen requests with a broker connection each are the other way
        await orders._waiting.acquire()  # noqa: SLF001
    ordered = await orders.unlink(caller, plan, 50)
    assert ordered.event is not None
    assert ordered.event["data"]["outcome"] == "planned"
    while not orders._planning.locked():  # noqa: SLF001
        await orders._planning.acquire()  # noqa: SLF001
    with pytest.raises(Problem) as refused:
        await orders.unlink(caller, plan, 50)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    readings.close()


#: Orders, the headers that they come with, and the fields that are named as wrong.
BROKEN_ORDERS: list[tuple[dict[str, Any] | bytes, dict[str, str], list[str]]] = [
    ({"command": "unlink.v1", "idempotency_key": "CHG 1"}, {}, ["idempotency_key", "job", "repository"]),
    (vendor_command(dryrun=True), {}, ["dryrun"]),
    (vendor_command(job={"id": "x", "naem": 1}), {}, ["job.id", "job.naem"]),
    (vendor_command(), {"Idempotency-Key": "CHG2"}, ["idempotency_key"]),
    (b"nonsense", {}, []),
    (b'{"command": "unlink.v1", "command": "unlink.v1"}', {}, []),
    (b"\xff", {}, []),
    (b"[" * 50_000, {}, []),
    (b"[]", {"Idempotency-Key": "CHG2"}, []),
    (b"x" * 70_000, {}, []),
]


def test_a_broken_order_names_each_field(steering: Console) -> None:
    """A program could not tell its user which field to correct."""
    for command, headers, fields in BROKEN_ORDERS:
        answer = order(steering, command, **headers)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), command
        assert [error["field"] for error in answer.json().get("errors", [])] == fields, command


def test_what_waits_for_its_time_is_counted_as_delayed(steering: Console) -> None:
    """The overview would show no work, although a hundred commands are to start tonight."""
    tonight = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert order(steering, vendor_command(not_before=tonight)).status_code == 202
    wait_until(lambda: "<dt>Delayed</dt><dd>1</dd>" in steering.get("/?part=true", headers=bearer("read")).text)


def test_the_key_may_stand_in_the_header(steering: Console) -> None:
    """Clients that know the header alone could not order."""
    command = {name: value for name, value in vendor_command().items() if name != "idempotency_key"}
    answer = order(steering, command, **{"Idempotency-Key": '"CHG7"'}, **WAIT)
    assert (answer.status_code, answer.json()["idempotency_key"]) == (200, "CHG7")


def test_what_cannot_be_is_refused_at_once(steering: Console) -> None:
    """A program would learn of it from an event that it does not read."""
    assert order(steering, vendor_command(enterprise_manager="nobody")).status_code == 404
    assert order(steering, vendor_command(), role="read").status_code == 403
    order(steering, vendor_command(), **WAIT)
    reused = order(steering, vendor_command(allow_linked_backups_removal=True))
    assert reused.status_code == 409
    assert steering.client.post(f"{path_of('CHG1')}/retry", headers=bearer("submit")).status_code == 409
    assert steering.client.post(f"{path_of('CHG1')}/cancel", headers=bearer("submit")).status_code == 409
    assert steering.client.post(f"{path_of('NONE')}/retry", headers=bearer("operate")).status_code == 404


def test_a_failed_one_is_retried_by_order(steering: Console) -> None:
    """Its key would be lost, or a new one be needed each time."""
    missing = vendor_command(job={"name": "There is no such job"})
    answer = order(steering, missing, **WAIT)
    assert answer.json()["event"]["data"]["reason"]["code"] == "job_not_found"
    headers = {**bearer("submit"), **WAIT}
    again = steering.client.post(f"{path_of('CHG1')}/retry", json={"run": 1}, headers=headers, timeout=60)
    assert (again.status_code, again.json()["event"]["data"]["run"]) == (200, 2)
    # Its answer was lost.
    again = steering.client.post(f"{path_of('CHG1')}/retry", json={"run": 1}, headers=headers, timeout=60)
    assert (again.status_code, again.json()["errors"][0]["field"]) == (409, "run")
    answer = steering.client.post("/api/v1/unlinks?retry=true&run=2", content=json.dumps(missing), headers=headers)
    assert answer.json()["event"]["data"]["run"] == 3
    assert answer.json()["event"]["data"]["request"]["retried_by"]


def test_the_policy_is_applied_here_too(world: World, users_file: Path, tmp_path: Path) -> None:
    """Who may not order by the queue could order here."""
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    world.serve({"UNLINK_POLICY_FILE": str(file)})
    with served(settings_of(world, users_file, policy_file=file), SystemClock()) as console:
        assert order(console, vendor_command(), **WAIT).json()["event"]["data"]["outcome"] == "succeeded"
        denied = order(console, vendor_command("CHG2", allow_linked_backups_removal=True))
        assert denied.status_code == 403
        assert "console:submit-program" in denied.json()["detail"]
    # A console that does not know the policy: the worker judges nevertheless, and by the console's user.
    with served(settings_of(world, users_file), SystemClock()) as console:
        answer = order(console, vendor_command("CHG3", allow_linked_backups_removal=True), **WAIT)
        assert answer.json()["event"]["data"]["reason"]["code"] == "access_denied"


def test_a_broker_that_is_away_is_said(steering: Console, world: World, users_file: Path) -> None:
    """An order would be thought to be safe, and be nowhere."""
    broken = BrokerSettings.model_validate({"url": "amqp://guest:guest@127.0.0.1:1/"})
    settings = settings_of(world, users_file).model_copy(update={"broker": broken})
    with served(settings, SystemClock()) as console:
        answer = order(console, vendor_command())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert steering.get(path_of("CHG1"), headers=bearer("read")).status_code == 404


def test_one_is_cancelled_and_retried_by_button(
    steering: Console, world: World, behaviour: Behaviour, chromium: Browser
) -> None:
    """Who sees a mistake could only look on; and who mends it, not go on."""
    order(steering, vendor_command("CHG2", repository={"name": "nowhere"}), role="operate")
    world.until_ended("CHG2")
    behaviour.edits_held = True
    order(steering, vendor_command("CHG1"), role="operate")
    wait_until(lambda: steering.get(path_of("CHG1"), headers=bearer("read")).status_code == 200)
    with browsing(chromium, steering) as browse:
        page = browse("/unlinks?in_flight=true")
        sign_in(page, "operateer")
        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("tbody a").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status")).to_contain_text("A worker has taken up the request to cancel")
        expect(page.locator("main")).to_contain_text("Requests to cancel")
        expect(page.locator("main")).to_contain_text("operateer")
        behaviour.edits_held = False
        expect(page.locator(".lead")).to_contain_text("cancelled")
        page.goto("/unlinks?key=CHG2")
        page.locator("tbody a").click()
        page.get_by_role("button", name="Retry").click()
        expect(page.locator("main")).to_contain_text("in run 2")


def test_a_reader_is_shown_no_button(steering: Console, world: World, chromium: Browser) -> None:
    """A button that is refused is a page that lies."""
    order(steering, vendor_command("CHG2", repository={"name": "nowhere"}), role="operate")
    world.until_ended("CHG2")
    with browsing(chromium, steering) as browse:
        page = browse("/unlinks/Q0hHMg")
        sign_in(page, "reader")
        expect(page.locator(".lead")).to_contain_text("failed")
        expect(page.get_by_role("button", name="Retry")).to_have_count(0)
        page.get_by_role("button", name="Sign out").click()
        sign_in(page, "submiter")  # another's unlink
        page.goto("/unlinks/Q0hHMg")
        expect(page.locator(".lead")).to_contain_text("failed")
        expect(page.get_by_role("button", name="Retry")).to_have_count(0)
