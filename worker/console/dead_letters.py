"""Dead letters: read on request, grouped by reason, replayed, discarded."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import structlog
from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from worker.broker.client import BrokerClientError
from worker.broker.dead_letters import DeadLetter
from worker.console.actions import Asking, field
from worker.console.api import Known
from worker.console.audit import audit, audited
from worker.console.keys import query_of
from worker.console.models import DeadLetterItem, DeadLetterList, DiscardItem, ReplayItem
from worker.console.problems import Problem
from worker.console.rendering import render
from worker.console.signed_in import form_of
from worker.console.users import Caller
from worker.dead_letters.queue import DeadQueue
from worker.dead_letters.record import as_json
from worker.dead_letters.replay import MEANINGS, Left, Replay, Report
from worker.dead_letters.selection import Selection, digest_of
from worker.ledger import Inspection, InspectionError
from worker.settings import ConsoleProgramSettings
from worker.unlinks.ports.clock import Clock

T = TypeVar("T")

log = structlog.get_logger()

router = APIRouter()

#: How long the queue is read, in seconds, and how many messages are shown.
_SECONDS: Final = 10.0
_MOST: Final = 200
_MOST_CHARACTERS: Final = 20_000
#: The lock in the ledger of the one console that reads, and when one that was killed loses it, in seconds.
_LOCK: Final = "dead letters"
_LOCK_SECONDS: Final = 60.0

_DIGEST: Final = re.compile("[0-9a-f]{64}")
Id = Annotated[str, Path(pattern=f"^{_DIGEST.pattern}$")]


class DeadLetters:
    """The dead letters, for one reader at a time.

    Raises:
        Problem: in every method: the broker is away, or it is being read (503); no such dead letter (404).
    """

    def __init__(self, settings: ConsoleProgramSettings, clock: Clock) -> None:
        self._broker = settings.broker
        self._ledger = Inspection(settings.ledger, clock)
        self._reading = asyncio.Lock()

    async def read(self) -> DeadLetterList:
        """All dead letters, or the first `_MOST`."""

        def work(queue: DeadQueue) -> DeadLetterList:
            items: list[DeadLetterItem] = []
            count = queue.count("unlink.dead")
            with queue.messages(_SECONDS) as messages:
                for taken in messages:
                    if len(items) < _MOST:
                        items.append(_item(taken.message))
            unread = max(count - len(items), 0)
            return DeadLetterList(items=items, complete=unread == 0, unread=unread)

        return await self._with_queue(work, nullcontext)

    async def replay(self, caller: Caller, digests: frozenset[str]) -> Report:
        """Replay these, but for those whose command has ended and those that would be dead-lettered again."""
        report = Report()

        def work(queue: DeadQueue) -> Report:
            Replay(queue, self._ledger, force=False, seconds=_SECONDS).run(Selection(digests=digests), report)
            left = ", ".join(f"{count} {why}" for why, count in report.left.items())
            if not report.replayed and not left:
                raise Problem(404, _NONE)
            audit(caller, "replay", target, f"{report.replayed} replayed" + (f", left: {left}" if left else ""))
            return report

        target = ", ".join(sorted(digests))
        auditing = partial(audited, caller, "replay", target)
        with auditing():
            _require(caller)
        return await self._with_queue(work, auditing, lambda: f" {report.replayed} of them were replayed before.")

    async def discard(self, caller: Caller, digests: frozenset[str]) -> int:
        """Remove these, each after the whole message has been written to the log. Returns how many there were."""
        discarded = 0

        def work(queue: DeadQueue) -> int:
            nonlocal discarded
            with queue.messages(_SECONDS) as messages:
                for taken in Selection(digests=digests).among(messages):
                    message = as_json(taken.message)
                    log.warning(
                        "console.dead_letter_discarded", user=caller.name, address=caller.address, message=message
                    )
                    queue.remove(taken)
                    discarded += 1
            if not discarded:
                raise Problem(404, _NONE)
            audit(caller, "discard", target, f"{discarded} discarded")
            return discarded

        target = ", ".join(sorted(digests))
        auditing = partial(audited, caller, "discard", target)
        with auditing():
            _require(caller)
        return await self._with_queue(work, auditing, lambda: f" {discarded} of them were discarded before.")

    async def _with_queue(
        self,
        work: Callable[[DeadQueue], T],
        auditing: Callable[[], AbstractContextManager[None]],
        so_far: Callable[[], str] = str,
    ) -> T:
        """Work with the queue. `so_far` says what was done by the time of a failure.

        The work is audited where it ends: its request ends before, if the console is stopped meanwhile.
        """
        with auditing():
            if self._broker is None:
                raise Problem(503, "UNLINK_BROKER__URL is not set: the dead letters cannot be read here.")
            if self._reading.locked():
                raise _busy()
        broker, holder = self._broker, uuid.uuid4().hex

        def done() -> T:
            if not self._ledger.take_lock(_LOCK, holder, _LOCK_SECONDS):
                raise _busy()
            try:
                with DeadQueue(broker) as queue:
                    return work(queue)
            finally:
                try:
                    self._ledger.release_lock(_LOCK, holder)
                except InspectionError as error:  # it ends by itself; what was done is done
                    log.warning("console.lock_kept", problem=str(error))

        def done_and_audited() -> T:
            with auditing():
                try:
                    return done()
                except (BrokerClientError, InspectionError) as error:
                    raise Problem(503, f"{error}.{so_far()}", headers={"Retry-After": "5"}) from error

        async with self._reading:
            return await asyncio.to_thread(done_and_audited)


def _busy() -> Problem:
    said = "Somebody else reads the dead letters now: try again soon."
    return Problem(503, said, headers={"Retry-After": "5"})


_NONE: Final = "There is no such dead letter any more."


def dead_letters_of(request: Request) -> DeadLetters:
    """The dead letters."""
    dead_letters: DeadLetters = request.app.state.dead_letters
    return dead_letters


Dead = Annotated[DeadLetters, Depends(dead_letters_of)]


@router.get("/api/v1/dead-letters", operation_id="listDeadLetters")
async def list_dead_letters(dead_letters: Dead) -> DeadLetterList:
    """The dead letters, oldest first, 200 at most. Each reading takes them from the queue and returns them."""
    return await dead_letters.read()


@router.post("/api/v1/dead-letters/{id}/replay", operation_id="replayDeadLetter")
async def replay(caller: Asking, dead_letters: Dead, digest: Annotated[Id, Path(alias="id")]) -> ReplayItem:
    """Replay one. If its command has ended, or if it would be dead-lettered again, it stays where it is."""
    report = await dead_letters.replay(caller, frozenset({digest}))
    return ReplayItem(replayed=report.replayed, left={why.value: count for why, count in report.left.items()})


@router.post("/api/v1/dead-letters/{id}/discard", operation_id="discardDeadLetter")
async def discard(caller: Asking, dead_letters: Dead, digest: Annotated[Id, Path(alias="id")]) -> DiscardItem:
    """Remove one, with those that are equal to it. The whole message is in the console's log."""
    return DiscardItem(discarded=await dead_letters.discard(caller, frozenset({digest})))


