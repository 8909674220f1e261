# ruff: noqa: INP001 - a script that make runs, no package to import
"""Make a virtual environment with exactly what requirements-dev.lock pins, by a Python that has nothing installed.

The lock is complete: it names every package with its version and hashes. So pip has nothing to resolve, and must not
(`--no-deps`). Before pip 23.3, a dependency with an extra, such as `coverage[toml]`, made it look for a newer release
than the pinned one, which `--require-hashes` then refuses (pip issues 9644 and 12345). `pip check` proves afterwards
that nothing is missing. The project's own build uses the pinned setuptools, not one that pip would download for it.

Of the user's pip settings, those that say where packages come from hold here too; the others could change what is
installed, and do not.

Debian and Ubuntu keep the part of Python that puts pip into a virtual environment in a package of its own
(python3-venv). Where that is missing, pip comes from the package python3-pip-whl, downloaded and unpacked into the
user's cache folder.
"""

from __future__ import annotations

import ast
import fcntl
import importlib.util
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from worker.sandbox.errors import MissingPartError  # noqa: E402 - the project is not installed yet
from worker.sandbox.packages import unpacked  # noqa: E402 - as above

#: The package of Debian and Ubuntu that holds pip as a wheel.
_PIP_PACKAGE = "python3-pip-whl"

_LOCK = "requirements-dev.lock"

#: Those of the user's pip settings that hold here: where packages come from, and how they are downloaded.
_SETTINGS_KEPT = {
    "cache-dir",
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "keyring-provider",
    "no-cache-dir",
    "no-index",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
    "use-deprecated",  # of certificates
    "use-feature",  # as above
}

#: The sections of pip's settings that hold for `pip install`; a later one goes before an earlier one.
_SECTIONS = ("global", "install", ":env:")

#: No file of settings is read, nothing is asked, and nothing is installed outside a virtual environment.
_SETTINGS_OWN = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_REQUIRE_VIRTUALENV": "1",
}

#: What the environment is made of.
_SOURCES = (_LOCK, "pyproject.toml", ".ci/virtual_environment.py")


class InstallationError(Exception):
    """pip failed; the message is for the person who ran make, one line where the cause is a known one."""


def main() -> None:
    """Make the environment anew, and when it is complete leave a file in it; the first argument names that file.

    Of several calls at once for one folder, the first makes it and the others wait. The file says for which folder and
    by which Python the environment was made: it works in no other place.
    """
    complete = Path(sys.argv[1]).absolute()
    folder = complete.parent
    began = time.time()
    with (_ROOT / _LOCK).open() as lock:
        _wait_for(lock)
        if complete.exists() and complete.stat().st_mtime >= max(began, *map(_changed, _SOURCES)):
            return  # another call has made it meanwhile
        version = ".".join(map(str, sys.version_info[:3]))
        sys.stderr.write(f"Setting up {folder.name}: Python {version}, dependencies from {_LOCK} ...\n")
        # Anew, not refreshed: what an earlier lock installed must not stay.
        _make(folder)
        install(folder / "bin" / "python")
        complete.write_text(f"{folder}\n{sys.executable}\n")


def _wait_for(lock: IO[str]) -> None:
    """Wait until no other call makes an environment of this project; the lock ends with its process."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write("Another make is setting up a virtual environment here: waiting for it ...\n")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _changed(source: str) -> float:
    return (_ROOT / source).stat().st_mtime


def install(python: Path) -> None:
    """Install the locked packages and the project into the environment of `python`, which has a pip.

    Raises:
        InstallationError: pip could not; what was installed by then stays.
    """
    pip, settings = (python, "-m", "pip"), _users_settings(python)
    locked = ("--no-deps", "--require-hashes", "--only-binary=:all:", "-r", _LOCK)
    _run(*pip, "install", "-q", *locked, settings=settings)
    _run(*pip, "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-e", ".", settings=settings)
    _run(*pip, "check", settings=settings)


def _make(folder: Path) -> None:
    with_pip = importlib.util.find_spec("ensurepip") is not None
    try:
        venv.create(folder, clear=True, symlinks=True, with_pip=with_pip)
    except subprocess.CalledProcessError as error:
        raise InstallationError(f"pip could not be put into it: {error.output or error}") from error
    if not with_pip:
        wheel = next(unpacked(_PIP_PACKAGE, companions="").glob("usr/share/python-wheels/pip-*.whl"))
        # A wheel of pip can be run as it is, and so installs itself.
        _run(folder / "bin" / "python", wheel / "pip", "install", "-q", "--no-index", wheel, settings=_SETTINGS_OWN)


def _users_settings(python: Path) -> dict[str, str]:
    """What the user's environment and files tell pip of where packages come from, as environment variables."""
    users = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    # These would also hold for `pip config`: `user` makes it list one file only, `quiet` nothing.
    listed = _run(python, "-m", "pip", "config", "list", settings=users | {"PIP_USER": "0", "PIP_QUIET": "0"})
    found = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.*)$", listed, flags=re.MULTILINE)
    settings = {}
    for _, name, value in sorted(found, key=lambda each: _SECTIONS.index(each[0])):
        if name in _SETTINGS_KEPT:
            settings["PIP_" + name.upper().replace("-", "_")] = str(ast.literal_eval(value))
    return settings | _SETTINGS_OWN


def _run(*command: str | Path, settings: dict[str, str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    done = subprocess.run(  # noqa: S603 - our own arguments
        command,
        check=False,
        cwd=_ROOT,
        env=environment | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise InstallationError(_cause(done.stdout) or f"pip ended with status {done.returncode}")
    return done.stdout


def _cause(output: str) -> str:
    """What pip says in many lines, or not at all, as one line; what is not known, in pip's own words."""
    if "DO NOT MATCH THE HASHES" in output:
        packages = re.findall(r"^ +(\S+) from ", output, flags=re.MULTILINE)
        return f"not what {_LOCK} pins, by its hash: {', '.join(packages)}"
    if missing := re.search(r"^ERROR: No matching distribution found for (\S+)", output, flags=re.MULTILINE):
        if broken := re.search(r"after connection broken by (.*)$", output, flags=re.MULTILINE):
            return f"the package index cannot be reached: {broken[1]}"
        return f"the package index has no wheel of {missing[1]} for this Python and machine"
    lacking = re.findall(r"^(\S+ \S+ (?:requires|has requirement) .*)$", output, flags=re.MULTILINE)
    if lacking:
        return f"{_LOCK} is not complete: {' '.join(lacking)}"
    return output.strip()


if __name__ == "__main__":
    try:
        main()
    except MissingPartError as error:
        sys.exit(f"pip cannot be had ({error}).\nInstall it (Debian, Ubuntu: apt install python3-venv) and try again.")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next make begins anew.")
    except InstallationError as error:
        sys.exit(f"The virtual environment could not be set up: {error}")
