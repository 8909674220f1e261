"""An upgrade: workers are replaced one by one while commands come in and unlinks are under way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end import supervised_worker
from tests.end_to_end.world import TIMEOUT_SECONDS, World, vendor_command
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.simulated_enterprise_manager import Behaviour
from worker.service import ENDED_AT_ONCE

REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"

#: The least time that Kubernetes is told to give a pod, by the drain time (k8s/base/deployment.yaml).
DRAIN_SECONDS = 2.0
GRACE_SECONDS = 2 * DRAIN_SECONDS + 40

UNLINKS_A_WAVE = 60


class Fleet:
    """Workers whose ends are written down."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder

    def start(self) -> WorkerProcess:
        """One more."""
        number = len(self._world.workers) + 1
        changes = {
            supervised_worker.ENDED: str(self._ended(number)),
            "UNLINK_DRAIN_SECONDS": str(DRAIN_SECONDS),
            "UNLINK_HTTP__HOST": "127.0.0.1",
        }
        return self._world.start_worker(changes, program=[supervised_worker.__file__])

    def signal(self, worker: WorkerProcess, number: signal.Signals = signal.SIGTERM) -> None:
        """As the kubelet does."""
        os.killpg(worker.pid, number)

    def ended(self, worker: WorkerProcess) -> tuple[int, float]:
        """The exit status, and how long it took."""
        file = self._ended(self._world.workers.index(worker) + 1)
        assert wait_until(file.exists, seconds=TIMEOUT_SECONDS), worker.log()[-3000:]
        status, seconds = file.read_text().split()
        return int(status), float(seconds)

    def _ended(self, number: int) -> Path:
        return self._folder / f"ended-{number}"


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_a_rolling_restart_loses_nothing_and_does_nothing_twice(
    world_on_postgresql: World, behaviour: Behaviour, tmp_path: Path
) -> None:
    """Every unlink of an upgrade ends once, with one DELETE, and each worker leaves by itself within its grace time."""
    world, fleet = world_on_postgresql, Fleet(world_on_postgresql, tmp_path)
    # Longer than the drain: whatever is under way when its worker leaves is finished by another.
    behaviour.edit_seconds = 3 * DRAIN_SECONDS
    old = [fleet.start() for _ in range(3)]
    world.listen()
    links: dict[str, str] = {}
    for wave, worker in enumerate(old):
        links |= send_wave(world, wave)
        world.until(lambda: len(under_way(world)) >= UNLINKS_A_WAVE / 3, "unlinks under way")
        fleet.start()
        fleet.signal(worker)
        status, seconds = fleet.ended(worker)
        assert (status, seconds < GRACE_SECONDS) == (0, True), (seconds, worker.log()[-3000:])
    world.until_ended(*links)
    world.until_acknowledged()
    world.listen_for(1)
    for key, link in links.items():
        assert [outcome for outcome, _ in world.ends_of(key)] == ["succeeded"], key
        assert world.enterprise_manager.deletes_of(link) == 1, key
    assert world.client.count("unlink.dead") == 0


def send_wave(world: World, wave: int) -> dict[str, str]:
    """Commands for jobs of their own; key and link of each."""
    links = {}
    for number in range(UNLINKS_A_WAVE):
        key = f"CHG{wave}-{number}"
        job = world.enterprise_manager.add_job(name=key, links=[REPOSITORY])
        links[key] = world.enterprise_manager.links(job)[0].object_in_job_id
        world.send(vendor_command(key, job={"id": job}, repository={"link_id": links[key]}))
    return links


def under_way(world: World) -> set[str | None]:
    """Keys that were received to be submitted, and not yet of an end."""
    started = {event.key for event in world.received if event.outcome == "submitted"}
    return started - {event.key for event in world.received if event.outcome != "submitted"}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_ends_it_at_once(
    world_on_postgresql: World, behaviour: Behaviour, tmp_path: Path, number: signal.Signals
) -> None:
    """Whoever cannot wait for the drain says so twice, and loses nothing: the broker has every command still."""
    world, fleet = world_on_postgresql, Fleet(world_on_postgresql, tmp_path)
    behaviour.edits_held = True
    worker = fleet.start()
    world.listen()
    world.send(vendor_command())
    worker.wait_for_log("unlink.submitted")
    fleet.signal(worker)
    worker.wait_for_log("worker.draining")
    fleet.signal(worker, number)
    status, seconds = fleet.ended(worker)
    assert (status, seconds < DRAIN_SECONDS) == (ENDED_AT_ONCE, True)
    behaviour.edits_held = False
    fleet.start()
    world.until_ended("CHG1")
    assert {outcome for outcome, _ in world.ends_of("CHG1")} == {"succeeded"}
