"""A worker that is told to stop while something is away."""

from __future__ import annotations

import json
import uuid

import pika
import pytest

from tests.private_servers.postgresql import PrivatePostgresql
from worker.sandbox.environment import worker_environment
from worker.sandbox.processes.supervisor import ProcessSupervisor, wait_until
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager

pytestmark = pytest.mark.slow


def test_stopping_while_the_ledger_is_away_is_quiet_and_loses_nothing(
    broker_url: str, simulated_enterprise_manager: SimulatedEnterpriseManager
) -> None:
    """Each rollout during an outage of the database would fill the log with stack traces, one for each unlink."""
    em = simulated_enterprise_manager
    em.behaviour.edits_held = True
    job = em.add_job(name="Job", links=[str(uuid.uuid4())])
    (link,) = em.links(job)
    command = {
        "command": "unlink.v1",
        "idempotency_key": "K",
        "job": {"id": job},
        "repository": {"link_id": link.object_in_job_id},
    }
    with ProcessSupervisor("leaving") as supervisor, PrivatePostgresql() as postgresql:
        environment = worker_environment(broker_url, postgresql.create_database("ledger"), em)
        worker = WorkerProcess(supervisor, "worker", environment)
        worker.wait_until_started()
        with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
            channel = connection.channel()
            channel.basic_publish("unlink.commands", "default", json.dumps(command).encode())
            worker.wait_for_log("unlink.submitted")
            postgresql.stop()
            em.behaviour.edits_held = False
            worker.stop()
            assert "Traceback" not in worker.log()
            queue = "unlink.commands.default"
            assert wait_until(lambda: _ready(connection, queue) == 1, seconds=60)


def _ready(connection: pika.BlockingConnection, queue: str) -> int:
    return int(connection.channel().queue_declare(queue, passive=True).method.message_count)
