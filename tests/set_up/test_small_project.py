"""Setting up a small project, with wheels made for the purpose: the project's own script, Makefile and README.

test_locks.py asks of the project itself what only takes longer there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from tests.set_up.downloads import locked_wheels, pip_wheel
from tests.set_up.environments import (
    Environment,
    copy_parts,
    install_as_make_does,
    install_as_the_readme_says,
    installed,
    run,
    surroundings,
)
from tests.set_up.package_index import NEWER, PackageIndex, make_newer_wheels, make_wheel, package_index
from worker.sandbox.processes.free_ports import LOOPBACK, free_port

#: What setting up needs of the project besides its locks and pyproject.toml.
_PARTS = (".ci/virtual_environment.py", "Makefile", "worker/sandbox/errors.py", "worker/sandbox/packages.py")

_PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "small"
version = "1.0"
dependencies = ["reader"]

[project.scripts]
unlink-worker = "reader:main"

[tool.setuptools]
packages = ["worker"]
"""

_READER = {"reader.py": "def main():\n    print('read')\n"}

#: One that goes past the lock unless it is told not to.
_PIP = "23.2.1"


@dataclass(frozen=True, slots=True)
class Project:
    """A small project whose locks pin `reader`, `parser`, which `reader` wants with an extra, and the real setuptools.

    Attributes:
        folder: where it is.
        wheels: the folder of the wheels that are made for it.
        index: an index of these, with a newer release of each.
        setuptools: the wheel of the locked setuptools.
    """

    folder: Path
    wheels: Path
    index: PackageIndex
    setuptools: Path

    def lock(self, *wheels: Path) -> None:
        """Pin some wheels, and setuptools, in all locks."""
        packages, tools = "".join(map(_pin, wheels)), _pin(self.setuptools)
        for name, text in {
            "requirements.lock": packages,
            "requirements-dev.lock": packages + tools,
            "k8s/image/build.lock": tools,
        }.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)

    @property
    def locked(self) -> dict[str, str]:
        """What is installed if the first lock is, and the project itself."""
        return {"reader": "1.0", "parser": "1.0", "setuptools": self.setuptools.name.split("-")[1], "small": "1.0"}

    @property
    def complete(self) -> Path:
        """What `make` takes as a sign that .venv is what the lock says."""
        return self.folder / ".venv" / ".complete"

    def settings(self, **settings: str) -> dict[str, str]:
        """The environment of a user with this index."""
        return surroundings(**{"index_url": self.index.url, "retries": "0"} | settings)

    def make(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `make venv` as a user with this index and these settings."""
        return run(["make", f"PYTHON={sys.executable}", "venv"], self.folder, self.settings(**settings))

    def made(self) -> dict[str, str]:
        """What is installed in .venv, without pip."""
        found = installed(self.folder / ".venv" / "bin" / "python")
        return {name: version for name, version in found.items() if name != "pip"}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A small project that can be set up."""
    (setuptools,) = locked_wheels("k8s/image/build.lock").glob("setuptools-*.whl")
    wheels, newer = tmp_path / "wheels", tmp_path / "newer"
    wheels.mkdir()
    (wheels / setuptools.name).symlink_to(setuptools)
    make_newer_wheels(newer, ["reader", "parser", "setuptools", "pip"])
    folder = copy_parts(tmp_path / "project", *_PARTS)
    (folder / "pyproject.toml").write_text(_PYPROJECT)
    with package_index(wheels, newer) as index:
        project = Project(folder, wheels, index, setuptools)
        reader = make_wheel(wheels, "reader", "1.0", requires=["parser[fast]>=1"], modules=_READER)
        project.lock(reader, make_wheel(wheels, "parser", "1.0", extras=["fast"]))
        yield project


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A virtual environment with the pip that goes past the lock unless it is told not to."""
    return Environment(tmp_path / "environment", pip_wheel(_PIP))


@pytest.mark.slow
def test_without_no_deps_pip_goes_past_the_lock(project: Project, environment: Environment) -> None:
    """If nothing tempted pip, the other tests here would pass whatever the project does."""
    pip = (environment.python, "-m", "pip", "install")
    done = run([*pip, "--require-hashes", "-r", "requirements-dev.lock"], project.folder, project.settings())
    assert done.returncode != 0
    assert "These do not:\n    parser[fast]>=1 from " in done.stderr
    done = run([*pip, "--upgrade", "reader", "parser", "setuptools", "pip"], project.folder, project.settings())
    assert done.returncode == 0, done.stderr
    assert environment.installed() == dict.fromkeys(("reader", "parser", "setuptools", "pip"), NEWER)


@pytest.mark.slow
def test_the_readme_s_lines_install_what_the_lock_pins(project: Project, environment: Environment) -> None:
    """Who installs in a year would run releases that nobody tested, or nothing at all."""
    done = install_as_the_readme_says(project.folder, environment, project.settings())
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("read\n")
    assert environment.installed() == project.locked | {"pip": _PIP}
    assert [wheel for wheel in project.index.taken if NEWER in wheel] == []


@pytest.mark.slow
def test_make_installs_what_the_lock_pins_whatever_the_user_s_pip_settings_say(
    project: Project, environment: Environment, tmp_path: Path
) -> None:
    """A newer release would break `make demo`, `user = true` in pip.conf would leave .venv empty, and so on."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / ".config" / "pip").mkdir(parents=True)
    (tmp_path / "constraints").write_text(f"reader=={NEWER}\n")
    (tmp_path / "more").write_text(f"pip=={NEWER}\n")
    (home / ".config" / "pip" / "pip.conf").write_text(
        f"""
[global]
index-url = {project.index.url}
constraint = {tmp_path}/constraints
no-binary = :all:
quiet = 3
require-virtualenv = true
user = true

[install]
dry-run = true
no-compile = false
pre = true
requirement = {tmp_path}/more
target = {elsewhere}
upgrade = true
"""
    )
    users = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "PIP_PREFIX": str(elsewhere)}
    settings = {name: value for name, value in surroundings().items() if name != "PIP_CONFIG_FILE"} | users
    done = install_as_make_does(project.folder, environment, settings)
    assert done.returncode == 0, done.stderr
    assert environment.installed() == project.locked | {"pip": _PIP}
    assert [wheel for wheel in project.index.taken if NEWER in wheel] == []
    assert not elsewhere.exists()


