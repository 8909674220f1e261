"""What anybody may publish to the events exchange, beside the tools that listen there."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pika

from tests.broker.hostile_events import NO_EVENTS, ODD_EVENTS
from tests.end_to_end.test_observing import PROGRAM, broker_only, surroundings
from tests.end_to_end.test_watch import next_line, watching
from tests.end_to_end.world import TIMEOUT_SECONDS, World
from tests.terminal import Terminal
from worker.broker.client import SKIPPED
from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID


def disturb(world: World) -> None:
    """Publish everything that is no event of a worker, twice, and what is an odd one."""
    with pika.BlockingConnection(pika.URLParameters(world.environment["UNLINK_BROKER__URL"])) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body in (*NO_EVENTS.values(), *ODD_EVENTS.values(), *NO_EVENTS.values()):
            channel.basic_publish("unlink.events", "succeeded.default", body)


def test_watch_in_a_pipe_goes_on_and_says_once_what_it_skips(world: World) -> None:
    """One message with a surrogate in UTF-8 ended the log of every unlink in a stack trace."""
    world.serve()
    with watching(world) as watch:
        disturb(world)
        world.unlink()
        assert next_line(watch, "CHG1")["data"]["outcome"] == "submitted"
        watch.send_signal(signal.SIGINT)
        _, said = watch.communicate(timeout=TIMEOUT_SECONDS)
        assert (watch.returncode, said) == (0, f"{SKIPPED}\n")


def test_watch_on_a_terminal_goes_on_and_says_what_it_skips(world: World) -> None:
    """One message with a number for a subject ended the screen on the wall."""
    world.serve()
    terminal = Terminal([*PROGRAM, "watch"], surroundings(broker_only(world), TERM="xterm-256color"))
    terminal.until("no event yet")
    disturb(world)
    terminal.until(f"{len(ODD_EVENTS)} events; messages that are no events were skipped")
    world.unlink()
    terminal.until("its task finished")
    assert terminal.end() == 0


def test_submit_goes_on_waiting_and_says_once_what_it_skips(world: World) -> None:
    """The command was published, and whoever waited for its end saw a stack trace."""
    worker = world.serve()
    worker.stop()
    typed = ("submit", "--wait", "--key", "K2", "--job", VENDOR_JOB_ID, "--link", VENDOR_LINK_ID)
    with subprocess.Popen(
        [*PROGRAM, *typed],
        env=surroundings(broker_only(world)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as submit:
        assert submit.stdout is not None
        assert "on the queue" in submit.stdout.readline()
        disturb(world)
        world.start_worker()
        printed, said = submit.communicate(timeout=TIMEOUT_SECONDS)
        assert (submit.returncode, said.count(SKIPPED), "Traceback" in said) == (0, 1, False)
        assert "K2  succeeded" in printed


def test_the_line_of_cancel_stays_on_the_terminal(world: World) -> None:
    """The spinner would erase it, and nobody know that somebody else publishes events."""
    world.serve()
    terminal = Terminal(
        [*PROGRAM, "cancel", "K3", "--wait", "--wait-seconds", "6"],
        surroundings(
            world.environment | {"UNLINK_LEDGER__URL": ""}, TERM="xterm-256color", NO_COLOR="1", COLUMNS="200"
        ),
    )
    terminal.until("waiting for the unlink to end")
    disturb(world)
    terminal.until(SKIPPED)
    assert terminal.wait() == 3
    assert re.search(rf"(\n|\x1b\[2K){re.escape(SKIPPED)}", terminal.seen), terminal.seen[-500:]


def test_a_terminal_that_cannot_show_a_character_shows_another(world: World) -> None:
    """The name of a job ended the tool where the locale is not one of UTF-8."""
    world.serve()
    world.unlink(labels={"site": "\u6771\u4eac"})
    done = subprocess.run(
        [*PROGRAM, "status", "CHG1", "--output", "json"],
        env=surroundings(world.environment, PYTHONIOENCODING="latin-1"),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["command"]["labels"]["site"]) == (0, "??"), done.stderr
