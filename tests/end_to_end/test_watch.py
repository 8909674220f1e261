"""How a person, or a script, watches the events."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import programs
from tests.end_to_end.test_observing import COLUMNS, PROGRAM, broker_only, program, surroundings
from tests.end_to_end.world import TIMEOUT_SECONDS, World, vendor_command
from tests.private_servers.broker_users import close_connections
from tests.terminal import Terminal
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_NAME

_COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@contextmanager
def watching(world: World, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`watch` in a pipe, once it listens."""
    with subprocess.Popen(
        [*PROGRAM, "watch", *arguments],
        env=surroundings(broker_only(world)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watch:
        try:
            until_watched(world, watch)
            yield watch
        finally:
            if watch.poll() is None:
                watch.kill()


def until_watched(world: World, watch: subprocess.Popen[str]) -> None:
    """Send junk keys until the watcher shows one: then it has bound its queue."""
    assert watch.stdout is not None
    over = time.monotonic() + TIMEOUT_SECONDS
    number = 0
    while not select.select([watch.stdout], [], [], 0.2)[0]:
        number += 1
        world.send(vendor_command(f"warm-up-{number}", if_absent="fail", repository={"name": "nowhere"}))
        assert watch.poll() is None, watch.stderr and watch.stderr.read()
        assert time.monotonic() < over, "watch shows nothing"


def until_said(watch: subprocess.Popen[str], words: str) -> str:
    """What `watch` has written to standard error, up to the line with these words."""
    assert watch.stderr is not None
    said = ""
    over = time.monotonic() + TIMEOUT_SECONDS
    while words not in said:
        readable, _, _ = select.select([watch.stderr], [], [], over - time.monotonic())
        assert readable, f"never said: {words}; but: {said}"
        line = os.read(watch.stderr.fileno(), 65536).decode()
        assert line, f"ended ({watch.poll()}) without: {words}; but: {said}"
        said += line
    return said


def next_line(watch: subprocess.Popen[str], key: str) -> dict[str, Any]:
    """The next event of a key; the test's time limit ends the wait."""
    assert watch.stdout is not None
    for line in watch.stdout:
        event: dict[str, Any] = json.loads(line)
        if event.get("subject") == key:
            return event
    pytest.fail(f"the lines ended; standard error: {watch.stderr and watch.stderr.read()}")


def test_watch_in_a_pipe_writes_each_event_as_it_comes_and_ends_with_ctrl_c(world: World) -> None:
    """A script that tails the events would get them late, or half, or a stack trace at the end."""
    world.serve()
    with watching(world) as watch:
        world.unlink()
        assert next_line(watch, "CHG1") == world.of("CHG1")[0].content
        assert next_line(watch, "CHG1") == world.of("CHG1")[1].content
        watch.send_signal(signal.SIGINT)
        _, said = watch.communicate(timeout=TIMEOUT_SECONDS)
        assert (watch.returncode, said) == (0, "")


#: `watch`, interrupted as soon as pika has asked for the events, before the broker has answered.
INTERRUPTED_WATCH = """
from pika.adapters.blocking_connection import BlockingChannel
from worker.cli import main

flush = BlockingChannel._flush_output

def interrupted_flush(channel, *waiters):
    if channel._queue_consumer_generator is not None:
        raise KeyboardInterrupt
    flush(channel, *waiters)

BlockingChannel._flush_output = interrupted_flush
main()
"""


@pytest.mark.slow
def test_watch_ends_without_a_word_when_it_is_interrupted_at_once(world: World) -> None:
    """Ctrl-C in the middle of an exchange with the broker showed a stack trace of pika's assertions."""
    world.start_worker()
    ended = programs.run(
        [sys.executable, "-c", INTERRUPTED_WATCH, "watch", "--output", "json"],
        env=surroundings(broker_only(world)),
        timeout=TIMEOUT_SECONDS,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.slow
def test_watch_shows_only_the_outcomes_that_were_asked_for(world: World) -> None:
    """Who waits for failures would have to read through all that went well."""
    world.serve()
    with watching(world, "--outcome", "failed", "--outcome", "planned", "--em", "default") as watch:
        world.unlink("CHG1")
        world.unlink("CHG2", dry_run=True)
        assert watch.stdout is not None
        shown = [json.loads(next(watch.stdout))["data"]]
        while shown[-1]["idempotency_key"] != "CHG2":
            shown.append(json.loads(next(watch.stdout))["data"])
        assert {each["outcome"] for each in shown} == {"failed", "planned"}


@pytest.mark.slow
def test_watch_goes_on_after_its_connection_was_lost(world: World, broker: LocalBroker) -> None:
    """A screen on the wall would stand still after the first maintenance of the broker, and nobody notice."""
    world.start_worker()
    with watching(world) as watch:
        close_connections(broker, broker.credentials.user, "maintenance")
        said = until_said(watch, "The broker is back")
        assert "Waiting for the broker" in said
        world.reconnect()
        world.listen()
        world.unlink()
        # Either may come first: `submitted` is published once only, and the worker may be reconnecting.
        assert next_line(watch, "CHG1")["data"]["outcome"] in {"submitted", "succeeded"}


def test_watch_ends_without_a_word_when_its_reader_has_gone(world: World) -> None:
    """`watch | head -1` would end in a stack trace."""
    world.start_worker()
    with watching(world) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        watch.stdout.readline()
        watch.stdout.close()
        while watch.poll() is None:
            world.send(vendor_command("more", dry_run=True))
            select.select([watch.stderr], [], [], 0.1)
        assert (watch.returncode, watch.stderr.read()) == (0, "")


def test_watch_says_at_once_that_there_is_no_broker() -> None:
    """A mistyped URL would look like a quiet day."""
    ended = program({"UNLINK_BROKER__URL": "amqp://guest:hush@127.0.0.1:1/"}, "watch")
    assert ended.exit_code == 1
    assert "cannot be reached" in ended.stderr
    assert "hush" not in ended.stderr


@pytest.mark.parametrize("no_color", [False, True])
def test_watch_on_a_terminal_is_a_table_that_fits(world: World, *, no_color: bool) -> None:
    """At 80 columns a row that wraps would tear the table; who asked for no colours would get them."""
    world.serve()
    more = {"NO_COLOR": "1"} if no_color else {}
    terminal = Terminal([*PROGRAM, "watch"], surroundings(broker_only(world), TERM="xterm-256color", **more))
    terminal.until("no event yet")
    key = "servicenow:CHG0030192/unlink-of-a-repository-with-quite-a-long-name"
    world.unlink(key, ticket={"system": "jira", "id": "OPS-4711"})
    terminal.until("2 events")
    assert terminal.end() == 0
    assert "succeeded" in terminal.seen
    assert bool(_COLOUR.search(terminal.seen)) is not no_color
    lines = _STEERING.sub("\n", _STYLE.sub("", terminal.seen)).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= COLUMNS
    row = next(line for line in lines if "its task finished" in line)
    assert VENDOR_JOB_NAME[:10] in row
    assert "OPS-4711" in row
