"""One private RabbitMQ node, and Erlang's port mapper (epmd) for the nodes of one supervisor."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence

from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.free_ports import LOOPBACK, free_port, is_open
from worker.sandbox.processes.supervisor import ProcessSupervisor, Program, output_of, wait_until
from worker.sandbox.rabbitmq.installation import Installation
from worker.sandbox.rabbitmq.private_broker import Credentials, PrivateBroker

#: How long a node may take to shut down cleanly, in seconds.
_STOP_SECONDS = 60.0

#: How long one call of rabbitmqctl may take, in seconds. Each call starts an Erlang virtual machine.
_CONTROL_SECONDS = 90.0

#: The range of ports on which rabbitmqctl listens for the node's responses, large enough for many concurrent calls.
_CONTROL_PORTS = ("32000", "32700")


#: Disables busy waiting: Erlang's schedulers spin before they sleep, which takes CPU time from other programs
#: (https://www.rabbitmq.com/docs/runtime#busy-waiting).
_IDLE = "+sbwt none +sbwtdcpu none +sbwtdio none"


def full_name(name: str) -> str:
    """The full Erlang name of a node on this host."""
    return f"{name}@localhost"


class PortMapper:
    """Erlang's port mapper (epmd) for the nodes of one supervisor. The host's epmd is not used: it would outlive them.

    Raises:
        PartFailedError: it does not start.
    """

    def __init__(self, supervisor: ProcessSupervisor, installation: Installation) -> None:
        path = installation.search_path()
        epmd = shutil.which("epmd", path=path)
        if epmd is None:
            raise PartFailedError(
                "there is an erl on the PATH, but no epmd beside it"
                if shutil.which("erl", path=path)
                else f"the RabbitMQ in {installation.scripts} needs Erlang: put the folder of its erl on the PATH"
            )
        port = free_port()
        #: The environment variables with which Erlang programs find the port mapper and each other.
        self.environment = {"PATH": path, "ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": LOOPBACK}
        # In the foreground: a daemon would detach itself from the supervisor.
        program = supervisor.start([epmd], environment=self.environment, log=supervisor.directory / "epmd.log")
        wait_until(lambda: is_open(port) or not program.running, seconds=10)
        if not program.running:
            raise PartFailedError(f"epmd did not start:\n{program.log_tail()}")


class RabbitmqNode(PrivateBroker):
    """One RabbitMQ node in a supervisor, alone or in a cluster.

    Args:
        supervisor: runs its program and contains its directory.
        installation: the programs that it runs.
        mapper: the port mapper through which it and its peers find each other.
        name: its name before the `@`: letters, digits, `_` and `-`.
        credentials: its first user, and the cookie that it shares with its peers.
        management: as for every `PrivateBroker`.
        peers: the names of all nodes of its cluster, including its own. On its first start it joins the running ones.
    """

    #: One node takes 4 to 7 s. Many concurrent starts on a small host take longer.
    _start_seconds = 120.0

    def __init__(
        self,
        supervisor: ProcessSupervisor,
        installation: Installation,
        mapper: PortMapper,
        *,
        name: str,
        credentials: Credentials,
        management: bool,
        peers: Sequence[str] = (),
    ) -> None:
        self._directory = supervisor.directory / name
        self._directory.mkdir()
        super().__init__(
            supervisor,
            self._directory / "node.log",
            credentials=credentials,
            management=management,
            description=installation.description,
        )
        self.name = full_name(name)
        self._scripts = installation.scripts
        self._configure(peers)
        self.environment = mapper.environment | self._variables()

    def stop(self) -> None:  # noqa: D102 - as the base class says
        self._signal(signal.SIGTERM)
        if self._program is not None:
            self._program.wait(seconds=_STOP_SECONDS)

    def kill(self) -> None:  # noqa: D102 - as above
        if self._program is not None:
            self._program.kill()

    def suspend(self) -> None:  # noqa: D102 - as above
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:  # noqa: D102 - as above
        self._signal(signal.SIGCONT)

    def rabbitmqctl(self, *arguments: str) -> str:  # noqa: D102 - as above
        command = [str(self._scripts / "rabbitmqctl"), "--quiet", "--node", self.name, *arguments]
        return output_of(command, f"rabbitmqctl {arguments[0]}", seconds=_CONTROL_SECONDS, environment=self.environment)

    def _launched(self) -> Program:
        return self._supervisor.start([self._scripts / "rabbitmq-server"], environment=self.environment, log=self.log)

    def _signal(self, number: signal.Signals) -> None:
        if self._program is not None:
            self._program.signal(number)

    def _configure(self, peers: Sequence[str]) -> None:
        settings = {
            "listeners.tcp.1": f"{LOOPBACK}:{self.port}",
            "default_user": self.credentials.user,
            "default_pass": self.credentials.password,
            "log.console.level": "info",
            # A low limit: RabbitMQ blocks publishers below the limit, and the disk of a laptop may be almost full.
            "disk_free_limit.absolute": "1MB",
        }
        if self.management_port:
            settings |= {"management.tcp.ip": LOOPBACK, "management.tcp.port": str(self.management_port)}
            settings |= {"prometheus.tcp.ip": LOOPBACK, "prometheus.tcp.port": str(self.metrics_port)}
        settings |= {
            f"cluster_formation.classic_config.nodes.{number}": full_name(peer)
            for number, peer in enumerate(peers, start=1)
        }
        self._write("rabbitmq.conf", "".join(f"{name} = {value}\n" for name, value in settings.items()))
        plugins = "rabbitmq_management,rabbitmq_prometheus" if self.management_port else ""
        self._write("enabled_plugins", f"[{plugins}].")
        self._write(".erlang.cookie", self.credentials.cookie)
        # An empty file, so that the host's own is not read.
        self._write("rabbitmq-env.conf", "")
        self._write("advanced.config", "[].")

    def _write(self, name: str, content: str) -> None:
        file = self._directory / name
        file.touch(mode=0o600)
        file.write_text(content)

    def _variables(self) -> dict[str, str]:
        """Variables that replace every path of the host that RabbitMQ would use with a path in the node's directory."""
        own = self._directory
        return {
            "HOME": str(own),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            # No crash dump when the node cannot start: its log has the reason.
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_BASE": str(own),
            "RABBITMQ_MNESIA_BASE": str(own / "mnesia"),
            "RABBITMQ_LOG_BASE": str(own / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(own / "pid"),
            "RABBITMQ_CONF_ENV_FILE": str(own / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(own / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(own / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(own / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(own / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(own / "config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_IDLE} -start_epmd false "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_ERL_ARGS": _IDLE,
            "RABBITMQ_CTL_DIST_PORT_MIN": _CONTROL_PORTS[0],
            "RABBITMQ_CTL_DIST_PORT_MAX": _CONTROL_PORTS[1],
        }
