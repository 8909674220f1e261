"""Installing the project is a function of its locks alone: newer releases and old pips do not change what is installed.

`make test` asks the same of a small project, in test_small_project.py.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.set_up.downloads import PIPS, ROOT, locked_wheels, pip_wheel
from tests.set_up.environments import (
    Environment,
    copy_project,
    install_as_make_does,
    install_as_the_readme_says,
    pins,
    projects,
    run,
    surroundings,
)
from tests.set_up.package_index import NEWER, PackageIndex, make_newer_wheels, package_index

#: What the README's lines and the image install from, and what `make venv` installs from.
RUNTIME = ("requirements.lock", "k8s/image/build.lock")
DEVELOPMENT = ("requirements-dev.lock",)

_VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

#: From 23.3 on, pip takes the pinned release for a dependency with an extra too.
_HEED_THE_LOCK = ("24.0", "newest")

pytestmark = pytest.mark.slow

each_pip = pytest.mark.parametrize("version", PIPS)
each_place = pytest.mark.parametrize("place", ["index", "folder"])


class Offer:
    """An index, and a folder, that hold what some locks pin and a newer release of each of their projects."""

    def __init__(self, index: PackageIndex, wheels: Path, newer: Path, locks: tuple[str, ...]) -> None:
        self.index = index
        self.projects = projects(*(ROOT / lock for lock in locks)) | {"pip", "setuptools"}
        self._folders = f"{wheels} {newer}"

    def settings(self, place: str) -> dict[str, str]:
        """What a user tells pip who has the index, or only the folder."""
        online = {"index_url": self.index.url}
        return surroundings(**online if place == "index" else {"no_index": "1", "find_links": self._folders})


def _offer(folder: Path, locks: tuple[str, ...]) -> Iterator[Offer]:
    wheels, newer = locked_wheels(*locks), folder / "newer"
    make_newer_wheels(newer, projects(*(ROOT / lock for lock in locks)) | {"pip", "setuptools"})
    with package_index(wheels, newer) as index:
        yield Offer(index, wheels, newer, locks)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Offer]:
    """What the README's lines choose from."""
    yield from _offer(tmp_path, RUNTIME)


@pytest.fixture
def development(tmp_path: Path) -> Iterator[Offer]:
    """What `make venv` chooses from."""
    yield from _offer(tmp_path, DEVELOPMENT)


@each_pip
def test_the_index_tempts(version: str, runtime: Offer, tmp_path: Path) -> None:
    """Without newer releases that pip would take, the tests below would prove nothing."""
    environment = Environment(tmp_path / "environment", pip_wheel(version))
    report = ("--dry-run", "--ignore-installed", "--quiet", "--report=-")
    done = run(
        [environment.folder / "bin" / "pip", "install", "--no-deps", *report, *sorted(runtime.projects)],
        tmp_path,
        runtime.settings("index"),
    )
    assert done.returncode == 0, done.stderr
    taken = {each["metadata"]["name"]: each["metadata"]["version"] for each in json.loads(done.stdout)["install"]}
    assert taken == dict.fromkeys(runtime.projects, NEWER)


@each_pip
def test_a_pip_that_resolves_past_the_lock_is_one_of_those_tested(
    version: str, development: Offer, tmp_path: Path
) -> None:
    """`--no-deps` would look needless, and be left out, if no pip were there that fails without it."""
    environment = Environment(tmp_path / "environment", pip_wheel(version))
    locked = ("--require-hashes", "--only-binary=:all:", "--dry-run", "-r", DEVELOPMENT[0])
    done = run(
        [environment.python, "-m", "pip", "install", "-qq", *locked],
        copy_project(tmp_path / "project"),
        development.settings("index"),
    )
    if version in _HEED_THE_LOCK:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert "coverage[toml]" in done.stderr
        assert "must have their versions pinned" in done.stderr


@each_place
@each_pip
def test_the_readme_s_lines_install_what_the_lock_pins(
    version: str, place: str, runtime: Offer, tmp_path: Path
) -> None:
    """Who installs in a year would run releases that nobody tested, or nothing at all."""
    environment = Environment(tmp_path / "environment", pip_wheel(version))
    pip = environment.installed()
    done = install_as_the_readme_says(copy_project(tmp_path / "project"), environment, runtime.settings(place))
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout
    assert environment.installed() == pip | {"unlink-worker": _VERSION} | pins(*(ROOT / lock for lock in RUNTIME))
    assert [wheel for wheel in runtime.index.taken if NEWER in wheel] == []


@each_place
@each_pip
def test_make_installs_what_the_lock_pins(version: str, place: str, development: Offer, tmp_path: Path) -> None:
    """`make demo` and `make test` would fail on the day after any of a hundred projects has a new release."""
    environment = Environment(tmp_path / "environment", pip_wheel(version))
    pip = environment.installed()
    done = install_as_make_does(copy_project(tmp_path / "project"), environment, development.settings(place))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert environment.installed() == pip | {"unlink-worker": _VERSION} | pins(*(ROOT / lock for lock in DEVELOPMENT))
    assert [wheel for wheel in development.index.taken if NEWER in wheel] == []
