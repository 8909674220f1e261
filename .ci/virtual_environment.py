# ruff: noqa: INP001 - a script that make runs, no package to import
"""Make or refresh `.venv` with the dependencies of requirements-dev.lock, by a Python that has nothing installed.

Debian and Ubuntu keep the part of Python that puts pip into a virtual environment in a package of its own
(python3-venv). Where that is missing, pip comes from the package python3-pip-whl, downloaded and unpacked into the
user's cache folder.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from worker.sandbox.errors import MissingPartError  # noqa: E402 - the project is not installed yet
from worker.sandbox.packages import unpacked  # noqa: E402 - as above

_VENV = _ROOT / ".venv"
_PYTHON = _VENV / "bin" / "python"

#: The package of Debian and Ubuntu that holds pip as a wheel.
_PIP_PACKAGE = "python3-pip-whl"


def main() -> None:
    """Make or refresh the virtual environment, then leave the file that says so, named by the first argument."""
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write(f"Setting up .venv: Python {version}, dependencies from requirements-dev.lock ...\n")
    if not _works():
        _make()
    _pip("install", "--require-hashes", "--no-compile", "-r", "requirements-dev.lock")
    _pip("install", "--no-deps", "-e", ".")
    Path(sys.argv[1]).touch()


def _works() -> bool:
    """Whether there is an environment with a Python that still runs, and a pip."""
    try:
        done = subprocess.run([_PYTHON, "-m", "pip", "--version"], check=False, capture_output=True)  # noqa: S603 - ours
    except OSError:
        return False
    return done.returncode == 0


def _make() -> None:
    with_pip = importlib.util.find_spec("ensurepip") is not None
    venv.create(_VENV, clear=True, symlinks=True, with_pip=with_pip)
    if not with_pip:
        wheel = next(unpacked(_PIP_PACKAGE, companions="").glob("usr/share/python-wheels/pip-*.whl"))
        # A wheel of pip can be run as it is, and so installs itself.
        _run(wheel / "pip", "install", "-qq", "--no-index", "--disable-pip-version-check", wheel)


def _pip(command: str, *arguments: str) -> None:
    _run("-m", "pip", command, "-qq", "--disable-pip-version-check", "--no-input", *arguments)


def _run(*arguments: str | Path) -> None:
    subprocess.run([_PYTHON, *arguments], check=True, cwd=_ROOT)  # noqa: S603 - our own arguments


if __name__ == "__main__":
    try:
        main()
    except MissingPartError as error:
        sys.exit(f"pip cannot be had ({error}).\nInstall it (Debian, Ubuntu: apt install python3-venv) and try again.")
    except subprocess.CalledProcessError:
        sys.exit("The virtual environment could not be set up; pip says above what is missing.")
