"""Where the sandbox's programs come from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from worker.sandbox.errors import MissingPartError
from worker.sandbox.packages import cache_folder, unpacked
from worker.sandbox.rabbitmq import HOME_VARIABLE, find_installation

if TYPE_CHECKING:
    from pathlib import Path

_UNPACK = "from worker.sandbox.packages import unpacked; print(unpacked('python3-pip-whl', companions=''))"

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="packages are those of Debian and Ubuntu")


@needs_apt
def test_two_first_starts_at_once_unpack_one_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two demos started together on a new machine would run half-unpacked programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    both = [subprocess.Popen([sys.executable, "-c", _UNPACK], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {one.communicate(timeout=100)[0].strip() for one in both}
    assert [one.returncode for one in both] == [0, 0]
    (folder,) = (tmp_path / "unlink-worker").iterdir()
    assert folders == {str(folder)}
    assert list(folder.glob("usr/share/python-wheels/pip-*.whl"))


@needs_apt
def test_a_package_that_does_not_exist_is_reported_in_the_words_of_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user would not learn that the mirror, or the name, is the trouble."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingPartError, match="no-such-package"):
        unpacked("no-such-package", companions="")


def test_without_a_home_the_cache_is_a_folder_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts without a home could not run the sandbox; in a folder open to others, they would run what others put."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent == tmp_path
    assert cache_folder().stat().st_mode & 0o077 == 0


def test_a_named_rabbitmq_that_is_none_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who tests against a certain version would test against another."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(MissingPartError, match=HOME_VARIABLE):
        find_installation()


def test_with_neither_rabbitmq_nor_apt_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system `make demo` would end in a stack trace instead of advice."""
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPartError, match="docker or podman"):
        find_installation()
