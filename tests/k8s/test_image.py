"""The images: what their Dockerfile promises, and its steps done where there is no container engine.

More than 400 lines: three images, and each promise of theirs beside the others'.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from packaging.requirements import Requirement

from tests import programs
from tests.k8s.dockerfile import Rehearsal, needed_for, pairs, read, stages
from tests.k8s.manifests import K8S, OVERLAYS, ROOT, rendered
from worker.sandbox.processes.free_ports import free_port
from worker.sandbox.processes.supervisor import wait_until
from worker.settings import ConsoleSettings, HttpSettings

DOCKERFILE = K8S / "image" / "Dockerfile"
IGNORE = K8S / "image" / "Dockerfile.dockerignore"
BUILD_LOCK = K8S / "image" / "build.lock"
SANDBOX_LOCK = K8S / "image" / "sandbox.lock"
CONSOLE_LOCK = K8S / "image" / "console.lock"

INSTRUCTIONS = read(DOCKERFILE)
STAGES = {stage.name: stage for stage in stages(INSTRUCTIONS)}

#: The stages that are images: the worker's, which is the last, the console's, and the one that compose.yaml alone runs.
WORKER = "final"
SIMULATED = "simulated-enterprise-manager"
CONSOLE = "console"
IMAGES = (WORKER, SIMULATED, CONSOLE)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _final(word: str) -> list[str]:
    return STAGES[WORKER].rest_of(word)


def test_the_image_that_is_built_without_a_target_is_the_worker_s() -> None:
    """`docker build` builds the last stage: the simulated Enterprise Manager would be deployed as the worker."""
    assert list(STAGES)[-1] == WORKER
    steps = needed_for(WORKER, INSTRUCTIONS)
    assert not any(other in each.rest for each in steps for other in ("sandbox", "simulated", "console"))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_s_labels_say_what_it_is(image: str) -> None:
    """Whoever finds the image in a registry, or in an incident, cannot tell which version of what it is."""
    (labels,) = map(pairs, STAGES[image].rest_of("LABEL"))
    name = "org.opencontainers.image."
    assert labels.keys() == {f"{name}{each}" for each in ("title", "description", "licenses", "version")}
    assert labels[f"{name}version"] == PROJECT["project"]["version"]
    assert labels[f"{name}licenses"] == PROJECT["project"]["license"]
    assert labels[f"{name}title"].startswith(PROJECT["project"]["name"])
    assert (labels[f"{name}description"] == PROJECT["project"]["description"]) is (image == WORKER)


def test_a_linter_that_reads_it_as_an_engine_does_has_nothing_against_the_dockerfile() -> None:
    """A mistake would be found only by whoever builds the image, since nobody builds it here."""
    linter = Path(sys.executable).parent / "hadolint"
    done = programs.run([linter, "--failure-threshold=warning", DOCKERFILE])
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_the_user_that_the_pods_ask_for() -> None:
    """`runAsNonRoot` refuses a user by name, and files are readable by the group of the manifests only."""
    (user,) = {user for image in IMAGES for user in STAGES[image].rest_of("USER")}
    for overlay in OVERLAYS:
        security = rendered(overlay).pod["securityContext"]
        assert user == f"{security['runAsUser']}:{security['runAsGroup']}"


def test_the_image_needs_no_shell() -> None:
    """A shell between the engine and the worker would swallow SIGTERM, and with it the drain."""
    assert [json.loads(rest) for rest in _final("ENTRYPOINT")] == [["unlink-worker"]]
    assert [json.loads(rest) for rest in _final("CMD")] == [["run"]]
    assert [json.loads(rest) for rest in STAGES[CONSOLE].rest_of("ENTRYPOINT")] == [["unlink-worker"]]
    assert [json.loads(rest) for rest in STAGES[CONSOLE].rest_of("CMD")] == [["console"]]
    assert all(isinstance(json.loads(rest), list) for rest in _final("RUN"))


def test_the_final_stage_takes_what_was_built_and_nothing_else() -> None:
    """What builds the worker, and what lies about in the project, has no place beside its passwords."""
    assert [rest.split() for rest in _final("COPY")] == [["--from=build", "/opt/unlink-worker", "/opt/unlink-worker"]]
    removed = {"pip", "setuptools", "wheel"}
    for image in IMAGES:
        assert STAGES[image].rest_of("ADD") == []
        runs = STAGES[image].rest_of("RUN")
        assert [removed < set(json.loads(rest)) and "uninstall" in rest for rest in runs] == [True]


def test_everything_that_is_downloaded_has_a_hash() -> None:
    """A package that somebody exchanged would run with the right to edit backup jobs."""
    installs = [json.loads(each.rest) for each in INSTRUCTIONS if each.word == "RUN" and '"install"' in each.rest]
    assert installs
    for command in installs:
        from_lock = {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(command)
        assert from_lock or "--no-index" in command
    wheels = [json.loads(each.rest) for each in INSTRUCTIONS if each.word == "RUN" and '"wheel", "--no' in each.rest]
    assert all({"--no-deps", "--no-build-isolation"} <= set(command) for command in wheels)
    assert len(wheels) == 1


def test_the_build_names_no_registry() -> None:
    """An image that names one cannot be built behind a mirror."""
    images = re.findall(r"^(?:ARG PYTHON_IMAGE=|FROM )(\S+)", DOCKERFILE.read_text(), flags=re.MULTILINE)
    base = "${PYTHON_IMAGE}"
    assert images == ["python:3.11-slim-bookworm", base, "build", base, "build", base, base]
    for file in (DOCKERFILE, IGNORE, BUILD_LOCK, SANDBOX_LOCK, CONSOLE_LOCK):
        assert "://" not in file.read_text()
        assert "index-url" not in file.read_text()


def test_the_build_s_own_tools_are_the_ones_that_the_project_asks_for() -> None:
    """The wheel would be made by something that nobody chose, or not at all."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", BUILD_LOCK.read_text(), flags=re.MULTILINE))
    wanted = [Requirement(each) for each in PROJECT["build-system"]["requires"]]
    assert pins.keys() == {each.name for each in wanted}
    assert all(each.specifier.contains(pins[each.name]) for each in wanted)
    assert BUILD_LOCK.read_text().count("--hash=sha256:") >= len(pins)


