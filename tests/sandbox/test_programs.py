"""Where the sandbox's programs come from."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.sandbox.errors import MissingPartError
from worker.sandbox.packages import cache_folder, unpacked
from worker.sandbox.rabbitmq.choice import private_broker
from worker.sandbox.rabbitmq.installation import HOME_VARIABLE, VERSION_VARIABLE, find_installation
from worker.sandbox.rabbitmq.relocated_erlang import ERLANG

_UNPACK = "from worker.sandbox.packages import unpacked; print(unpacked('python3-pip-whl', companions=''))"

needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="needs apt: packages are those of Debian and Ubuntu"
)


@needs_apt
@pytest.mark.slow
def test_two_first_starts_at_once_unpack_one_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two demos started together on a new machine would run half-unpacked programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    both = [subprocess.Popen([sys.executable, "-c", _UNPACK], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {one.communicate(timeout=100)[0].strip() for one in both}
    assert [one.returncode for one in both] == [0, 0]
    (folder,) = (each for each in (tmp_path / "unlink-worker").iterdir() if not each.is_symlink())
    assert folders == {str(folder)}
    assert list(folder.glob("usr/share/python-wheels/pip-*.whl"))


@needs_apt
@pytest.mark.slow
def test_a_package_that_does_not_exist_is_reported_in_the_words_of_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user would not learn that the mirror, or the name, is the trouble."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingPartError, match="no-such-package") as raised:
        unpacked("no-such-package", companions="")
    assert raised.value.part == "no-such-package"


def test_without_a_home_the_cache_is_a_folder_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts without a home could not run the sandbox; in a folder open to others, they would run what others put."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent == tmp_path
    assert cache_folder().stat().st_mode & 0o077 == 0


def test_a_cache_whose_path_has_a_space_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ's scripts, unpacked there, end with messages about variables that nobody set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of J. Doe"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent == tmp_path


def test_a_named_rabbitmq_that_is_none_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who tests against a certain version would test against another."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    with pytest.raises(MissingPartError, match=HOME_VARIABLE):
        find_installation()


@pytest.fixture
def unpacked_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes an earlier start's RabbitMQ, of a release of Debian, in the cache of a Debian 12 without apt."""
    for variable in (HOME_VARIABLE, VERSION_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    system = {"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: system)

    def unpack(release: str, version: str) -> None:
        folder = cache_folder() / version
        server = folder / "usr/lib/rabbitmq/lib" / f"rabbitmq_server-{version}"
        (server / "sbin").mkdir(parents=True)
        (server / "plugins" / f"rabbit-{version}").mkdir(parents=True)
        (cache_folder() / f"rabbitmq-server-of-debian-{release}-{platform.machine()}").symlink_to(folder)

    return unpack


def test_rabbitmq_4_is_preferred_to_the_older_one_of_the_system(unpacked_before: Callable[[str, str], None]) -> None:
    """Users would try, and tests would run on, a RabbitMQ that left support years ago."""
    unpacked_before("12", "3.10.8")
    unpacked_before("stable", "4.0.5")
    assert find_installation().description == "RabbitMQ 4.0.5"


def test_an_older_rabbitmq_is_taken_where_there_is_no_other_and_that_is_said(
    unpacked_before: Callable[[str, str], None],
) -> None:
    """Without a network the demo would not run; without a word, its user would take the old version for the new one."""
    unpacked_before("12", "3.10.8")
    assert find_installation().description == (
        "RabbitMQ 3.10.8 (RabbitMQ 4 is not available here: this system has no apt to download packages with)"
    )


def test_a_version_that_is_asked_for_is_never_another(
    unpacked_before: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite that is to run on the oldest version would be green on the newest one."""
    unpacked_before("12", "3.10.8")
    unpacked_before("trixie", "4.0.5")
    unpacked_before("forky", "4.4.0")
    monkeypatch.setenv(VERSION_VARIABLE, "3.10")
    assert find_installation().version == "3.10.8"
    with pytest.raises(MissingPartError, match=r"forky now has RabbitMQ 4\.4\.0, not 4\.3"):
        find_installation("4.3")
    with pytest.raises(MissingPartError, match=r"must be one of 4\.3, 4\.0, 3\.10"):
        find_installation("3.9")


def test_a_container_takes_the_place_of_no_rabbitmq_that_was_named(
    unpacked_before: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a container engine, a mistyped folder or version would be answered with RabbitMQ 4 instead of an error."""
    unpacked_before("12", "3.10.8")
    programs = tmp_path / "no programs"
    programs.mkdir()
    (programs / "docker").write_text("#!/bin/sh\n")
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv(VERSION_VARIABLE, "9.9")
    with pytest.raises(MissingPartError, match=r"must be one of"):
        private_broker()
    monkeypatch.setenv(VERSION_VARIABLE, "4.0")
    broker = private_broker()
    assert broker.description == "RabbitMQ 4.0 in a container of docker"
    broker.close()
    monkeypatch.setenv(HOME_VARIABLE, "nowhere")
    with pytest.raises(MissingPartError, match="nowhere"):
        private_broker()


def test_an_erlang_that_was_copied_elsewhere_is_said_to_be(
    unpacked_before: Callable[[str, str], None], tmp_path: Path
) -> None:
    """Its scripts name the folder where they were made: a cache that was moved would not run, and not say why."""
    unpacked_before("stable", "4.0.5")
    erl = cache_folder() / "4.0.5" / ERLANG / "bin/erl"
    erl.parent.mkdir(parents=True)
    (tmp_path / "old cache").mkdir()
    erl.write_text(f"#!/bin/sh\nROOTDIR='{tmp_path}/old cache'\n")
    with pytest.raises(MissingPartError, match="was moved or copied; remove the folder"):
        find_installation()
    erl.write_text(f"#!/bin/sh\nROOTDIR={erl.parents[1]}\n")
    assert find_installation().version == "4.0.5"


def test_with_neither_rabbitmq_nor_apt_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system `make demo` would end in a stack trace instead of advice."""
    for variable in (HOME_VARIABLE, VERSION_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingPartError, match="docker or podman"):
        find_installation()
