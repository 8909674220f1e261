"""Where a RabbitMQ to run privately comes from: named, installed, or unpacked from packages."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.sandbox.errors import MissingPartError
from worker.sandbox.packages import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The variable by which a user names a RabbitMQ of their own: the folder that holds `sbin/rabbitmq-server`.
HOME_VARIABLE = "SANDBOX_RABBITMQ_HOME"

_WHAT_TO_INSTALL = f"""\
there is no RabbitMQ to run privately. Any one of these will do:
  - on Debian or Ubuntu: apt with a reachable mirror (nothing is installed; packages are unpacked into the user's cache)
  - an installed RabbitMQ 3.10 or later (https://www.rabbitmq.com/docs/download); it need not be running
  - a RabbitMQ unpacked anywhere and named by {HOME_VARIABLE}, with Erlang's erl on the PATH
  - a container engine: docker or podman"""

#: Debian's `erl` has its root compiled in, and so only runs where it was installed; `erlexec` goes by its environment.
_ERL = """\
#!/bin/sh
export ROOTDIR={root} BINDIR={binaries} EMU=beam PROGNAME=erl
exec "$BINDIR/erlexec" "$@"
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """The programs of one RabbitMQ.

    Attributes:
        scripts: the folder of `rabbitmq-server` and `rabbitmqctl`: the real ones, not a distribution's wrappers, which
            change to a user of their own.
        erlang: the root of an Erlang that has been moved, and so needs a wrapper; without it, `erl` is on the PATH.
    """

    scripts: Path
    erlang: Path | None = None

    def search_path(self, wrappers: Path) -> str:
        """The PATH under which the scripts find an `erl` that runs; `wrappers` is a folder to put it into."""
        path = os.environ.get("PATH", os.defpath)
        if self.erlang is None:
            return path
        binaries = next(self.erlang.glob("erts-*/bin"))
        wrappers.mkdir(exist_ok=True)
        erl = wrappers / "erl"
        erl.write_text(_ERL.format(root=self.erlang, binaries=binaries))
        erl.chmod(0o700)
        return f"{wrappers}:{binaries}:{path}"


def find_installation() -> Installation:
    """The RabbitMQ that the user names, an installed one, or one unpacked from the distribution's packages.

    Raises:
        MissingPartError: none can be had without a container engine; the message says what to install.
    """
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return _named(Path(named))
    return next(_installed(), None) or _from_packages()


def _named(home: Path) -> Installation:
    scripts = home / "sbin"
    if not (scripts / "rabbitmq-server").is_file():
        raise MissingPartError(f"{HOME_VARIABLE} is {home}, but there is no {scripts}/rabbitmq-server")
    return Installation(scripts)


def _installed() -> Iterator[Installation]:
    if shutil.which("erl") is None:
        return
    # On Debian, Ubuntu and Fedora /usr/sbin/rabbitmq-server is a wrapper; the folder of the real one comes first.
    on_path = shutil.which("rabbitmq-server")
    for scripts in (Path("/usr/lib/rabbitmq/bin"), Path(on_path).resolve().parent if on_path else None):
        if scripts and all((scripts / name).is_file() for name in ("rabbitmq-server", "rabbitmqctl", "rabbitmq-env")):
            yield Installation(scripts)


def _from_packages() -> Installation:
    try:
        root = unpacked("rabbitmq-server", companions="erlang-.*")
    except MissingPartError as error:
        raise MissingPartError(f"{_WHAT_TO_INSTALL}\n({error})") from error
    return Installation(root / "usr/lib/rabbitmq/bin", root / "usr/lib/erlang")
