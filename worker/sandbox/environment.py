"""The whole sandbox: a private broker, a simulated Enterprise Manager, a ledger, and any number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from worker.sandbox.contexts import Assembly
from worker.sandbox.processes.supervisor import ProcessSupervisor
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.rabbitmq.choice import private_broker
from worker.sandbox.simulated_enterprise_manager import Behaviour, SimulatedEnterpriseManager, Simulation

#: Settings for a worker in a demo: waits that take minutes in production take seconds here.
HURRIED = {
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__POLL_INTERVAL_SECONDS": "0.4",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__VERIFY_SECONDS": "10",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__SETTLING_SECONDS": "4",
    "UNLINK_LEDGER__LEASE_SECONDS": "3",
    "UNLINK_DRAIN_SECONDS": "2",
}


def enterprise_manager_environment(enterprise_manager: Simulation, name: str = "DEFAULT") -> dict[str, str]:
    """The settings with which a worker connects to an Enterprise Manager. They contain a password: do not log them."""
    prefix = f"UNLINK_ENTERPRISE_MANAGERS__{name}__"
    return {
        f"{prefix}URL": enterprise_manager.url,
        f"{prefix}USERNAME": enterprise_manager.username,
        f"{prefix}PASSWORD": enterprise_manager.password,
        f"{prefix}CA_FILE": str(enterprise_manager.ca_file),
    }


def worker_environment(
    broker_url: str,
    ledger_url: str,
    enterprise_manager: SimulatedEnterpriseManager,
) -> dict[str, str]:
    """The settings of a worker that uses these servers. They contain passwords: do not log them."""
    return HURRIED | {
        "UNLINK_BROKER__URL": broker_url,
        "UNLINK_LEDGER__URL": ledger_url,
        **enterprise_manager_environment(enterprise_manager),
        "UNLINK_HTTP__PORT": "0",
    }


class SandboxEnvironment(Assembly):
    """All parts of the sandbox, as a context manager. On exit, all processes are ended and all files are removed.

    Args:
        behaviour: the initial behaviour of the simulated Enterprise Manager.
        management: whether the broker has its management plugin.
    """

    def __init__(
        self,
        *,
        behaviour: Behaviour | None = None,
        management: bool = False,
    ) -> None:
        self._behaviour = behaviour
        self._management = management
        self._started = 0

    def _open(self, stack: ExitStack) -> None:
        self.supervisor = stack.enter_context(ProcessSupervisor("sandbox"))
        # They contain a private key. The supervisor's directory is removed even if this process gets SIGKILL.
        certificates = self.supervisor.directory / "certificates"
        certificates.mkdir()
        self.enterprise_manager = stack.enter_context(
            SimulatedEnterpriseManager.start(behaviour=self._behaviour, folder=certificates)
        )
        self.broker = stack.enter_context(private_broker(management=self._management))

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a worker of this sandbox. They contain passwords: do not log them."""
        ledger_url = f"sqlite:///{self.supervisor.directory / 'ledger.sqlite'}"
        return worker_environment(self.broker.url, ledger_url, self.enterprise_manager)

    def start_worker(self, changes: Mapping[str, str] | None = None) -> WorkerProcess:
        """Start one more worker. Returns when it consumes commands."""
        self._started += 1
        worker = WorkerProcess(self.supervisor, f"worker-{self._started}", self.environment | dict(changes or {}))
        worker.wait_until_started()
        return worker
