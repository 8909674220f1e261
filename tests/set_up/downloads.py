"""Wheels from the user's own package index, downloaded once and kept in the project's cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import pytest

from tests import programs
from worker.sandbox.errors import MissingPartError
from worker.sandbox.packages import cache_folder

ROOT = Path(__file__).resolve().parent.parent.parent

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

#: How long a folder of wheels is kept after its last use, in seconds: a lock that changed is not used again.
_KEPT_SECONDS = 30 * 24 * 3600.0

_HASHES_OF_PIP = {
    "23.0.1": "sha256:236bcb61156d76c4b8a05821b988c7b8c35bf0da28a4b614e8d6ab5212c25c6f",
    "23.2.1": "sha256:7ccf472345f20d35bdc9d1841ff5f313260c2c33fe417f48c30ac46cccabf5be",
    "24.0": "sha256:ba0d021a166865d2265246961bec0152ff124de910c5cc39f1156ce3fa7c69dc",
}

#: Debian 12 has the first of these, many Pythons of 2023 the second; `newest` is the one that the index has.
PIPS = (*_HASHES_OF_PIP, "newest")


def locked_wheels(*locks: str) -> Path:
    """The folder with the wheels that some of the project's locks pin, for this Python and machine.

    The test is skipped if they cannot be had.
    """
    return _wheels("".join((ROOT / lock).read_text() for lock in locks))


def pip_wheel(version: str) -> Path:
    """The wheel of one of `PIPS`; the test is skipped if it cannot be had, or does not run on this Python."""
    if version == "23.0.1" and sys.version_info >= (3, 12):
        pytest.skip("needs Python 3.11, the last one that pip 23.0.1 runs on")
    if version == "newest":
        # The newest one when the lock last changed: otherwise it would be downloaded again and again.
        lock = hashlib.sha256((ROOT / "requirements-dev.lock").read_bytes()).hexdigest()
        return next(_wheels(f"pip # {lock}\n").glob("*.whl"))
    return next(_wheels(f"pip=={version} --hash={_HASHES_OF_PIP[version]}\n").glob("*.whl"))


def _wheels(requirements: str) -> Path:
    found = _downloaded(requirements)
    if isinstance(found, str):
        pytest.skip(f"needs wheels from a package index: {found}")
    return found


@functools.cache
def _downloaded(requirements: str) -> Path | str:
    """The folder with the wheels of some requirements, or why there is none.

    One process downloads, the others wait for it.
    """
    try:
        return _folder_of(requirements)
    except MissingPartError as error:
        return str(error)


def _folder_of(requirements: str) -> Path:
    cache = cache_folder()
    digest = hashlib.sha256(f"{sysconfig.get_platform()}\n{requirements}".encode()).hexdigest()
    target = cache / f"wheels-py{_PYTHON}-{digest[:16]}"
    with (cache / f"wheels-py{_PYTHON}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _remove_unused_folders(cache)
            _download(requirements, target)
        os.utime(target)
    return target


def _download(requirements: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="downloading-") as scratch:
        wheels, file = Path(scratch) / "wheels", Path(scratch) / "requirements.txt"
        file.write_text(requirements)
        options = ("-qq", "--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20")
        done = programs.run([sys.executable, "-m", "pip", "download", *options, f"--dest={wheels}", "-r", file])
        if done.returncode != 0:
            raise MissingPartError(done.stderr.strip().splitlines()[-1], part="wheels from a package index")
        # The name appears only once the folder is complete.
        wheels.rename(target)


def _remove_unused_folders(cache: Path) -> None:
    for folder in cache.glob("wheels-py*-*"):
        with contextlib.suppress(FileNotFoundError):
            if folder.stat().st_mtime < time.time() - _KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
