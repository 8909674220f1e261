"""Debian and Ubuntu packages, downloaded with apt and unpacked into the user's cache folder: without root."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from worker.sandbox.errors import MissingPartError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOOLS = ("apt-get", "dpkg-deb")

#: For one call of apt, in seconds; a slow mirror is slow.
_APT_SECONDS = 600.0


def cache_folder() -> Path:
    """The project's folder in the user's cache, made if need be (`XDG_CACHE_HOME`, by default `~/.cache`).

    A user without a home has it in the folder of temporary files, as long as it is theirs alone.

    Raises:
        MissingPartError: there is no place to write to.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (home / "unlink-worker", Path(tempfile.gettempdir()) / f"unlink-worker-cache-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    raise MissingPartError(f"no folder to keep downloads in: make {home} writable, or set XDG_CACHE_HOME")


def unpacked(package: str, companions: str) -> Path:
    """The folder into which a package is unpacked, with those of its dependencies whose names have a pattern.

    The first call downloads them; later ones find them. Two at once do not disturb each other.

    Args:
        package: the package's name.
        companions: a regular expression for the names of the dependencies that the system is not sure to have.

    Raises:
        MissingPartError: this system has no apt, or the packages cannot be had.
    """
    if not all(map(shutil.which, _TOOLS)):
        raise MissingPartError("this system has no apt to download packages with")
    system = platform.freedesktop_os_release()
    family = f"{package}-{system['ID']}-{system.get('VERSION_ID', 'testing')}-{platform.machine()}-"
    cache = cache_folder()
    there = sorted(cache.glob(family + "*"))
    return there[-1] if there else _unpack(package, companions, cache, family)


def _unpack(package: str, companions: str, cache: Path, family: str) -> Path:
    with tempfile.TemporaryDirectory(dir=cache, prefix="unpacking-") as scratch:
        archives = _download(package, companions, Path(scratch))
        version = next(archive.name.split("_")[1] for archive in archives if archive.name.startswith(package + "_"))
        root = Path(scratch) / "root"
        for archive in archives:
            _run(["dpkg-deb", "--extract", str(archive), str(root)])
        target = cache / (family + version)
        try:
            root.rename(target)
        except OSError:
            # Another start was quicker; a folder gets this name only when it is complete.
            if not target.is_dir():
                raise
        return target


def _download(package: str, companions: str, scratch: Path) -> list[Path]:
    """Download with the system's package lists; if it has none, or old ones, with lists of our own."""
    empty = scratch / "status"
    empty.touch()
    # An empty status: what the system has installed does not matter, since it may not have what it lists.
    settings = [f"Dir::State::Status={empty}", "APT::Install-Recommends=false", "APT::Sandbox::User="]
    try:
        return _download_with(settings, package, companions, scratch)
    except MissingPartError:
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        settings += [f"Dir::State={scratch}/state", f"Dir::Cache={scratch}/cache", "Acquire::Languages=none"]
        _apt(settings, ["update"], scratch)
        return _download_with(settings, package, companions, scratch)


def _download_with(settings: Sequence[str], package: str, companions: str, scratch: Path) -> list[Path]:
    plan = _apt(settings, ["--yes", "--print-uris", "install", package], scratch)
    # A line of the plan: 'URI' FILE SIZE CHECKSUM, where FILE is NAME_VERSION_ARCHITECTURE.deb.
    planned = re.findall(r"^'[^']+' ([^_ ]+)_", plan, flags=re.MULTILINE)
    names = [name for name in planned if name == package or re.fullmatch(companions, name)]
    _apt(settings, ["download", *names], scratch)
    return sorted(scratch.glob("*.deb"))


def _apt(settings: Sequence[str], arguments: Sequence[str], folder: Path) -> str:
    options = [part for setting in settings for part in ("-o", setting)]
    return _run(["apt-get", "-q", *options, *arguments], folder)


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    # The tools' names are ours, and found on the user's PATH on purpose.
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(  # noqa: S603 - as above
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_APT_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise MissingPartError(f"{command[0]} failed:\n{error.stderr.strip() or error.stdout.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise MissingPartError(f"{command[0]} did not end within {_APT_SECONDS:g} s") from error
    return done.stdout
