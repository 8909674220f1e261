from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import ProcessSupervisor, Program, wait_until

#: Three ways out of a program's session: a session of its own, a daemon, and a child that ignores requests to end.
_FUGITIVES = """
setsid sh -c 'echo $$; exec sleep 600' &
(setsid sh -c 'echo $$; exec sleep 600' &)
(trap "" TERM HUP INT; echo $$; sleep 600) &
wait
"""

_FORKING_OWNER = """
import os, sys, time
from worker.sandbox.processes.supervisor import ProcessSupervisor
supervisor = ProcessSupervisor("forked")
pid = os.fork()
if pid == 0:
    time.sleep(600)
print(pid, supervisor.directory, flush=True)
time.sleep(600)
"""


@pytest.fixture
def supervisor() -> Iterator[ProcessSupervisor]:
    """A supervisor."""
    with ProcessSupervisor("test") as supervisor:
        yield supervisor


def _start(supervisor: ProcessSupervisor, script: str, *, ending: signal.Signals | None = None) -> Program:
    return supervisor.start(["/bin/sh", "-c", script], environment={}, log=supervisor.directory / "log", ending=ending)


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_nothing_that_leaves_its_session_escapes_the_end(supervisor: ProcessSupervisor) -> None:
    """Erlang's port mapper and PostgreSQL's backends leave their session, and would stay on a user's machine."""
    program = _start(supervisor, _FUGITIVES)
    assert wait_until(lambda: len(program.log_tail().split()) == 3, seconds=10)
    fugitives = [int(pid) for pid in program.log_tail().split()]
    assert all(map(_is_there, fugitives))
    supervisor.close()
    assert not any(map(_is_there, fugitives))
    assert not supervisor.directory.exists()


def test_a_program_may_end_in_good_order_before_the_directory_goes(
    supervisor: ProcessSupervisor, tmp_path: Path
) -> None:
    """PostgreSQL that is only ever killed leaves a segment of shared memory each time."""
    said = tmp_path / "said"
    program = _start(
        supervisor, f"trap 'echo goodbye >{said}; exit' QUIT; echo ready; sleep 600 & wait", ending=signal.SIGQUIT
    )
    assert wait_until(lambda: program.log_tail() == "ready", seconds=10)
    supervisor.close()
    assert said.read_text() == "goodbye\n"


def test_what_a_program_leaves_elsewhere_is_removed_at_the_end(supervisor: ProcessSupervisor, tmp_path: Path) -> None:
    """A container outlives the client that started it."""
    left = tmp_path / "left"
    left.touch()
    supervisor.start(
        ["/bin/sh", "-c", "exit"], environment={}, log=supervisor.directory / "log", afterwards=["/bin/rm", str(left)]
    )
    supervisor.close()
    assert not left.exists()


def test_the_owner_killed_while_its_child_holds_the_pipe_open() -> None:
    """A program that forks and is then killed would leave its servers, since the pipe to the reaper never closes."""
    owner = subprocess.Popen([sys.executable, "-c", _FORKING_OWNER], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout
        child, directory = owner.stdout.readline().split()
        try:
            owner.kill()
            owner.wait(timeout=10)
            assert _is_there(int(child))
            assert wait_until(lambda: not Path(directory).exists(), seconds=10)
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_program_that_is_not_there_is_named(supervisor: ProcessSupervisor) -> None:
    """A user would not know what to install."""
    with pytest.raises(PartFailedError, match="/bin/nothing-of-the-kind"):
        supervisor.start(["/bin/nothing-of-the-kind"], environment={}, log=supervisor.directory / "log")


def test_a_program_that_ended_is_seen_to_have_ended(supervisor: ProcessSupervisor) -> None:
    """A broker that crashed at its start would be waited for to the last second."""
    program = _start(supervisor, "exit 3")
    program.wait(seconds=10)
    assert not program.running
    program.signal(signal.SIGTERM)


def test_a_program_that_does_not_end_is_given_up_with_its_last_words(supervisor: ProcessSupervisor) -> None:
    """Stopping a server that hangs would hang, too."""
    program = _start(supervisor, "echo never; sleep 600")
    assert wait_until(lambda: program.log_tail() == "never", seconds=10)
    with pytest.raises(PartFailedError, match="never"):
        program.wait(seconds=0)


def test_closing_twice_does_nothing_more(supervisor: ProcessSupervisor) -> None:
    """A fixture that closes what a test has closed would fail the test."""
    supervisor.close()
    supervisor.close()


def test_a_program_whose_pid_was_given_to_another_is_not_taken_for_it(supervisor: ProcessSupervisor) -> None:
    """On a busy machine PIDs come round within minutes: the end of the tests would kill a user's programs."""
    program = _start(supervisor, "exec sleep 600")
    program._birth = "0"  # noqa: SLF001 - as if it had been started at another time
    assert not program.running
    program.signal(signal.SIGKILL)
    assert _is_there(program.pid)


_PARENT = """
import os, signal, time
from worker.sandbox.processes.reaper import Children
children = Children()
signal.signal(signal.SIGCHLD, children.reap)
lasting = children.start(lambda: os.posix_spawn("/bin/sleep", ["sleep", "600"], {}))
short = children.start(lambda: os.posix_spawn("/bin/true", ["true"], {}))
while short in children:
    time.sleep(0.01)
assert list(children) == [lasting]
os.kill(lasting, signal.SIGKILL)
while list(children):
    time.sleep(0.01)
"""


def test_children_that_have_ended_are_no_longer_known() -> None:
    """The reaper would signal programs that have got their PIDs since."""
    subprocess.run([sys.executable, "-c", _PARENT], check=True, timeout=60)