@pytest.mark.parametrize(("extra", "lock"), [("console", CONSOLE_LOCK), ("sandbox", SANDBOX_LOCK)])
def test_the_other_images_run_on_the_worker_s_own_versions(extra: str, lock: Path) -> None:
    """Two answers to which version of a package the project is tested with."""
    worker, other, tested = (
        dict(_pins(each)) for each in (ROOT / "requirements.lock", lock, ROOT / "requirements-dev.lock")
    )
    assert worker.items() < other.items() <= tested.items()
    wanted = map(Requirement, PROJECT["project"]["optional-dependencies"][extra])
    assert {each.name for each in wanted} <= set(other)


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    """Without the file the build fails; with too much of it a secret that lies about gets into a layer."""
    copied = {
        source.rstrip("/")
        for each in INSTRUCTIONS
        if each.word == "COPY" and not each.rest.startswith("--from")
        for source in each.rest.split()[:-1]
    }
    lines = [line for line in IGNORE.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert [line for line in lines[1:] if not line.startswith("!")] == ["**/__pycache__"]


def test_the_image_of_the_manifests_is_of_this_version() -> None:
    """An upgrade would roll out the old program with the new settings."""
    for overlay in OVERLAYS:
        assert rendered(overlay).container["image"] == f"unlink-worker:{PROJECT['project']['version']}"


def test_only_the_stages_of_a_target_are_done() -> None:
    """The rehearsal would prove something of an image that an engine makes differently."""
    assert [each.rest for each in needed_for("build", INSTRUCTIONS) if each.word == "FROM"] == [
        "${PYTHON_IMAGE} AS build"
    ]
    assert [each.rest.rpartition(" ")[2] for each in needed_for(SIMULATED, INSTRUCTIONS) if each.word == "FROM"] == [
        "build",
        "build-simulated-enterprise-manager",
        SIMULATED,
    ]


def test_the_port_that_the_image_names_is_the_program_s() -> None:
    """Somebody who publishes the image's port would reach nothing."""
    assert _final("EXPOSE") == [str(HttpSettings().port)]
    assert STAGES[CONSOLE].rest_of("EXPOSE") == [str(ConsoleSettings().port)]


# --- the steps themselves -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image() -> Iterator[Rehearsal]:
    """The worker's image."""
    with _made(WORKER) as rehearsal:
        yield rehearsal


@pytest.fixture(scope="module")
def console() -> Iterator[Rehearsal]:
    """The console's image."""
    with _made(CONSOLE) as rehearsal:
        yield rehearsal


@pytest.fixture(scope="module")
def simulated() -> Iterator[Rehearsal]:
    """The image of the simulated Enterprise Manager."""
    with _made(SIMULATED) as rehearsal:
        yield rehearsal


@contextmanager
def _made(target: str) -> Iterator[Rehearsal]:
    """An image's contents, made by the Dockerfile's own steps in a folder that other users can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        rehearsal = Rehearsal(context=ROOT, root=folder / "root", python=_base_image(folder / "base"))
        for instruction in needed_for(target, INSTRUCTIONS):
            try:
                rehearsal.do(instruction)
            except subprocess.CalledProcessError as error:
                pytest.fail(f"{instruction.rest}\n{error.stdout}\n{error.stderr}")
        yield rehearsal


@pytest.mark.slow
def test_the_built_program_says_what_it_can_do(image: Rehearsal) -> None:
    """An image without its program, or with half of its dependencies, ends every pod at its start."""
    done = _run(image, "--help")
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_built_program_with_wrong_settings_names_them_and_exits_with_2(image: Rehearsal) -> None:
    """Who forgets a secret must read in the pod's log which one, and nothing else."""
    done = _run(image, *image.command, UNLINK_BROKER__URL="http://wrong")
    assert done.returncode == 2
    assert "UNLINK_BROKER__URL: must start with amqp:// or amqps://" in done.stderr
    assert "UNLINK_LEDGER__URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_built_program_works_where_it_can_write_to_its_ledger_alone(image: Rehearsal) -> None:
    """On a read-only root a program that wants to leave a file behind somewhere ends, or worse, half works."""
    assert _writable(image) == []
    with tempfile.TemporaryDirectory() as volume:
        Path(volume).chmod(0o777)
        log = Path(volume) / "log"
        settings = {
            # Port 1 is nobody's.
            "UNLINK_BROKER__URL": "amqp://nobody:nothing@127.0.0.1:1/",
            "UNLINK_LEDGER__URL": f"sqlite:///{volume}/ledger.sqlite",
            "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__URL": "https://127.0.0.1:1",
            "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__USERNAME": "nobody",
            "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD": "nothing",
            "UNLINK_HTTP__HOST": "127.0.0.1",
            "UNLINK_HTTP__PORT": "0",
        }
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [*image.entrypoint, *image.command],
                env=_environment(image) | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                **_as_the_images_user(image),
            )
        try:
            waits = wait_until(
                lambda: "broker.connection_failed" in log.read_text() or worker.poll() is not None, seconds=60
            )
            assert waits, log.read_text()
            assert worker.poll() is None, log.read_text()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=60) == 0, log.read_text()
        finally:
            worker.kill()
            worker.wait()
        assert "Read-only" not in log.read_text()
        assert "Permission denied" not in log.read_text()
        assert {file.name.partition("-")[0] for file in Path(volume).iterdir()} == {"log", "ledger.sqlite"}


