"""Dead letters in the console: read on request, replayed and discarded as safely as by the command line."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import Console, bearer, browsing, served, sign_in
from tests.console.test_orders import settings_of
from tests.end_to_end.world import World, vendor_command
from worker.clock import SystemClock
from worker.console.dead_letters import DeadLetters
from worker.console.users import Caller, Role
from worker.ledger import Inspection
from worker.settings import LedgerSettings

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def steering(world: World, users_file: Path) -> Iterator[Console]:
    """The console beside a worker that has dead-lettered two commands."""
    world.serve()
    world.send(vendor_command("CHG1", dryrun=True, reason=HOSTILE))
    world.send(b"nonsense")
    world.until(lambda: world.client.count("unlink.dead") == 2, "two dead letters")
    with served(settings_of(world, users_file), SystemClock()) as console:
        yield console


def listed(console: Console) -> list[dict[str, Any]]:
    """What the API lists."""
    answer = console.get("/api/v1/dead-letters", headers=bearer("read"))
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_they_are_listed_and_keep_their_ids(steering: Console) -> None:
    """A button would act on another one than it stood beside."""
    first, second = listed(steering), listed(steering)
    assert [item["id"] for item in first] == [item["id"] for item in second]
    assert {item["reason_code"] for item in first} == {"invalid_message"}
    assert {item["idempotency_key"] for item in first} == {"CHG1", None}


def test_one_is_discarded_and_written_down(steering: Console, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A command would vanish without a trace, or another one in its place."""
    letter = next(item for item in listed(steering) if item["idempotency_key"] is None)
    path = letter["href"] + "/discard"
    assert steering.client.post(path, headers=bearer("submit")).status_code == 403
    assert steering.client.post(path, headers=bearer("operate")).json() == {"discarded": 1}
    assert "nonsense" in next(line for line in capsys.readouterr().out.splitlines() if "letter_discarded" in line)
    assert [item["idempotency_key"] for item in listed(steering)] == ["CHG1"]
    assert steering.client.post(path, headers=bearer("operate")).status_code == 404
    assert world.client.count("unlink.dead") == 1


def put(world: World, key: str) -> None:
    """Dead-letter a readable command, as a denied one is; one of the same key is equal to it."""
    body = json.dumps(vendor_command(key, repository={"name": "nothing"})).encode()
    world.client._channel.basic_publish("unlink.dead", "unlink.commands.default", body)  # noqa: SLF001 - as a worker


def test_all_that_are_equal_are_discarded(steering: Console, world: World) -> None:
    """Of two copies one would stay, and be replayed later by somebody who trusts that it was discarded."""
    for key in ("CHG7", "CHG7", "CHG8"):
        put(world, key)
    world.until(lambda: world.client.count("unlink.dead") == 5, "five dead letters")
    first, equal, other = (item for item in listed(steering) if item["idempotency_key"] in {"CHG7", "CHG8"})
    assert (first["id"], first["id"] == other["id"]) == (equal["id"], False)
    headers = {"Authorization": bearer("operate")["Authorization"]}
    answer = steering.client.post(
        "/dead-letters/discard", data={"ids": f"{first['id']},{other['id']}"}, headers=headers
    )
    assert answer.headers["location"] == "/dead-letters?read=true&discarded=3"
    assert world.client.count("unlink.dead") == 2


