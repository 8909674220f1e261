# ruff: noqa: INP001 - a script that make runs, no package to import
"""Make `.venv` with exactly what requirements-dev.lock pins, by a Python that has nothing installed.

The lock is complete: it names every package with its version and hashes. So pip has nothing to resolve and is told so
(`--no-deps`). Before pip 24.1, a dependency with an extra, such as `coverage[toml]`, made it look for a newer release
than the pinned one, which `--require-hashes` then refuses (pip issues 9644 and 12345). `pip check` proves afterwards
that nothing is missing. The project's own build uses the pinned setuptools, not one that pip would download for it.

Debian and Ubuntu keep the part of Python that puts pip into a virtual environment in a package of its own
(python3-venv). Where that is missing, pip comes from the package python3-pip-whl, downloaded and unpacked into the
user's cache folder.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from worker.sandbox.errors import MissingPartError  # noqa: E402 - the project is not installed yet
from worker.sandbox.packages import unpacked  # noqa: E402 - as above

_VENV = _ROOT / ".venv"

#: The package of Debian and Ubuntu that holds pip as a wheel.
_PIP_PACKAGE = "python3-pip-whl"

#: What the user's pip settings may say of where packages come from, they may not say of what is installed and where.
_PIP_SETTINGS = {
    "PIP_CONSTRAINT": os.devnull,
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
}
_PIP_SETTINGS_DROPPED = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PIP_NO_BINARY", "PIP_PRE")

#: The words with which pip begins the line that tells the cause.
_PIP_ERROR = "ERROR: "


class InstallationError(Exception):
    """pip failed; the message is one line for the person who ran make."""


def main() -> None:
    """Make the virtual environment anew, then leave the file that says so, named by the first argument."""
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write(f"Setting up .venv: Python {version}, dependencies from requirements-dev.lock ...\n")
    # Anew, not refreshed: what an earlier lock installed must not stay.
    _make()
    install(_VENV / "bin" / "python")
    Path(sys.argv[1]).touch()


def install(python: Path) -> None:
    """Install the locked packages and the project into the environment of `python`, which has a pip.

    Raises:
        InstallationError: pip could not; what was installed by then stays.
    """
    locked = ("--no-deps", "--require-hashes", "--only-binary=:all:", "-r", "requirements-dev.lock")
    _pip(python, "install", *locked)
    _pip(python, "install", "--no-deps", "--no-index", "--no-build-isolation", "-e", ".")
    _pip(python, "check")


def _make() -> None:
    with_pip = importlib.util.find_spec("ensurepip") is not None
    venv.create(_VENV, clear=True, symlinks=True, with_pip=with_pip)
    if not with_pip:
        wheel = next(unpacked(_PIP_PACKAGE, companions="").glob("usr/share/python-wheels/pip-*.whl"))
        # A wheel of pip can be run as it is, and so installs itself.
        _run(_VENV / "bin" / "python", wheel / "pip", "install", "-qq", "--no-index", wheel)


def _pip(python: Path, command: str, *arguments: str) -> None:
    _run(python, "-m", "pip", command, "-qq", *arguments)


def _run(python: Path, *arguments: str | Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _PIP_SETTINGS_DROPPED}
    done = subprocess.run(  # noqa: S603 - our own arguments
        [python, *arguments],
        check=False,
        cwd=_ROOT,
        env=environment | _PIP_SETTINGS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise InstallationError(_cause(done.stdout) or f"pip ended with status {done.returncode}")


def _cause(output: str) -> str:
    """The line in which pip says why: its last error, or, as for `pip check`, the first line of all."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix(_PIP_ERROR) for line in lines if line.startswith(_PIP_ERROR)]
    return (errors or lines or [""])[-1 if errors else 0]


if __name__ == "__main__":
    try:
        main()
    except MissingPartError as error:
        sys.exit(f"pip cannot be had ({error}).\nInstall it (Debian, Ubuntu: apt install python3-venv) and try again.")
    except InstallationError as error:
        sys.exit(f"The virtual environment could not be set up: {error}")