@pytest.mark.slow
def test_the_image_holds_what_the_lock_pins_and_nothing_to_build_with(image: Rehearsal) -> None:
    """A package that no lock names was never looked at; a pip in the image installs whatever an intruder likes."""
    listing = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = set(_python(image, listing).lower().replace("_", "-").split())
    pinned = {f"{name}=={version}" for name, version in _pins(ROOT / "requirements.lock")}
    assert installed - pinned == {f"unlink-worker=={PROJECT['project']['version']}"}
    base: list[str | Path] = [image.python / "python", "-I", "-c", listing]
    assert programs.run(base, check=True).stdout.split() == []


@pytest.mark.slow
def test_the_console_serves_where_it_can_write_nowhere_and_holds_what_its_lock_pins(console: Rehearsal) -> None:
    """Its pod would end at the start, or run a package that nobody looked at."""
    assert _writable(console) == []
    listing = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = set(_python(console, listing).lower().replace("_", "-").split())
    pinned = {f"{name}=={version}" for name, version in _pins(CONSOLE_LOCK)}
    assert installed - pinned == {f"unlink-worker=={PROJECT['project']['version']}"}
    port = free_port()
    with tempfile.TemporaryDirectory() as volume:
        Path(volume).chmod(0o777)
        settings = {"UNLINK_LEDGER__URL": f"sqlite:///{volume}/ledger.sqlite", "UNLINK_CONSOLE__PORT": str(port)}
        server = subprocess.Popen(
            [*console.entrypoint, *console.command],
            env=_environment(console) | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **_as_the_images_user(console),
        )
        try:
            assert server.stdout is not None
            while "console.listening" not in (line := server.stdout.readline()):
                assert line, "it has ended"
            page = requests.get(f"http://127.0.0.1:{port}/livez", timeout=30)
            assert page.ok, page.text
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
            server.communicate()


