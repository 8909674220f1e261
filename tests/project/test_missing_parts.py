"""Tests whose parts cannot be had on a machine: named as not run there, and an error in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs

ROOT = Path(__file__).resolve().parents[2]

#: A suite on a machine that has neither PostgreSQL nor promtool nor the operators' schemas.
SUITE = """
import pytest
from worker.sandbox.errors import MissingPartError


@pytest.fixture(scope="session")
def postgresql():
    raise MissingPartError("there is no PostgreSQL: install one\\nor name one", part="PostgreSQL")


@pytest.mark.parametrize("number", range(3))
def test_of_a_ledger(postgresql, number):
    pass


async def test_of_alerts():
    raise MissingPartError("this system has no apt", part="promtool")


@pytest.mark.skipif(True, reason="NOT CHECKED: needs schemas, which are not here")
def test_of_manifests():
    pass


def test_of_what_this_platform_does_not_have():
    pytest.skip("Windows alone has drive letters")


def test_of_a_missing_program():
    with pytest.raises(MissingPartError):
        raise MissingPartError("there is no curl", part="curl")
"""

NOT_RUN = "Not run: 5 tests, for want of PostgreSQL (3), promtool (1), schemas (1)"


def run(folder: Path, suite: str, *options: str, ci: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a suite with this project's settings and plugin alone."""
    (folder / "test_suite.py").write_text(suite)
    environment = {name: value for name, value in os.environ.items() if name != "CI" and "PYTEST" not in name}
    plugins = ("-p", "tests.missing_parts", "-p", "no:cacheprovider")
    settings = ("-c", str(ROOT / "pyproject.toml"), f"--rootdir={folder}")
    return programs.run(
        [sys.executable, "-m", "pytest", *settings, *plugins, *options, str(folder / "test_suite.py")],
        cwd=ROOT,
        env=environment if ci is None else environment | {"CI": ci},
    )


@pytest.mark.parametrize("processes", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_tests_without_their_parts_are_named_in_one_line(tmp_path: Path, processes: str) -> None:
    """Without the line, a failed run looks like a broken project, and a passed one like a complete run."""
    done = run(tmp_path, SUITE, "-n", processes)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, said, counts = done.stdout.splitlines()
    assert said == NOT_RUN
    assert "1 passed, 6 skipped" in counts
    assert "needs PostgreSQL: there is no PostgreSQL: install one\n" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["0", "2"])
def test_in_ci_a_part_that_cannot_be_had_is_an_error(tmp_path: Path, processes: str) -> None:
    """A CI run on a machine that lacks the parts must not pass with nothing tested."""
    done = run(tmp_path, SUITE, "-n", processes, ci="true")
    assert done.returncode == 1, done.stdout + done.stderr
    *_, said, counts = done.stdout.splitlines()
    assert said == "Not run: 1 test, for want of schemas (1)"
    assert "1 failed, 1 passed, 2 skipped, 3 errors" in counts


@pytest.mark.slow
def test_a_run_that_lacks_nothing_says_nothing(tmp_path: Path) -> None:
    """A line that is always printed is not read."""
    done = run(tmp_path, "def test_of_something():\n    pass\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not run" not in done.stdout
