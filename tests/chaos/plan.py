"""What is commanded, and when: jobs with links, unlinks of some of them, duplicates. Drawn from a seed alone."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
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
    """All that is commanded. `bystanders` are the links that no command names."""

    jobs: tuple[PlannedJob, ...]
    unlinks: dict[str, Unlink]
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
    return Plan(
        tuple(jobs),
        {unlink.key: unlink for unlink in commanded},
        tuple(sorted(_publications(rng, commanded, seconds), key=lambda publication: publication.at)),
        frozenset(bystanders),
    )


def repository_name(uid: str) -> str:
    """The name that a planned repository has in Enterprise Manager."""
    return f"Repository {uid[:13]}"


def _publications(rng: Random, unlinks: list[Unlink], seconds: float) -> Iterator[Publication]:
    bursts = [rng.uniform(0, seconds) for _ in range(max(1, len(unlinks) // 2 // _BURST))]
    for unlink in unlinks:
        in_burst = rng.choice(bursts) + rng.uniform(0, _BURST_SECONDS)
        at = rng.choice((in_burst, rng.uniform(0, seconds)))
        yield Publication(at, unlink.key)
        if rng.random() < _STUTTERED:
            yield Publication(at + rng.uniform(0, 0.5), unlink.key)
        if rng.random() < _REPEATED:
            yield Publication(min(at + rng.uniform(*_REPEATED_AFTER_SECONDS), seconds), unlink.key)


def _unlink(rng: Random, key: str, job: PlannedJob, link: LinkedRepository, *, alone: bool) -> Unlink:
    repository = rng.choice(
        (
            {"link_id": link.object_in_job_id},
            {"link_id": link.object_in_job_id},
            {"uid": link.repository_uid},
            {"name": repository_name(link.repository_uid)},
        )
    )
    command: dict[str, Any] = {
        "command": "unlink.v1",
        "idempotency_key": key,
        "job": rng.choice(({"id": job.id}, {"id": job.id}, {"name": job.name})),
        "repository": repository,
        "requested_by": "chaos",
    }
    return Unlink(key, job.id, link, alone, json.dumps(command).encode())


def _link(rng: Random) -> LinkedRepository:
    return LinkedRepository(_id(rng), _id(rng))


def _id(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
