"""One private RabbitMQ node, and Erlang's port mapper for the nodes of one supervisor."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.free_ports import LOOPBACK, free_port, is_open
from worker.sandbox.processes.supervisor import output_of, wait_until
from worker.sandbox.secret import new_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.sandbox.processes.supervisor import ProcessSupervisor, Program
    from worker.sandbox.rabbitmq.installation import Installation

#: How long a node may take to start, in seconds. It takes 4 to 7 alone; many at once on a small machine take longer.
_START_SECONDS = 120.0

#: How long a node may take to stop in good order, in seconds.
_STOP_SECONDS = 60.0

#: How long one call of rabbitmqctl may take, in seconds: it starts an Erlang of its own.
_CONTROL_SECONDS = 90.0

#: The line with which a node of any version says that it takes connections.
_STARTED = "Server startup complete"

#: How many of the log's errors a message repeats; Erlang says one thing in many lines, the cause first.
_ERRORS_SHOWN = 20

#: The ports that rabbitmqctl listens on for the node's answers, wide enough for many calls at once.
_CONTROL_PORTS = ("32000", "32700")


#: No busy waiting: Erlang's schedulers spin before they sleep, which takes the processor from the programs beside them
#: (https://www.rabbitmq.com/docs/runtime#busy-waiting).
_IDLE = "+sbwt none +sbwtdcpu none +sbwtdio none"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The first user of a private broker, and the cookie by which its nodes and tools know each other."""

    user: str = "unlink"
    password: str = field(default_factory=new_secret, repr=False)
    cookie: str = field(default_factory=new_secret, repr=False)

    def url(self, port: int, scheme: str = "amqp") -> str:
        """The URL of one of its ports, without a path. Holds the password: not for a log."""
        return f"{scheme}://{self.user}:{self.password}@{LOOPBACK}:{port}/"


def full_name(name: str) -> str:
    """The name under which Erlang knows a node of this machine."""
    return f"{name}@localhost"


class PortMapper:
    """Erlang's port mapper (epmd) for the nodes of one supervisor: never the machine's, which would outlive them.

    Raises:
        PartFailedError: it does not start.
    """

    def __init__(self, supervisor: ProcessSupervisor, installation: Installation) -> None:
        path = installation.search_path()
        epmd = shutil.which("epmd", path=path)
        if epmd is None:
            raise PartFailedError("there is an erl on the PATH, but no epmd beside it")
        port = free_port()
        #: The environment in which Erlang programs find it, and find themselves.
        self.environment = {"PATH": path, "ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": LOOPBACK}
        # In the foreground: as a daemon it would leave the supervisor.
        program = supervisor.start([epmd], environment=self.environment, log=supervisor.directory / "epmd.log")
        wait_until(lambda: is_open(port) or not program.running, seconds=10)
        if not program.running:
            raise PartFailedError(f"epmd did not start:\n{program.log_tail()}")


