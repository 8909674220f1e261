"""Finds the programs of a RabbitMQ: named by the user, installed, or unpacked from packages; version 4 if possible."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from worker.sandbox.errors import MissingPartError
from worker.sandbox.packages import already_unpacked, available_version, unpacked
from worker.sandbox.rabbitmq.relocated_erlang import ERLANG, is_in_place, relocate

#: The environment variable that names the user's own RabbitMQ: the folder that contains `sbin/rabbitmq-server`.
HOME_VARIABLE = "SANDBOX_RABBITMQ_HOME"

#: The environment variable that names a version, such as `4.3`. Without it, the newest available release is used.
VERSION_VARIABLE = "SANDBOX_RABBITMQ_VERSION"

#: The versions that can be requested, and the Debian suite that contains each of them. The first one is the newest.
SUITES = {"4.3": "forky", "4.0": "trixie", "3.10": "bookworm"}

#: The suite name that always refers to the newest released Debian.
_NEWEST_RELEASED = "stable"

#: The oldest major version that still gets bug fixes. Older versions are a fallback.
_PREFERRED_MAJOR = 4

#: The dependencies that are unpacked with rabbitmq-server: Erlang, and all libraries, because the libraries of the
#: system may be older or missing.
_COMPANIONS = r"erlang-.*|lib.*|zlib1g"

_PART = "RabbitMQ"

#: The reason why no better installation was found is truncated to this many characters.
_LONGEST_REASON = 200

_WHAT_TO_INSTALL = f"""\
there is no RabbitMQ to run privately. Any one of these will do:
  - on Debian or Ubuntu: apt with a reachable mirror (nothing is installed; packages are unpacked into the user's cache)
  - an installed RabbitMQ 3.10 or later (https://www.rabbitmq.com/docs/download); it need not be running
  - a RabbitMQ unpacked anywhere and named by {HOME_VARIABLE}, with Erlang's erl on the PATH
  - a container engine: docker or podman"""


@dataclass(frozen=True, slots=True)
class Installation:
    """The programs of one RabbitMQ.

    Attributes:
        scripts: the folder of RabbitMQ's own `rabbitmq-server` and `rabbitmqctl`. A distribution's wrappers of the same
            names are not usable, because they switch to another user.
        version: such as `4.3.6`.
        erlang: the folder of an `erl` that was unpacked with it; None if `erl` is on the PATH.
        drawback: a message for the user that says why no better installation was found.
    """

    scripts: Path
    version: str
    erlang: Path | None = None
    drawback: str | None = None

    @property
    def description(self) -> str:
        """One line for the user, such as `RabbitMQ 4.0.5`."""
        return f"RabbitMQ {self.version}" + (f" ({self.drawback})" if self.drawback else "")

    def search_path(self) -> str:
        """The PATH with which the scripts find a working `erl`."""
        path = os.environ.get("PATH", os.defpath)
        return f"{self.erlang}:{path}" if self.erlang else path


def find_installation(version: str | None = None) -> Installation:
    """The RabbitMQ installation for a private node.

    The installation that `SANDBOX_RABBITMQ_HOME` names has priority, then the requested version. Without either, it is
    RabbitMQ 4 or later: installed, from the system's packages, or from those of the newest released Debian. If none of
    these is available, it is an older version, and `drawback` says why.

    Args:
        version: major and minor version, such as `4.3`; by default the value of `SANDBOX_RABBITMQ_VERSION`, if set.

    Raises:
        MissingPartError: no installation is available without a container engine; the message says what to install.
    """
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return _named(Path(named).absolute())
    version = version or os.environ.get(VERSION_VARIABLE)
    if version:
        return _of_version(version)
    reasons: list[str] = []
    for source in (_installed, _unpacked_before, _from_own_packages, _from_newest_debian):
        try:
            found = source()
        except MissingPartError as error:
            reasons.append(str(error))
            continue
        if found is not None and _major(found.version) >= _PREFERRED_MAJOR:
            return found
    return _older(reasons)


def image_version() -> str | None:
    """The version of the official image that may take the place of an installation; None if none may.

    A folder that the user named, or a version that does not exist, is a mistake to be corrected.
    """
    if os.environ.get(HOME_VARIABLE):
        return None
    version = os.environ.get(VERSION_VARIABLE)
    if not version:
        return str(_PREFERRED_MAJOR)
    return version if version in SUITES else None


def _named(home: Path) -> Installation:
    scripts = home / "sbin"
    if not (scripts / "rabbitmq-server").is_file():
        raise MissingPartError(f"{HOME_VARIABLE} is {home}, but there is no {scripts}/rabbitmq-server", part=_PART)
    return Installation(scripts, _version(scripts))


def _of_version(version: str) -> Installation:
    installed = _installed()
    if installed is not None and _has_version(installed, version):
        return installed
    suite = SUITES.get(version)
    if suite is None:
        raise MissingPartError(
            f"{VERSION_VARIABLE} is {version}, but must be one of {', '.join(SUITES)}", part=f"{_PART} {version}"
        )
    try:
        found = _unpacked(suite)
    except MissingPartError as error:
        error.part = f"{_PART} {version}"
        raise
    if not _has_version(found, version):
        raise MissingPartError(
            f"Debian's suite {suite} now has RabbitMQ {found.version}, not {version}", part=f"{_PART} {version}"
        )
    return found


def _installed() -> Installation | None:
    if shutil.which("erl") is None:
        return None
    # On Debian, Ubuntu and Fedora, /usr/sbin/rabbitmq-server is a wrapper. The folder of the original script is
    # therefore tried first.
    on_path = shutil.which("rabbitmq-server")
    for link in (Path("/usr/lib/rabbitmq/bin"), Path(on_path).parent if on_path else None):
        if link is None or not (link / "rabbitmq-server").is_file():
            continue
        scripts = (link / "rabbitmq-server").resolve().parent
        if all((scripts / name).is_file() for name in ("rabbitmq-server", "rabbitmqctl", "rabbitmq-env")):
            return Installation(scripts, _version(scripts))
    return None


def _unpacked_before() -> Installation | None:
    # This is tried before the sources that need apt: apt takes seconds, and there may be no network.
    for suite in (None, _NEWEST_RELEASED):
        root = already_unpacked("rabbitmq-server", suite)
        if root is not None and _major((found := _in(root)).version) >= _PREFERRED_MAJOR:
            return found
    return None


def _from_own_packages() -> Installation | None:
    version = available_version("rabbitmq-server")
    if version is None or _major(version) < _PREFERRED_MAJOR:
        return None
    return _unpacked()


def _from_newest_debian() -> Installation:
    return _unpacked(_NEWEST_RELEASED)


def _older(reasons: list[str]) -> Installation:
    try:
        found = _installed() or _unpacked()
    except MissingPartError as error:
        tried = "\n".join(dict.fromkeys((*reasons, str(error))))
        raise MissingPartError(f"{_WHAT_TO_INSTALL}\n({tried})", part=_PART) from error
    why = f": {' '.join(reasons[-1].split())[:_LONGEST_REASON]}" if reasons else ""
    return replace(found, drawback=f"RabbitMQ 4 is not available here{why}")


def _unpacked(suite: str | None = None) -> Installation:
    return _in(unpacked("rabbitmq-server", _COMPANIONS, suite, prepare=relocate))


def _in(root: Path) -> Installation:
    scripts = next(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"), None)
    if scripts is None:
        raise MissingPartError(f"{root} holds no RabbitMQ; remove the folder, and it is unpacked again", part=_PART)
    if not is_in_place(root):
        raise MissingPartError(f"{root} was moved or copied; remove the folder, and it is unpacked again", part=_PART)
    return Installation(scripts, _version(scripts), root / ERLANG / "bin")


def _version(scripts: Path) -> str:
    """The version of the RabbitMQ with these scripts, read from the file names of its plugins."""
    for plugin in sorted((scripts.parent / "plugins").glob("rabbit-*")):
        return plugin.name.removeprefix("rabbit-").removesuffix(".ez")
    raise MissingPartError(
        f"there is no plugins/rabbit-VERSION beside {scripts}: this RabbitMQ is not complete", part=_PART
    )


def _major(version: str) -> int:
    number = re.match(r"\d+", version)
    return int(number.group()) if number else 0


def _has_version(installation: Installation, version: str) -> bool:
    return installation.version == version or installation.version.startswith(f"{version}.")
