# ruff: noqa: INP001 - a script that make runs, no package to import
"""Run `make test` on several Pythons, one after the other, and end with a table of how each did.

Each has a virtual environment of its own, such as .venv-3.12, so that .venv stays as it is.

A Python is named by its version or by its path. A version is looked for on the PATH (python3.12), then among pyenv's
versions. One that does not run, such as the shim of a version that pyenv has not selected, is not found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).resolve().parent.parent

#: What a Python says of itself: the base one's path, if it is a virtual environment's.
_QUESTION = (
    "import json, sys; "
    "print(json.dumps([sys._base_executable, sys.base_prefix, '.'.join(map(str, sys.version_info[:3]))]))"
)

#: How long a Python may take to answer, in seconds.
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that runs.

    Attributes:
        path: its program.
        prefix: its installation's folder.
        version: such as `3.12.1`.
    """

    path: str
    prefix: str
    version: str

    @property
    def minor(self) -> str:
        """Such as `3.12`."""
        return self.version.rpartition(".")[0]


def main() -> None:
    """Test on the Pythons that the arguments name; exit 1 if the tests fail on one, or if none is found."""
    rows = []
    for name in sys.argv[1:]:
        interpreter = _find(name)
        result = _test(interpreter) if interpreter else "not found"
        rows.append((name, interpreter.version if interpreter else "", result, interpreter.path if interpreter else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        sys.stdout.write("  ".join(map(str.ljust, row, widths)).rstrip() + "\n")
    results = [result for _, _, result, _ in rows]
    sys.exit("failed" in results or "passed" not in results)


def _test(interpreter: Interpreter) -> str:
    folder = f".venv-{interpreter.minor}"
    if _ask(_ROOT / folder / "bin" / "python") != interpreter:
        # Of another installation, or of a version that was updated since: make it anew.
        (_ROOT / folder / ".complete").unlink(missing_ok=True)
    sys.stdout.write(f"\nPython {interpreter.version}, {interpreter.path}\n")
    sys.stdout.flush()
    variables = (f"bin={folder}/bin", f"ready={folder}/.complete", f"pythons={interpreter.path}")
    done = subprocess.run(["make", *variables, "test"], cwd=_ROOT, check=False)  # noqa: S603, S607 - the user's make
    return "failed" if done.returncode else "passed"


def _find(name: str) -> Interpreter | None:
    found = filter(None, map(_ask, [Path(name)] if os.sep in name else _candidates(name)))
    return next((one for one in found if os.sep in name or one.minor == name), None)


def _candidates(version: str) -> Iterator[Path]:
    for folder in os.get_exec_path():
        yield Path(folder, f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    releases = (pyenv / "versions").glob(f"{version}.*/bin/python")
    yield from sorted(releases, key=lambda path: (len(path.parts[-3]), path.parts[-3]), reverse=True)


def _ask(python: Path) -> Interpreter | None:
    try:
        answer = subprocess.run(  # noqa: S603 - a Python
            [python, "-I", "-c", _QUESTION], check=True, capture_output=True, text=True, timeout=_SECONDS
        )
        return Interpreter(*json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None


if __name__ == "__main__":
    main()