class RabbitmqNode:
    """One RabbitMQ node in a supervisor. Its name, ports, user and directory stay the same from start to start.

    Args:
        supervisor: where it lives.
        installation: the programs that it runs.
        mapper: where it and its peers find each other.
        name: its name before the `@`: letters, digits, `_` and `-`.
        credentials: its first user, and the cookie that it shares with its peers.
        management: whether the management plugin runs too, and the one that gives metrics to Prometheus.
        peers: the names of nodes of its cluster, its own among them; on its first start it joins those that are there.
    """

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
        self.name = full_name(name)
        self.port = free_port()
        self.management_port = free_port() if management else None
        self.metrics_port = free_port() if management else None
        self._supervisor = supervisor
        self._scripts = installation.scripts
        self._directory = supervisor.directory / name
        self._directory.mkdir()
        self._log = self._directory / "node.log"
        self._program: Program | None = None
        self._credentials = credentials
        self._configure(peers)
        #: What its programs, rabbitmqctl among them, must find in their environment. Holds no secret.
        self.environment = mapper.environment | self._variables()

    @property
    def url(self) -> str:
        """`amqp://user:password@127.0.0.1:port/`. Holds the password: not for a log."""
        return self._credentials.url(self.port)

    @property
    def running(self) -> bool:
        """Whether the node's program runs."""
        return self._program is not None and self._program.running

    def start(self) -> None:
        """Start it, and return as soon as it takes connections. Does nothing if it runs.

        Raises:
            PartFailedError: it ended, or took too long; the message ends with its log.
        """
        if not self.running:
            self.launch()
        self.await_startup()

    def launch(self) -> None:
        """Start it without waiting: nodes of a cluster may wait for each other."""
        self._log.unlink(missing_ok=True)
        self._program = self._supervisor.start(
            [self._scripts / "rabbitmq-server"], environment=self.environment, log=self._log
        )

    def await_startup(self) -> None:
        """Wait until it takes connections.

        Raises:
            PartFailedError: as `start`.
        """
        wait_until(lambda: self._is_up() or not self.running, seconds=_START_SECONDS)
        if not self._is_up():
            self.kill()
            raise PartFailedError(f"RabbitMQ did not start; its log says:\n{self._complaints()}")

    def stop(self) -> None:
        """Let it end in good order, and keep its directory. Does nothing if it does not run.

        Raises:
            PartFailedError: it does not end.
        """
        if self._program is not None:
            self._program.signal(signal.SIGTERM)
            self._program.wait(seconds=_STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL: a power cut for the node, though not for its disk.

        RabbitMQ 3.10 forgets a quorum queue that was declared less than about a second before: it saves their names
        every half second (`auto_save` of the directory in its library Ra).
        """
        if self._program is not None:
            self._program.kill()

    def suspend(self) -> None:
        """SIGSTOP: a node that hangs."""
        if self._program is not None:
            self._program.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on."""
        if self._program is not None:
            self._program.signal(signal.SIGCONT)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on the node and return what it prints. Takes a second or two.

        Raises:
            PartFailedError: it failed; the message is what it said.
        """
        command = [str(self._scripts / "rabbitmqctl"), "--quiet", "--node", self.name, *arguments]
        return output_of(command, f"rabbitmqctl {arguments[0]}", seconds=_CONTROL_SECONDS, environment=self.environment)

    def log_tail(self) -> str:
        """The last lines of its log."""
        return self._program.log_tail() if self._program else ""

    def _complaints(self) -> str:
        """The first errors in its log, which tell the cause, and its last lines, if there are none."""
        log = self._log.read_text(errors="replace") if self._log.is_file() else ""
        errors = [line for line in log.splitlines() if "[error]" in line]
        return "\n".join(errors[:_ERRORS_SHOWN]) or self.log_tail()

    def _is_up(self) -> bool:
        started = self._log.is_file() and _STARTED in self._log.read_text(errors="replace")
        return started and self.running and is_open(self.port)

    def _configure(self, peers: Sequence[str]) -> None:
        settings = {
            "listeners.tcp.1": f"{LOOPBACK}:{self.port}",
            "default_user": self._credentials.user,
            "default_pass": self._credentials.password,
            "log.console.level": "info",
            # A laptop's full disk is no reason for the sandbox to stand still.
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
        self._write(".erlang.cookie", self._credentials.cookie)
        # Empty, in the place of the machine's own.
        self._write("rabbitmq-env.conf", "")
        self._write("advanced.config", "[].")

    def _write(self, name: str, content: str) -> None:
        file = self._directory / name
        file.touch(mode=0o600)
        file.write_text(content)

    def _variables(self) -> dict[str, str]:
        """Every place where RabbitMQ would otherwise look at the machine's, each with one of its own."""
        own = self._directory
        return {
            "HOME": str(own),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            # No dump of a node's memory when it cannot start: its log says why.
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