@pytest.mark.slow
def test_an_unchanged_lock_is_not_installed_again_and_of_a_changed_one_nothing_stays(project: Project) -> None:
    """Each `make test` would take half a minute longer, or run with a package that no lock names any more."""
    first = project.make()
    assert first.returncode == 0, first.stderr
    assert project.made() == project.locked
    taken, stamp = list(project.index.taken), project.complete.stat()

    second = project.make()
    assert (second.returncode, second.stderr) == (0, "")
    assert project.index.taken == taken
    assert project.complete.stat() == stamp

    project.lock(make_wheel(project.wheels, "reader", "2.0", modules=_READER))
    os.utime(project.folder / "requirements-dev.lock", (stamp.st_mtime + 1, stamp.st_mtime + 1))
    third = project.make()
    assert third.returncode == 0, third.stderr
    assert project.made() == {name: version for name, version in project.locked.items() if name != "parser"} | {
        "reader": "2.0"
    }


@pytest.mark.slow
def test_after_a_failure_that_it_explains_in_one_line_make_tries_again(project: Project) -> None:
    """Half an environment would be taken for a whole one from then on."""
    (wheel,) = project.wheels.glob("parser-*.whl")
    kept = wheel.rename(wheel.with_suffix(".kept"))
    failed = project.make()
    assert failed.returncode != 0
    begin, reason, make = failed.stderr.splitlines()
    assert begin.startswith("Setting up .venv: ")
    assert reason.startswith("The virtual environment could not be set up: the package index has no wheel of parser")
    assert make.startswith("make: *** ")
    assert not project.complete.exists()

    kept.rename(wheel)
    done = project.make()
    assert done.returncode == 0, done.stderr
    assert project.made() == project.locked


