"""What happens to PostgreSQL and Enterprise Manager: one of them at a time is away, frozen or wrong."""

from __future__ import annotations

import time
from random import Random

from tests.chaos.deployment import LEASE_SECONDS
from tests.chaos.strikes.strike import Strike, Target
from worker.ledger.postgresql import ANSWER_SECONDS
from worker.sandbox.simulated_enterprise_manager import Fault


def _restart_postgresql(target: Target, rng: Random) -> None:
    target.deployment.postgresql.stop()
    time.sleep(rng.uniform(0, 1.5 * LEASE_SECONDS))
    target.deployment.postgresql.start()


def _kill_postgresql(target: Target, rng: Random) -> None:
    target.deployment.postgresql.kill()
    time.sleep(rng.uniform(0, LEASE_SECONDS))
    target.deployment.postgresql.start()


def _freeze_postgresql(target: Target, rng: Random) -> None:
    """For longer than a worker waits for an answer. Where only the backends are frozen, new connections are made."""
    target.deployment.postgresql.suspend(new_connections=rng.choice((True, False)))
    time.sleep(ANSWER_SECONDS * rng.uniform(1.3, 2))
    target.deployment.postgresql.resume()


def _fail_over(target: Target, rng: Random) -> None:
    target.deployment.fail_over(promote_after=rng.uniform(0, LEASE_SECONDS))


def _restart_enterprise_manager(target: Target, _rng: Random) -> None:
    target.deployment.enterprise_manager.restart()


def _stop_enterprise_manager(target: Target, rng: Random) -> None:
    target.deployment.enterprise_manager.refuse_connections()
    time.sleep(rng.uniform(2, 8))
    target.deployment.enterprise_manager.accept_connections()


def _expire_sessions(target: Target, _rng: Random) -> None:
    target.deployment.enterprise_manager.expire_sessions()


def _lose_answers(target: Target, rng: Random) -> None:
    _meet(target, rng, Fault(kind="acts_and_drops_connection", method="DELETE", path="/linkedBackup", times=None))


def _overload(target: Target, rng: Random) -> None:
    _meet(target, rng, Fault(kind="status", status=503, retry_after="1", times=None))


def _meet(target: Target, rng: Random, fault: Fault) -> None:
    """Let all requests meet a fault for a while; a number of them would outlast the trial where few are sent."""
    target.deployment.enterprise_manager.inject(fault)
    time.sleep(rng.uniform(2, 6))
    target.deployment.enterprise_manager.clear_faults()


STRIKES = (
    Strike("PostgreSQL is restarted", _restart_postgresql, vital=True),
    Strike("PostgreSQL is killed and restarted", _kill_postgresql),
    Strike("PostgreSQL is frozen for longer than anybody waits", _freeze_postgresql),
    Strike("PostgreSQL is killed, and its standby promoted", _fail_over),
    Strike("Enterprise Manager is restarted, and forgets sessions and tasks", _restart_enterprise_manager),
    Strike("Enterprise Manager is away", _stop_enterprise_manager),
    Strike("all logon sessions expire", _expire_sessions),
    Strike("Enterprise Manager acts on DELETEs, and its answers are lost", _lose_answers),
    Strike("Enterprise Manager answers with 503", _overload),
)
