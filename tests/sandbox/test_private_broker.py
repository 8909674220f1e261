from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pika.exceptions
import pytest
import requests

from tests.missing_parts import require_rabbitmq
from worker.sandbox.errors import PartFailedError
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.rabbitmq.choice import private_broker
from worker.sandbox.rabbitmq.private_broker import PrivateBroker

_QUORUM = {"x-queue-type": "quorum"}

_OWNER = """
import sys
from worker.sandbox.rabbitmq.choice import private_broker
from worker.sandbox.rabbitmq.private_broker import PrivateBroker
with private_broker("orphan") as broker:
    print(broker.environment["HOME"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def own_broker() -> Iterator[PrivateBroker]:
    """A node beside the session's, which these tests may stop and kill."""
    with private_broker("own") as broker:
        yield broker


def _publish(url: str, body: bytes) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("kept", durable=True, arguments=_QUORUM)
        channel.basic_publish("", "kept", body, pika.BasicProperties(delivery_mode=2), mandatory=True)


def _take(url: str) -> bytes | None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        body: bytes | None = connection.channel().basic_get("kept", auto_ack=True)[2]
        return body


def _is_on_disk(queue: str, broker: PrivateBroker) -> bool:
    """Whether the node has saved that there is a quorum queue of this name."""
    (names,) = Path(broker.environment["RABBITMQ_MNESIA_BASE"]).glob("*/quorum/*/names.dets")
    return f"%2F_{queue}".encode() in names.read_bytes()


def _command_lines() -> Iterator[bytes]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended since
                yield (entry / "cmdline").read_bytes()


def _belonging_to(directory: Path) -> list[str]:
    """The command lines of all programs that were started for a directory: it is in their arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command_line = (entry / "cmdline").read_bytes()
                reported = command_line + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in reported:
                found.append(command_line.replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
def test_a_message_goes_through_the_private_node(own_broker: PrivateBroker) -> None:
    """Nothing of the sandbox works if its broker does not take and give messages on a quorum queue."""
    _publish(own_broker.url, b"there")
    assert _take(own_broker.url) == b"there"


@pytest.mark.slow
def test_a_confirmed_message_outlives_sigkill_of_the_node(own_broker: PrivateBroker) -> None:
    """A test that kills the broker would prove nothing if the node came back empty or on another port."""
    _publish(own_broker.url, b"still there")
    assert wait_until(lambda: _is_on_disk("kept", own_broker), seconds=20)
    own_broker.kill()
    assert not own_broker.running
    own_broker.start()
    assert _take(own_broker.url) == b"still there"


@pytest.mark.slow
def test_a_confirmed_message_outlives_a_restart_in_good_order(own_broker: PrivateBroker) -> None:
    """A user who restarts the sandbox's broker would lose commands."""
    _publish(own_broker.url, b"still there")
    own_broker.restart()
    assert _take(own_broker.url) == b"still there"


@pytest.mark.slow
def test_two_brokers_side_by_side_share_nothing(own_broker: PrivateBroker, broker: PrivateBroker) -> None:
    """Two demos, or a demo and the tests, on one machine would see each other's messages."""
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        _publish(own_broker.url.replace(str(own_broker.port), str(broker.port)), b"astray")
    assert own_broker.environment["ERL_EPMD_PORT"] != broker.environment["ERL_EPMD_PORT"]


@pytest.mark.slow
def test_rabbitmqctl_reaches_the_node_and_says_what_is_wrong(own_broker: PrivateBroker) -> None:
    """A user who looks into the private broker with RabbitMQ's own tools would see another node, or nothing."""
    assert own_broker.rabbitmqctl("list_vhosts", "name").split() == ["name", "/"]
    with pytest.raises(PartFailedError, match="list_everything"):
        own_broker.rabbitmqctl("list_everything")


def test_the_http_api_takes_the_same_user(broker: PrivateBroker) -> None:
    """Publishing over HTTP, as ServiceNow does, could not be tried in the sandbox."""
    overview = requests.get(f"{broker.management_url}/api/overview", timeout=30)
    assert overview.json()["node"] == "tests@localhost"


@pytest.mark.slow
def test_no_management_url_without_management(own_broker: PrivateBroker) -> None:
    """A test that forgot to ask for the plugin would wait for a port that nobody opens."""
    with pytest.raises(ValueError, match="management"):
        own_broker.management_url  # noqa: B018 - the property raises


def test_the_password_is_on_no_command_line_and_in_no_repr(broker: PrivateBroker) -> None:
    """Every user of the machine can read command lines; a log would keep the repr."""
    password = urlsplit(broker.url).password
    assert password
    assert password not in repr(broker)
    assert password not in str(broker.environment)
    assert not any(password.encode() in command_line for command_line in _command_lines())


@pytest.mark.slow
def test_closing_leaves_no_program_and_no_file() -> None:
    """A sandbox that leaves nodes behind eats a machine's memory and disk, unnoticed."""
    with private_broker("brief") as broker:
        directory = Path(broker.environment["HOME"]).parent
        broker.rabbitmqctl("status")
        assert _belonging_to(directory)
    assert _belonging_to(directory) == []
    assert not directory.exists()
    broker.close()


@pytest.mark.slow
def test_sigkill_of_the_owner_leaves_no_program_and_no_file() -> None:
    """A closed terminal, or an out-of-memory kill, would leave a node running for ever."""
    require_rabbitmq()
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout
        directory = Path(owner.stdout.readline().strip()).parent
        assert any("beam" in program for program in _belonging_to(directory))
        owner.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not _belonging_to(directory) and not directory.exists(), seconds=20)


@pytest.mark.slow
def test_a_node_that_cannot_start_says_why_in_its_own_words() -> None:
    """Without the node's log, a full disk and a taken port look the same to a user."""
    broker = private_broker("broken")
    try:
        (Path(broker.environment["HOME"]) / "rabbitmq.conf").write_text("listeners.tcp.1 = nowhere\n")
        began = time.monotonic()
        with pytest.raises(PartFailedError, match=r"listeners\.tcp"):
            broker.start()
        assert time.monotonic() - began < 60
    finally:
        broker.close()