@pytest.mark.slow
def test_the_simulated_enterprise_manager_serves_where_it_can_write_to_its_state_alone(simulated: Rehearsal) -> None:
    """`docker compose up` would wait for a certificate that was never written, and for a password that nobody has."""
    folder = f"{simulated.root}/var/lib/enterprise-manager"
    # Whoever is not root owns all that they made, and gives the rest of it up below.
    if os.getuid() == 0:
        assert set(_writable(simulated)) == {folder}
    server = subprocess.Popen(
        [*simulated.entrypoint, f"--state-dir={folder}", "--host=127.0.0.1", "--name=enterprise-manager"],
        env=_environment(simulated),
        stdout=subprocess.PIPE,
        text=True,
        **_as_the_images_user(simulated, may_write=(folder,)),
    )
    try:
        assert server.stdout is not None
        about = json.loads(server.stdout.readline())
        port = about["url"].removeprefix("https://enterprise-manager:")
        ca_file = f"{folder}/ca.pem"
        answer = requests.get(f"https://localhost:{port}/api/", verify=ca_file, timeout=30)
        assert answer.ok
        assert {file.name for file in Path(folder).iterdir()} == {"ca.pem", "server.pem", "password"}
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        server.communicate()


def _pins(lock: Path) -> list[tuple[str, str]]:
    """Each package that a lock names, without extras, and its version."""
    return re.findall(r"^([\w.-]+)(?:\[\w+\])?==([^\s;]+)", lock.read_text(), re.MULTILINE)


def _base_image(folder: Path) -> Path:
    """The folder of a `python` that stands for the base image's: with pip and setuptools, as that has them."""
    subprocess.run([_interpreter(), "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-qq", "pip", "setuptools"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder / "bin"


def _interpreter() -> str:
    """A Python that the image's user can run: this one, or where that is in somebody's home, the system's."""
    own = os.path.realpath(sys.executable)
    if os.getuid() != 0 or _open_to_all(Path(own)):
        return own
    systems = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    if systems is None:
        pytest.skip(
            f"needs a Python that other users can run: they cannot run {own}, and the system has none of its own"
        )
    version = programs.run([systems, "-c", "import sys; print(sys.version_info >= (3, 11))"], check=True)
    if version.stdout.strip() != "True":
        pytest.skip(
            f"needs a Python that other users can run: they cannot run {own}, and the system's is older than 3.11"
        )
    return systems


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


def _as_the_images_user(image: Rehearsal, may_write: tuple[str, ...] = ()) -> dict[str, Any]:
    """How a program is started as the image's user; who is not root stays who they are, and little is writable."""
    if os.getuid() == 0:
        return {"user": image.user, "group": image.user, "extra_groups": [], "cwd": "/"}
    _take_write_permissions(image.root, but=may_write)
    return {"cwd": "/"}


def _take_write_permissions(folder: Path, but: tuple[str, ...]) -> None:
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink() and str(path) not in but:
            path.chmod(path.stat().st_mode & 0o555)


def _environment(image: Rehearsal) -> dict[str, str]:
    """The image's own, with no home and no place for temporary files."""
    return image.final_environment() | {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}


def _run(image: Rehearsal, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return _done(image, [*image.entrypoint, *arguments], settings)


def _python(image: Rehearsal, program: str) -> str:
    done = _done(image, ["python", "-I", "-c", program], {})
    assert done.returncode == 0, done.stderr
    return done.stdout


def _done(image: Rehearsal, command: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    user = _as_the_images_user(image)
    environment = _environment(image) | settings
    return programs.run(command, env=environment, timeout=120, **user)


def _writable(image: Rehearsal) -> list[str]:
    """What the image's user could write to."""
    program = (
        "import os\n"
        f"for folder, folders, files in os.walk({str(image.root)!r}):\n"
        "    for name in [folder, *(os.path.join(folder, each) for each in folders + files)]:\n"
        "        if os.access(name, os.W_OK) and not os.path.islink(name): print(name)\n"
    )
    return _python(image, program).split()