@router.get("/dead-letters", response_class=HTMLResponse, include_in_schema=False)
async def page(request: Request, readings: Known, dead_letters: Dead, *, read: bool = False) -> HTMLResponse:
    """The page of dead letters: their number and, on request, all of them by reason."""
    queues = await readings.queues()
    found = await dead_letters.read() if read else None
    groups: dict[tuple[str, str], list[DeadLetterItem]] = {}
    for each in found.items if found else []:
        groups.setdefault((each.reason_code, each.enterprise_manager), []).append(each)
    return render(
        request.scope,
        "dead_letters.html",
        page="dead",
        title="Dead letters",
        queues=queues,
        found=found,
        groups=sorted(groups.items()),
        did=_did(request.query_params),
    )


def _did(counts: Mapping[str, str]) -> str:
    """What a button has done, for people."""
    meanings = {
        "replayed": "on their queue again",
        **{why.value: f"stay: {MEANINGS[why].partition(' (')[0]}" for why in Left},
        "discarded": "discarded; the console's log has all of them",
    }
    said = [f"{counts[name][:6]} {meaning}" for name, meaning in meanings.items() if counts.get(name, "").isdecimal()]
    return "; ".join(said) + "." if said else ""


@router.post("/dead-letters/{action}", include_in_schema=False)
async def press(request: Request, caller: Asking, dead_letters: Dead, action: str) -> RedirectResponse:
    """A button: it acts on the messages that the page has shown, and on no others of the same reason."""
    given = (field(form_of(await request.body()), "ids") or "").split(",")
    if not all(_DIGEST.fullmatch(each) for each in given):
        raise Problem(400, "The page is too old: load it again, and repeat what you did.")
    digests = frozenset(given)
    if action == "replay":
        report = await dead_letters.replay(caller, digests)
        counts = {"replayed": report.replayed, **{why.value: count for why, count in report.left.items()}}
    elif action == "discard":
        counts = {"discarded": await dead_letters.discard(caller, digests)}
    else:
        raise Problem(404, "There is no such action.")
    return RedirectResponse(f"/dead-letters?{query_of({'read': True, **counts})}", 303)


def _require(caller: Caller) -> None:
    if not caller.may_operate:
        raise Problem(403, "The role `operate` alone replays and discards dead letters.")


def _item(message: DeadLetter) -> DeadLetterItem:
    whole: dict[str, Any] = as_json(message)
    digest = digest_of(message)
    body = whole.get("body")
    return DeadLetterItem(
        id=digest,
        href=f"/api/v1/dead-letters/{digest}",
        reason_code=message.reason_code,
        reason=message.reason,
        enterprise_manager=message.enterprise_manager,
        idempotency_key=message.key,
        since=whole["since"],
        properties=whole["properties"],
        body=None if body is None else body[:_MOST_CHARACTERS],
    )
