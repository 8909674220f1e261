"""Downloads Debian and Ubuntu packages with apt and unpacks them into the user's cache folder, without root."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from worker.sandbox.errors import MissingPartError

_TOOLS = ("apt-get", "dpkg-deb")

#: The time-out of one call of apt, in seconds. It is long because a mirror may be slow.
_APT_SECONDS = 600.0

#: The prefix of the names of the temporary folders in which packages are unpacked, and the age in seconds from which
#: such a folder counts as abandoned.
_SCRATCH, _ABANDONED_SECONDS = "unpacking-", 24 * 3600.0

#: How long a mirror may send nothing before apt gives up, in seconds.
_SILENCE_SECONDS = 30

#: The keys with which Debian signs its suites, including the next release. Every Debian system has this file.
_DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def cache_folder() -> Path:
    """The project's folder in the user's cache (`XDG_CACHE_HOME`, by default `~/.cache`). It is created if missing.

    If it cannot be created there, or the path has a space, it is created in the folder for temporary files. It must
    belong to this user.

    Raises:
        MissingPartError: neither folder can be used.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (home / "unlink-worker", Path(tempfile.gettempdir()) / f"unlink-worker-cache-{os.getuid()}"):
        if len(str(folder).split()) > 1:
            continue  # RabbitMQ's own scripts do not run in a folder with a space in its path
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    raise MissingPartError(
        f"no folder to keep downloads in: make {home} writable, or set XDG_CACHE_HOME to a path without spaces",
        part="a cache folder",
    )


def unpacked(
    package: str, companions: str, suite: str | None = None, *, prepare: Callable[[Path, Path], None] | None = None
) -> Path:
    """The folder into which a package is unpacked, with those of its dependencies whose names match a pattern.

    The first call downloads the packages; later calls return the same folder. Calls may be concurrent.

    Args:
        package: the package's name.
        companions: a regular expression for the names of the dependencies to unpack with it.
        suite: a suite of Debian, such as `trixie` or `stable`, instead of the system's own. It is downloaded from the
            mirror that the system already uses, and verified by the system's own Debian keys.
        prepare: called once with the unpacked folder and its final path, before the folder is moved to that path.

    Raises:
        MissingPartError: this system has no apt, or the packages cannot be downloaded.
    """
    link = _link(package, suite)
    if not link.is_dir():
        try:
            _require_apt()
            _remove_abandoned(link.parent)
            with tempfile.TemporaryDirectory(dir=link.parent, prefix=_SCRATCH) as scratch:
                _publish_link(link, _unpack(package, companions, suite, Path(scratch), prepare))
        except MissingPartError as error:
            error.part = package
            raise
    return link.resolve()


def _remove_abandoned(cache: Path) -> None:
    """Remove the temporary folders of calls that were killed. No call lasts for a day."""
    for scratch in cache.glob(f"{_SCRATCH}*"):
        with suppress(FileNotFoundError):  # a call that has just ended has removed its own folder
            if time.time() - scratch.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)


def already_unpacked(package: str, suite: str | None = None) -> Path | None:
    """The folder that an earlier call of `unpacked` created; None if there is none."""
    link = _link(package, suite)
    return link.resolve() if link.is_dir() else None


def available_version(package: str) -> str | None:
    """The version of a package that the system's own suite offers; None if it offers none.

    Raises:
        MissingPartError: this system has no apt, or apt fails.
    """
    _require_apt()
    with tempfile.TemporaryDirectory() as scratch:
        for apt in (_Apt(Path(scratch)), _Apt.with_lists_of_its_own(Path(scratch))):
            madison = apt.run("apt-cache", "madison", package)
            # A line: PACKAGE | VERSION | WHERE FROM; the newest version comes first.
            versions = [line.split("|")[1].strip() for line in madison.splitlines() if "Packages" in line]
            if versions:
                return versions[0]
    return None


def _link(package: str, suite: str | None) -> Path:
    """The path of a suite's symbolic link to a package's folder. The links of several suites may have one target."""
    system = platform.freedesktop_os_release()
    own = suite in (None, system.get("VERSION_CODENAME"))
    release = system.get("VERSION_ID", "testing") if own else suite
    return cache_folder() / f"{package}-of-{system['ID']}-{release}-{platform.machine()}"


def _require_apt() -> None:
    if not all(map(shutil.which, _TOOLS)):
        raise MissingPartError("this system has no apt to download packages with", part="apt")


