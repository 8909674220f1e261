"""Makes an Erlang that was unpacked from packages run in its folder, even if the system's C library is older."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from worker.sandbox.errors import MissingPartError

#: Erlang's path below the folder into which its packages were unpacked.
ERLANG = Path("usr/lib/erlang")

#: The script that replaces a native program. It runs the program with the dynamic loader and the libraries of the
#: program's own suite. The library path is an argument, not an environment variable, so that programs of the system
#: that it starts do not inherit it.
_WRAPPER = """\
#!/bin/sh
exec {loader} --library-path {libraries} --argv0 "$0" {program} "$@"
"""

#: The programs of Erlang and of its libraries (such as `memsup` of os_mon), without the libraries' shared objects.
_PROGRAMS = ("erts-*/bin/*", "bin/*", "lib/*/priv/bin/*", "lib/*/bin/*")

_ELF = b"\x7fELF"


def relocate(root: Path, target: Path) -> None:
    """Replace each native program of the Erlang below `root` with a script that runs it with its own libraries.

    Args:
        root: the folder of the unpacked packages: `erlang-*`, and all libraries that they need, with the C library.
        target: the folder to which `root` will be moved. The paths in the scripts are below it.

    Raises:
        MissingPartError: the packages contain no C library.
    """
    loader = next((path for part in ("usr/lib", "lib") for path in root.glob(f"{part}/*/ld-linux*.so.*")), None)
    if loader is None:
        raise MissingPartError("the packages hold no C library to run Erlang with", part="Erlang")
    libraries = ":".join(str(target / part / loader.parent.name) for part in ("usr/lib", "lib"))
    for program in list(_native_programs(root / ERLANG)):
        moved = program.with_name(program.name + ".native")
        program.rename(moved)
        paths = {
            "loader": str(target / loader.relative_to(root)),
            "libraries": libraries,
            "program": str(target / moved.relative_to(root)),
        }
        program.write_text(_WRAPPER.format_map({name: shlex.quote(path) for name, path in paths.items()}))
        program.chmod(0o755)
    folder = f"ROOTDIR={shlex.quote(str(target / ERLANG))}"
    for script in (*(root / ERLANG).glob("bin/erl"), *(root / ERLANG).glob("erts-*/bin/erl")):
        # Debian's script has a fixed path of Erlang's root.
        script.write_text(re.sub(r"ROOTDIR=/usr/lib/erlang\b", lambda _: folder, script.read_text()))


def is_in_place(root: Path) -> bool:
    """Whether a relocated Erlang is in the folder to which its scripts refer; true if its script names none."""
    erl = root / ERLANG / "bin/erl"
    named = re.search(r"^ *ROOTDIR=(.+)$", erl.read_text(), flags=re.MULTILINE) if erl.is_file() else None
    if named is None:
        return True
    (folder,) = shlex.split(named[1])[:1] or [""]
    return Path(folder).exists() and Path(folder).samefile(root / ERLANG)


def _native_programs(erlang: Path) -> Iterator[Path]:
    for pattern in _PROGRAMS:
        for path in erlang.glob(pattern):
            if path.is_file() and not path.is_symlink() and path.suffix != ".native":
                with path.open("rb") as file:
                    if file.read(len(_ELF)) == _ELF:
                        yield path
