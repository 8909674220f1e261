"""Make an Erlang that was unpacked from packages run where it lies, on a system with an older C library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from worker.sandbox.errors import MissingPartError

#: Where Erlang lies below the folder that its packages were unpacked into.
ERLANG = Path("usr/lib/erlang")

#: What is put in the place of a native program. The loader of the program's own suite brings the libraries that it was
#: built for; as arguments, not as environment variables, so that the system's programs that it starts do not get them.
_WRAPPER = """\
#!/bin/sh
exec {loader} --library-path {libraries} --argv0 "$0" {program} "$@"
"""

#: The programs, Erlang's own and those of its libraries (os_mon: `memsup`); a library's shared objects are no programs.
_PROGRAMS = ("erts-*/bin/*", "bin/*", "lib/*/priv/bin/*", "lib/*/bin/*")

_ELF = b"\x7fELF"


def relocate(root: Path, target: Path) -> None:
    """Replace each native program of the Erlang below `root` by a script that runs it with its own libraries.

    Args:
        root: where the packages were unpacked: `erlang-*`, and all libraries that these need, the C library among them.
        target: where `root` will be moved to; paths in the scripts are below it.

    Raises:
        MissingPartError: the packages hold no C library.
    """
    loader = next((path for part in ("usr/lib", "lib") for path in root.glob(f"{part}/*/ld-linux*.so.*")), None)
    if loader is None:
        raise MissingPartError("the packages hold no C library to run Erlang with", part="Erlang")
    libraries = ":".join(str(target / part / loader.parent.name) for part in ("usr/lib", "lib"))
    for program in list(_native_programs(root / ERLANG)):
        moved = program.with_name(program.name + ".native")
        program.rename(moved)
        program.write_text(
            _WRAPPER.format(
                loader=target / loader.relative_to(root), libraries=libraries, program=target / moved.relative_to(root)
            )
        )
        program.chmod(0o755)
    for script in (*(root / ERLANG).glob("bin/erl"), *(root / ERLANG).glob("erts-*/bin/erl")):
        # Debian compiles Erlang's root into it.
        script.write_text(re.sub(r"ROOTDIR=/usr/lib/erlang\b", f"ROOTDIR={target / ERLANG}", script.read_text()))


def _native_programs(erlang: Path) -> Iterator[Path]:
    for pattern in _PROGRAMS:
        for path in erlang.glob(pattern):
            if path.is_file() and not path.is_symlink() and path.suffix != ".native":
                with path.open("rb") as file:
                    if file.read(len(_ELF)) == _ELF:
                        yield path