@pytest.mark.slow
def test_a_wheel_with_another_hash_is_refused_in_one_line(project: Project, environment: Environment) -> None:
    """Code that somebody exchanged would run, or the user would not learn which package it is."""
    make_wheel(project.wheels, "parser", "1.0", extras=["fast"], modules={"parser.py": "exchanged = True\n"})
    done = install_as_make_does(project.folder, environment, project.settings())
    assert done.returncode != 0
    assert done.stderr == "not what requirements-dev.lock pins, by its hash: parser==1.0\n"
    assert environment.installed() == {"pip": _PIP}


@pytest.mark.slow
def test_a_package_that_the_index_lacks_is_named_in_one_line(project: Project, environment: Environment) -> None:
    """The user would not find in pip's many lines what to ask the index's owner for."""
    (wheel,) = project.wheels.glob("parser-*.whl")
    wheel.unlink()
    done = install_as_make_does(project.folder, environment, project.settings())
    assert done.returncode != 0
    assert done.stderr == "the package index has no wheel of parser==1.0 for this Python and machine\n"


@pytest.mark.slow
def test_an_index_that_does_not_answer_is_named_as_the_cause(project: Project, environment: Environment) -> None:
    """The user would look for a missing package instead of a proxy setting."""
    settings = project.settings(index_url=f"http://{LOOPBACK}:{free_port()}/simple/", retries="1")
    done = install_as_make_does(project.folder, environment, settings)
    assert done.returncode != 0
    assert done.stderr.startswith("the package index cannot be reached: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_lock_that_lacks_a_dependency_is_said_to(project: Project, environment: Environment) -> None:
    """Since pip resolves nothing, the missing package would be noticed only when something imports it."""
    (reader,) = project.wheels.glob("reader-*.whl")
    project.lock(reader)
    done = install_as_make_does(project.folder, environment, project.settings())
    assert done.returncode != 0
    assert done.stderr == (
        "requirements-dev.lock is not complete: reader 1.0 requires parser, which is not installed.\n"
    )


def _pin(wheel: Path) -> str:
    name, version, *_ = wheel.name.split("-")
    return f"{name}=={version} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.mark.slow
def test_two_calls_at_once_make_one_environment(project: Project) -> None:
    """Each cleared what the other had made, and pip installed into the user's own Python."""
    command = ["make", f"PYTHON={sys.executable}", "venv"]
    both = [
        subprocess.Popen(
            command,
            cwd=project.folder,
            env=project.settings(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [one.communicate(timeout=90)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum("Setting up .venv" in each for each in said) == 1
    assert project.made() == project.locked


@pytest.mark.slow
def test_an_environment_that_cannot_work_here_is_made_anew(project: Project) -> None:
    """A project that was moved, or whose Python was removed, would fail with a program that is not there."""
    assert project.make().returncode == 0
    moved = project.folder.rename(project.folder.with_name("moved here"))
    elsewhere = Project(moved, project.wheels, project.index, project.setuptools)
    done = elsewhere.make()
    assert (done.returncode, "Setting up .venv" in done.stderr) == (0, True), done
    (moved / ".venv/bin/python").unlink()
    assert "Setting up .venv" in elsewhere.make().stderr
    assert elsewhere.make().stderr == ""
    assert elsewhere.made() == elsewhere.locked


@pytest.mark.slow
def test_a_python_that_is_named_and_is_none_is_said(project: Project) -> None:
    """Another would be taken without a word."""
    done = run(["make", "PYTHON=/nonexistent/python", "venv"], project.folder, project.settings())
    assert done.returncode == 2
    assert "none of these is it: /nonexistent/python" in done.stderr