def test_how_many_were_not_read_is_said(steering: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would know that the one that they look for stands behind the first 200, or how to see it."""
    monkeypatch.setattr("worker.console.dead_letters._MOST", 1)
    found = steering.get("/api/v1/dead-letters", headers=bearer("read")).json()
    assert (len(found["items"]), found["unread"], found["complete"]) == (1, 1, False)
    page = steering.get("/dead-letters?read=true", headers=bearer("read")).text
    assert "1 more was not read: it is shown once you have replayed or discarded what is here" in page
    monkeypatch.setattr("worker.console.dead_letters._MOST", 2)
    found = steering.get("/api/v1/dead-letters", headers=bearer("read")).json()
    assert (len(found["items"]), found["unread"], found["complete"]) == (2, 0, True)


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_what_goes_on_after_a_stop_is_written_down(
    world: World, users_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """The console stops after five seconds, and a replay lasts ten: nobody would find out who had replayed them."""
    world.serve()
    put(world, "CHG7")
    world.until(lambda: world.client.count("unlink.dead") == 1, "a dead letter")
    dead_letters = DeadLetters(settings_of(world, users_file), SystemClock())
    entered, go_on = threading.Event(), threading.Event()
    take_lock = Inspection.take_lock

    def take_lock_later(ledger: Inspection, name: str, holder: str, seconds: float) -> bool:
        entered.set()
        assert go_on.wait(60)
        return take_lock(ledger, name, holder, seconds)

    async def stopped() -> None:
        (letter,) = (await dead_letters.read()).items
        capsys.readouterr()
        monkeypatch.setattr(Inspection, "take_lock", take_lock_later)
        caller = Caller("j.doe", Role.OPERATE, "192.0.2.7")
        request = asyncio.create_task(getattr(dead_letters, action)(caller, frozenset({letter.id})))
        assert await asyncio.to_thread(entered.wait, 60)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        go_on.set()

    asyncio.run(stopped())  # it waits for its threads
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "console.action" in line]
    for part in ("j.doe", "192.0.2.7", f"action={action}", f"1 {action}ed"):
        assert part in line
    assert world.client.count("unlink.dead") == 0


def test_what_would_be_rejected_again_stays(steering: Console) -> None:
    """Else the message would come back as a dead letter after each replay."""
    letter = listed(steering)[0]
    answer = steering.client.post(letter["href"] + "/replay", headers=bearer("operate"))
    assert answer.json() == {"replayed": 0, "left": {"unreadable": 1}}
    assert len(listed(steering)) == 2


def test_one_reader_at_a_time(steering: Console, world: World) -> None:
    """Two would each see a part, and take it for all; and one that was killed would keep all others out."""
    settings = LedgerSettings.model_validate({"url": world.environment["UNLINK_LEDGER__URL"]})
    ledger = Inspection(settings, SystemClock())
    assert ledger.take_lock("dead letters", "another console", 60)
    assert not ledger.take_lock("dead letters", "a third console", 60)
    answer = steering.get("/api/v1/dead-letters", headers=bearer("read"))
    assert (answer.status_code, "Somebody else reads" in answer.text) == (503, True)
    ledger.release_lock("dead letters", "a third console")
    assert steering.get("/api/v1/dead-letters", headers=bearer("read")).status_code == 503
    ledger.release_lock("dead letters", "another console")
    assert len(listed(steering)) == 2
    assert ledger.take_lock("dead letters", "killed", 0)
    assert len(listed(steering)) == 2


def test_a_group_is_seen_to_at_once(steering: Console, world: World, chromium: Browser) -> None:
    """After an outage there are hundreds of one reason, each with a button of its own."""
    with browsing(chromium, steering) as browse:
        page = browse("/dead-letters")
        sign_in(page, "operateer")
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto("/dead-letters?read=true")
        world.send(b"more nonsense, that the page does not show")
        world.until(lambda: world.client.count("unlink.dead") == 3, "a third dead letter")
        page.get_by_role("button", name="Replay all 2").click()
        expect(page.get_by_role("status")).to_contain_text("2 stay: cannot be read: they would be rejected again.")
        expect(page.locator("details.dead-letter")).to_have_count(3)
        page.goto("/dead-letters?read=true")
        page.get_by_role("button", name="Discard all 3").click()
        expect(page.get_by_role("status")).to_contain_text("3 discarded; the console's log has all of them")
        assert world.client.count("unlink.dead") == 0


def test_one_is_replayed_by_button(steering: Console, world: World, chromium: Browser) -> None:
    """Who has mended the cause would need a shell."""
    put(world, "CHG2")
    with browsing(chromium, steering) as browse:
        page = browse("/dead-letters")
        sign_in(page, "operateer")
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("link", name="Read them").click()
        page.locator("summary", has_text="CHG1").click()
        expect(page.locator("details[open] pre")).to_contain_text(HOSTILE)
        page.locator("summary", has_text="CHG2").click()
        page.locator("details", has_text="CHG2").get_by_role("button", name="Replay").click()
        expect(page.get_by_role("status")).to_contain_text("1 on their queue again.")
        world.until_ended("CHG2")
        page.locator("summary", has_text="CHG1").click()
        page.locator("details", has_text="CHG1").get_by_role("button", name="Discard").click()
        expect(page.get_by_role("status")).to_contain_text("1 discarded; the console's log has")
        expect(page.locator("summary", has_text="CHG1")).to_have_count(0)
        page.get_by_role("button", name="Sign out").click()
        sign_in(page, "reader")
        page.goto("/dead-letters?read=true")
        page.locator("summary").first.click()
        expect(page.get_by_role("button", name="Replay")).to_have_count(0)
