"""The reckoning: what was asked, what was said and what is so, compared.

The counts are those of the queue checker that RabbitMQ's own Jepsen tests use. What goes in is a command, what comes
out its terminal event.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.chaos.plan import Unlink

#: By how much two clocks may differ that count the same time, in seconds.
_TOLERANCE = 0.05

#: A worker's clock that differs by more than this from the observer's, in seconds, is wrong, or the event came late.
_WRONG_CLOCK_SECONDS = 300.0

#: How many bytes of a message are shown.
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Published:
    """One publishing of a command; `confirmed` if the broker said that it has it."""

    key: str
    confirmed: bool


@dataclass(frozen=True, slots=True)
class ObservedEvent:
    """One event as it came out of the observer's queue; `again` if the queue itself may have given it before.

    `time` is by the worker's clock, `received_at` by the observer's.
    """

    id: str
    key: str | None
    outcome: str
    time: datetime
    data: Mapping[str, Any]
    body: bytes
    again: bool
    received_at: datetime

    @property
    def said_at(self) -> datetime:
        """When it was said, at the latest: its time, unless the worker's clock was wrong."""
        wrong = abs((self.received_at - self.time).total_seconds()) > _WRONG_CLOCK_SECONDS
        return self.received_at if wrong else self.time

    @property
    def terminal(self) -> bool:
        """Whether it ends its command."""
        return self.outcome != "submitted"


@dataclass(frozen=True, slots=True)
class Books:
    """All that is known when it is over.

    Attributes:
        unlinks: the commands by key.
        published: every publishing.
        received: every event.
        gone: when each link truly went.
        nobodys: links that no command names, those put back by the administrator included.
        deletes: the DELETEs that Enterprise Manager received, by link.
        unready: the workers that were not ready in the end, although nothing was wrong any more.
        left: messages that are still in a queue where none should be, by queue.
        invalid: messages that must be rejected, by name; `published` and `received` have the name for a key.
        dead: the bodies in `unlink.dead`.
    """

    unlinks: Mapping[str, Unlink]
    published: Sequence[Published]
    received: Sequence[ObservedEvent]
    gone: Mapping[str, datetime]
    nobodys: AbstractSet[str]
    deletes: Mapping[str, int]
    left: Mapping[str, int] = field(default_factory=dict)
    unready: Sequence[str] = ()
    invalid: Mapping[str, bytes] = field(default_factory=dict)
    dead: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """The counts. Each list names the keys, or links, that it counts; those of `violations` must be empty."""

    attempted: int
    acknowledged: int
    ok: int
    recovered: list[str]
    duplicated: int
    lost: list[str]
    unexpected: list[str]
    wrongly_claimed: list[str]
    hurt: list[str]
    contradicted: list[str]
    altered: list[str]
    left: list[str]
    unready: list[str]
    rejected: int
    not_dead: list[str]
    strangers: list[str]
    outcomes: Mapping[str, int]
    deletes: Mapping[int, int]

    @property
    def violations(self) -> dict[str, list[str]]:
        """Every broken promise, in words."""
        return {
            "lost": self.lost,
            "unexpected": self.unexpected,
            "wrongly claimed": self.wrongly_claimed,
            "links removed that no command named": self.hurt,
            "keys with more than one terminal event ID": self.contradicted,
            "repeats that differ from their original": self.altered,
            "stuck: messages left in a queue": self.left,
            "workers that were not ready again": self.unready,
            "invalid messages without a dead letter": self.not_dead,
            "dead letters that nobody expects": self.strangers,
        }

    @property
    def clean(self) -> bool:
        """Whether no promise was broken."""
        return not any(self.violations.values())


def reckon(books: Books) -> Tally:
    """Compare."""
    attempted = {each.key for each in books.published}
    acknowledged = {each.key for each in books.published if each.confirmed}
    ends: dict[str, list[ObservedEvent]] = defaultdict(list)
    for event in books.received:
        if event.terminal and event.key in attempted:
            ends[event.key].append(event)
    first = {key: events[0] for key, events in ends.items()}
    bodies, dead = set(books.invalid.values()), set(books.dead)
    return Tally(
        attempted=len(attempted),
        acknowledged=len(acknowledged),
        ok=len(ends),
        recovered=sorted(set(ends) - acknowledged),
        duplicated=sum(1 for events in ends.values() if sum(not event.again for event in events) > 1),
        lost=sorted(acknowledged - set(ends)),
        unexpected=[
            f"{event.outcome} of {event.key}" for event in books.received if not _expected(books, event, attempted)
        ],
        wrongly_claimed=sorted({*_claimed_too_early(books), *_denied(books, first)}),
        hurt=sorted({*(books.nobodys & set(books.gone)), *(books.nobodys & set(books.deletes))}),
        contradicted=sorted(key for key, events in ends.items() if len({event.id for event in events}) > 1),
        altered=sorted(set(_altered(books))),
        left=[f"{count} in {queue}" for queue, count in sorted(books.left.items()) if count],
        unready=sorted(books.unready),
        rejected=len(first.keys() & books.invalid.keys()),
        not_dead=sorted(name for name in first.keys() & books.invalid.keys() if books.invalid[name] not in dead),
        strangers=sorted(body[:_SHOWN].decode(errors="replace") for body in dead - bodies),
        outcomes=Counter(_outcome(event) for event in first.values()),
        deletes=Counter(books.deletes.get(link, 0) for link in _links(books)),
    )


def _expected(books: Books, event: ObservedEvent, attempted: AbstractSet[str]) -> bool:
    """Only what was sent is answered; and what is invalid is rejected, and nothing else."""
    return event.key in attempted and (event.outcome == "rejected") == (event.key in books.invalid)


def _claimed_too_early(books: Books) -> Iterable[str]:
    """Keys said to have succeeded while their link was still there, whatever it was borne out by."""
    for event in books.received:
        if event.outcome == "succeeded" and event.key is not None and event.key in books.unlinks:
            went = books.gone.get(books.unlinks[event.key].link.object_in_job_id)
            if went is None or (went - event.said_at).total_seconds() > _TOLERANCE:
                yield event.key


def _denied(books: Books, first: Mapping[str, ObservedEvent]) -> Iterable[str]:
    """Keys whose link is gone although all commands that name it say that they changed nothing."""
    of_link: dict[str, list[str]] = defaultdict(list)
    for key in first.keys() & books.unlinks.keys():
        of_link[books.unlinks[key].link.object_in_job_id].append(key)
    for link, keys in of_link.items():
        unanswered = any(u.link.object_in_job_id == link and key not in first for key, u in books.unlinks.items())
        if link in books.gone and not unanswered and all(first[key].data["changed"] is False for key in keys):
            yield from keys


def _altered(books: Books) -> Iterable[str]:
    """Terminal events that came again with other bytes. Rejections are not stored: each is made anew."""
    bodies: dict[str, bytes] = {}
    for event in books.received:
        if event.terminal and event.key not in books.invalid and bodies.setdefault(event.id, event.body) != event.body:
            yield event.id


def _outcome(event: ObservedEvent) -> str:
    reason = event.data.get("reason")
    how = reason["code"] if reason else event.data.get("evidence")
    doubt = ", not verified" if event.outcome == "succeeded" and not event.data["verified"] else ""
    return f"{event.outcome} ({how}{doubt})"


def _links(books: Books) -> set[str]:
    return {unlink.link.object_in_job_id for unlink in books.unlinks.values()}
