"""`make test-pythons`: which Pythons it finds, and what it says of the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.set_up.environments import copy_parts, run, surroundings

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_RELEASE = f"{_VERSION}.{sys.version_info.micro}"

#: In place of the project's, whose tests take minutes: what `make test` is told to use.
_MAKEFILE = """
test:
\t@echo "tested with $(bin) $(ready)"
\t@test "$$($(pythons) -c 'import sys; print(sys.version_info.minor)')" -ne "$(FAILING)"
"""


def _test_pythons(
    folder: Path, *names: str, path: str = "", failing: int = 0
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run it in a folder that is also the home, and give back its table too."""
    project = copy_parts(folder / "project", ".ci/test_pythons.py")
    (project / "Makefile").write_text(_MAKEFILE)
    # The machine's own Pythons are not to be found.
    (folder / "tools").mkdir()
    (folder / "tools" / "make").symlink_to(shutil.which("make") or "")
    variables = {"HOME": str(folder), "PYENV_ROOT": "", "PATH": f"{path}:{folder / 'tools'}", "FAILING": str(failing)}
    done = run([sys.executable, ".ci/test_pythons.py", *names], project, surroundings() | variables)
    return done, [line.split() for line in done.stdout.splitlines()[-len(names) :]]


def _install(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / name).symlink_to(os.path.realpath(sys.executable))


def test_one_that_is_not_found_is_said_and_the_others_are_tested(tmp_path: Path) -> None:
    """Who reads "passed" would believe that all versions were tested."""
    done, table = _test_pythons(tmp_path, sys.executable, "3.0")
    assert done.returncode == 0, done.stderr
    assert f"tested with .venv-{_VERSION}/bin .venv-{_VERSION}/.complete\n" in done.stdout
    assert [row[:3] for row in table] == [[sys.executable, _RELEASE, "passed"], ["3.0", "not", "found"]]


def test_one_that_fails_fails_all(tmp_path: Path) -> None:
    """Whoever runs it in a pipeline would not notice."""
    done, table = _test_pythons(tmp_path, sys.executable, "3.0", failing=sys.version_info.minor)
    assert done.returncode == 1
    assert [row[2] for row in table] == ["failed", "found"]


def test_where_none_is_found_nothing_has_passed(tmp_path: Path) -> None:
    """A misspelt version would be a success."""
    done, table = _test_pythons(tmp_path, "3.0")
    assert done.returncode == 1
    assert table == [["3.0", "not", "found"]]


def test_a_shim_that_does_not_run_is_passed_over_for_the_version_that_pyenv_has(tmp_path: Path) -> None:
    """With pyenv, every version but the selected one would fail, or be said to be missing."""
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / f"python{_VERSION}").write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    (shims / f"python{_VERSION}").chmod(0o755)
    _install(tmp_path / ".pyenv" / "versions" / _RELEASE / "bin", "python")
    done, table = _test_pythons(tmp_path, _VERSION, path=str(shims))
    assert done.returncode == 0, done.stdout + done.stderr
    assert table[0][:3] == [_VERSION, _RELEASE, "passed"]


def test_a_program_of_that_name_that_is_another_version_is_passed_over(tmp_path: Path) -> None:
    """The table would name a version that was not tested."""
    _install(tmp_path / "bin", "python3.0")
    done, table = _test_pythons(tmp_path, "3.0", path=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert table == [["3.0", "not", "found"]]