def _unpack(
    package: str, companions: str, suite: str | None, scratch: Path, prepare: Callable[[Path, Path], None] | None
) -> Path:
    """Download and unpack into a folder beside `scratch` that is named after the version. Returns the folder."""
    archives = _download(package, companions, suite, scratch)
    version = next(archive.name.split("_")[1] for archive in archives if archive.name.startswith(package + "_"))
    root, target = scratch / "root", scratch.parent / f"{package}_{version}_{platform.machine()}"
    if target.is_dir():
        return target
    for archive in archives:
        _run(["dpkg-deb", "--extract", str(archive), str(root)])
    if prepare is not None:
        prepare(root, target)
    try:
        root.rename(target)
    except OSError:
        # A concurrent call has finished first. The folder is complete, because it is renamed only at the end.
        if not target.is_dir():
            raise
    return target


def _publish_link(link: Path, target: Path) -> None:
    fresh = target.parent / f"{link.name}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)


def _download(package: str, companions: str, suite: str | None, scratch: Path) -> list[Path]:
    """Download packages with the system's package lists, or with new lists.

    New lists are downloaded for another suite, and if the system's lists are missing or outdated.
    """
    if suite is not None:
        return _Apt.for_suite(suite, scratch).download(package, companions)
    try:
        return _Apt(scratch).download(package, companions)
    except MissingPartError:
        return _Apt.with_lists_of_its_own(scratch).download(package, companions)


@dataclass(slots=True)
class _Apt:
    """apt, with its files in a separate folder.

    Attributes:
        scratch: the folder for downloads.
        options: settings of apt, each `NAME=VALUE`.
    """

    scratch: Path
    options: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        empty = self.scratch / "status"
        empty.touch()
        (self.scratch / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        # With an empty status and an empty cache, apt plans to download every package. It would otherwise leave out
        # packages that are installed or already downloaded.
        self.options += [f"Dir::State::Status={empty}", f"Dir::Cache={self.scratch}/cache"]
        self.options += [
            "APT::Install-Recommends=false",
            "APT::Sandbox::User=",
            f"Acquire::http::Timeout={_SILENCE_SECONDS}",
        ]

    @classmethod
    def with_lists_of_its_own(cls, scratch: Path, *options: str) -> _Apt:
        """An apt with new package lists, which are downloaded into the scratch folder."""
        (scratch / "state/lists/partial").mkdir(parents=True)
        apt = cls(scratch, [f"Dir::State={scratch}/state", "Acquire::Languages=none", *options])
        # By default apt only warns of a mirror that it cannot reach, and then knows no package.
        apt.run("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
        return apt

    @classmethod
    def for_suite(cls, suite: str, scratch: Path) -> _Apt:
        """An apt for another suite of Debian, with the mirror that this system uses."""
        sources = scratch / "sources.list"
        mirror = _debian_mirror(cls(scratch))
        sources.write_text(f"deb [signed-by={_DEBIAN_KEYRING}] {mirror} {suite} main\n")
        return cls.with_lists_of_its_own(scratch, f"Dir::Etc::SourceList={sources}", "Dir::Etc::SourceParts=-")

    def download(self, package: str, companions: str) -> list[Path]:
        """Download a package and those of its dependencies that match. Returns the files."""
        plan = self.run("apt-get", "--yes", "--print-uris", "install", package)
        # A line of the plan: 'URI' FILE SIZE CHECKSUM, where FILE is NAME_VERSION_ARCHITECTURE.deb.
        planned = re.findall(r"^'[^']+' ([^_ ]+)_", plan, flags=re.MULTILINE)
        names = [name for name in planned if name == package or re.fullmatch(companions, name)]
        self.run("apt-get", "download", *names)
        return sorted(self.scratch.glob("*.deb"))

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of apt in the scratch folder, and return what it prints."""
        options = [part for option in self.options for part in ("-o", option)]
        return _run([program, "-q", *options, *arguments], self.scratch)


def _debian_mirror(apt: _Apt) -> str:
    """The address from which this system takes its own Debian packages."""
    system = platform.freedesktop_os_release()
    if system["ID"] != "debian" or not _DEBIAN_KEYRING.is_file():
        raise MissingPartError("packages of another Debian suite can be unpacked on Debian only", part="Debian")
    targets = apt.run(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Identifier: Packages"
    )
    own = {system.get("VERSION_CODENAME"), "stable", "testing", "oldstable"}
    for target in targets.splitlines():
        release, component, address = target.split(maxsplit=2)
        if release in own and component == "main":
            return address
    raise MissingPartError("apt's sources name no mirror of Debian's main archive", part="a mirror of Debian")


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    # The names of the tools are constants. They are looked up on the user's PATH on purpose.
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
        said = error.stderr.strip() or error.stdout.strip()
        raise MissingPartError(f"{command[0]} failed:\n{said}", part=command[0]) from error
    except subprocess.TimeoutExpired as error:
        raise MissingPartError(f"{command[0]} did not end within {_APT_SECONDS:g} s", part=command[0]) from error
    return done.stdout
