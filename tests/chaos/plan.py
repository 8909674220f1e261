"""What is commanded, and when: jobs with links, unlinks of some of them, duplicates, and what is no valid command.

Drawn from a seed alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from worker.sandbox.simulated_enterprise_manager import LinkedRepository

#: Half of the commands come one by one, so that some are always in flight when something goes wrong; half in bursts of
#: about so many, within so many seconds.
_BURST = 20
_BURST_SECONDS = 1.0

#: How many links of one job are commanded away, and how many links nobody names are beside them.
_COMMANDED = (1, 1, 1, 2, 3)
_BYSTANDERS = (0, 0, 1, 2)

#: The share of commands that are published again at once (a publisher that stutters), or some time later.
_STUTTERED = 0.1
_REPEATED = 0.15
_REPEATED_AFTER_SECONDS = (3.0, 60.0)

#: The share of links that two commands name, each with a key of its own.
_CONTESTED = 0.03

#: One message in so many is no valid command; each kind of them is there at least once.
_INVALID_EVERY = 30

#: How the names of invalid messages begin.
INVALID = "invalid-"


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job to be added to Enterprise Manager."""

    id: str
    name: str
    links: tuple[LinkedRepository, ...]


@dataclass(frozen=True, slots=True)
class Unlink:
    """A command, and the link that it means; `alone` if no other command is about its job."""

    key: str
    job_id: str
    link: LinkedRepository
    alone: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Publication:
    """When a command is to be published, in seconds from the start."""

    at: float
    key: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is commanded. `bystanders` are the links that no command names.

    `invalid` are messages that must be rejected, by a name that stands in for the key that some of them lack.
    """

    jobs: tuple[PlannedJob, ...]
    unlinks: dict[str, Unlink]
    invalid: dict[str, bytes]
    publications: tuple[Publication, ...]
    bystanders: frozenset[str]


def draw(rng: Random, unlinks: int, seconds: float) -> Plan:
    """So many unlinks, published within so many seconds."""
    jobs: list[PlannedJob] = []
    commanded: list[Unlink] = []
    bystanders: set[str] = set()
    while len(commanded) < unlinks:
        wanted = min(rng.choice(_COMMANDED), unlinks - len(commanded))
        links = [_link(rng) for _ in range(wanted + rng.choice(_BYSTANDERS))]
        job = PlannedJob(_id(rng), f"Copy job {len(jobs) + 1}", tuple(rng.sample(links, len(links))))
        meant = links[:wanted]
        if rng.random() < _CONTESTED and len(commanded) + wanted < unlinks:
            meant.append(links[0])
        jobs.append(job)
        bystanders |= {link.object_in_job_id for link in links[wanted:]}
        commanded += [
            _unlink(rng, f"chaos-{len(commanded) + number:04}", job, link, alone=len(meant) == 1)
            for number, link in enumerate(meant)
        ]
    rng.shuffle(commanded)
    invalid = _invalid(rng, max(unlinks // _INVALID_EVERY, len(_KINDS)))
    keys = [*(unlink.key for unlink in commanded), *invalid]
    return Plan(
        tuple(jobs),
        {unlink.key: unlink for unlink in commanded},
        invalid,
        tuple(sorted(_publications(rng, keys, seconds), key=lambda publication: publication.at)),
        frozenset(bystanders),
    )


def repository_name(uid: str) -> str:
    """The name that a planned repository has in Enterprise Manager."""
    return f"Repository {uid[:13]}"


def _publications(rng: Random, keys: list[str], seconds: float) -> Iterator[Publication]:
    bursts = [rng.uniform(0, seconds) for _ in range(max(1, len(keys) // 2 // _BURST))]
    for key in keys:
        in_burst = rng.choice(bursts) + rng.uniform(0, _BURST_SECONDS)
        at = rng.choice((in_burst, rng.uniform(0, seconds)))
        yield Publication(at, key)
        if rng.random() < _STUTTERED:
            yield Publication(at + rng.uniform(0, 0.5), key)
        if rng.random() < _REPEATED:
            yield Publication(min(at + rng.uniform(*_REPEATED_AFTER_SECONDS), seconds), key)


def _broken(name: str) -> bytes:
    return f'{{"command": "unlink.v1", "idempotency_key": "{name}", '.encode()


def _for_another(name: str) -> bytes:
    return _command(name, {"name": "Copy job 1"}, {"name": "nowhere"}, enterprise_manager="another")


def _with_a_lone_surrogate(name: str) -> bytes:
    return _command(name, {"name": "Copy job 1"}, {"name": "nowhere"}, correlation_id="\ud800")


def _with_another_field(name: str) -> bytes:
    return _command(name, {"name": "Copy job 1"}, {"name": "nowhere"}, allow_linked_backup_removal=True)


_KINDS = (_broken, _for_another, _with_a_lone_surrogate, _with_another_field)


def _invalid(rng: Random, count: int) -> dict[str, bytes]:
    """So many messages that break the contract, or are for an Enterprise Manager that no worker knows."""
    names = [f"{INVALID}{number:04}" for number in range(count)]
    kinds = [*_KINDS, *rng.choices(_KINDS, k=count - len(_KINDS))]
    return {name: kind(name) for name, kind in zip(names, kinds, strict=True)}


def _command(key: str, job: Mapping[str, str], repository: Mapping[str, str], **more: Any) -> bytes:
    command = {"command": "unlink.v1", "idempotency_key": key, "job": job, "repository": repository}
    return json.dumps({**command, "requested_by": "chaos", **more}).encode()


def _unlink(rng: Random, key: str, job: PlannedJob, link: LinkedRepository, *, alone: bool) -> Unlink:
    repository = rng.choice(
        (
            {"link_id": link.object_in_job_id},
            {"link_id": link.object_in_job_id},
            {"uid": link.repository_uid},
            {"name": repository_name(link.repository_uid)},
        )
    )
    meant = rng.choice(({"id": job.id}, {"id": job.id}, {"name": job.name}))
    return Unlink(key, job.id, link, alone, _command(key, meant, repository))


def _link(rng: Random) -> LinkedRepository:
    return LinkedRepository(_id(rng), _id(rng))


def _id(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
