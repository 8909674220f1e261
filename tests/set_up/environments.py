"""Virtual environments with a given pip, copies of the project, and what is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.set_up.downloads import ROOT

_LISTING = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"

_INSTALL = """
import pathlib, sys
sys.path.insert(0, ".ci")
import virtual_environment
try:
    virtual_environment.install(pathlib.Path(sys.argv[1]))
except virtual_environment.InstallationError as error:
    sys.exit(str(error))
"""

_PIP_PROGRAM = '#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n'

#: What installing the project needs of it.
_PARTS = (".ci", "Makefile", "README.md", "LICENSE", "pyproject.toml", "contracts", "worker")
_LOCKS = ("requirements.lock", "requirements-dev.lock", "k8s/image/build.lock")


class Environment:
    """A virtual environment of this Python, with a pip.

    Attributes:
        folder: where it is.
        python: its Python.
    """

    def __init__(self, folder: Path, pip: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        (packages,) = folder.glob("lib/python*/site-packages")
        # As pip would install itself, in a tenth of the time.
        with zipfile.ZipFile(pip) as archive:
            archive.extractall(packages)
        program = folder / "bin" / "pip"
        program.write_text(_PIP_PROGRAM)
        program.chmod(0o755)

    def installed(self) -> dict[str, str]:
        """The version of each installed project."""
        return installed(self.python)


def installed(python: Path) -> dict[str, str]:
    """The version of each project that is installed for a Python."""
    listed = subprocess.run([python, "-I", "-c", _LISTING], check=True, capture_output=True, text=True)
    found = [(canonicalize_name(name), version) for name, version in json.loads(listed.stdout)]
    assert len(found) == len(dict(found)), f"installed twice: {found}"
    return {str(name): version for name, version in found}


def pins(*locks: Path) -> dict[str, str]:
    """The version of each project that some locks pin for this Python and machine."""
    return {name: version for name, version, here in _all_pins(locks) if here}


def projects(*locks: Path) -> set[str]:
    """The projects that some locks pin, also for other Pythons and machines."""
    return {name for name, _, _ in _all_pins(locks)}


def _all_pins(locks: tuple[Path, ...]) -> list[tuple[str, str, bool]]:
    lines = [line for lock in locks for line in lock.read_text().replace("\\\n", " ").splitlines()]
    found = []
    for requirement in (Requirement(line.partition(" --hash=")[0]) for line in lines if line.strip()):
        (pin,) = requirement.specifier
        here = requirement.marker is None or requirement.marker.evaluate()
        found.append((str(canonicalize_name(requirement.name)), pin.version, here))
    return found


def copy_project(folder: Path) -> Path:
    """A copy of what is installed and of what installs it, so that nothing is built in the project's own folder."""
    return copy_parts(folder, *_PARTS, *_LOCKS)


def copy_parts(folder: Path, *parts: str) -> Path:
    """A copy of some of the project's files and folders."""
    folder.mkdir()
    for part in parts:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache"))
        else:
            shutil.copy2(source, target)
    return folder


def readme_block(heading: str) -> str:
    """The commands under one of the README's headings, as they stand there."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(line.strip() for line in section.splitlines() if line.startswith("    "))


def surroundings(**settings: str) -> dict[str, str]:
    """The environment of a user whose pip has these settings, named without `PIP_`, and reads no file of settings."""
    # Coverage would look for the copies of the project when it reports, and they are gone then.
    dropped = ("PIP_", "MAKE", "MFLAGS", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    pip = {"config_file": os.devnull, "disable_pip_version_check": "1", "no_cache_dir": "1"} | settings
    return kept | {f"PIP_{name.upper()}": value for name, value in pip.items()}


def run(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder to its end, its output as text."""
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def install_as_the_readme_says(
    project: Path, environment: Environment, settings: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Type what stands under the README's "Install" in a copy of the project, in a virtual environment."""
    path = f"{environment.folder / 'bin'}{os.pathsep}{settings['PATH']}"
    return run(["sh", "-ec", readme_block("Install")], project, {**settings, "PATH": path, "PIP_NO_COMPILE": "1"})


def install_as_make_does(
    project: Path, environment: Environment, settings: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """What `make venv` does in a copy of the project once there is an environment: install into it."""
    return run([sys.executable, "-c", _INSTALL, environment.python], project, settings)
