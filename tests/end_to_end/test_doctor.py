"""`unlink-worker doctor` on real parts: what it says of a sound installation, and of each that is not."""

from __future__ import annotations

import hashlib
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.end_to_end.world import World
from tests.preloaded.preloaded import run_program
from tests.private_servers.black_hole import black_hole
from tests.private_servers.broker_users import BrokerUsers
from tests.terminal import Terminal
from worker.doctor.ledger import file_system_of
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.processes.worker_process import surroundings
from worker.sandbox.rabbitmq.private_broker import LocalBroker

EM = "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__"
MANAGEMENT = "UNLINK_BROKER__MANAGEMENT_URL"


class Said:
    """What the doctor said, its lines put together again, and its exit status."""

    def __init__(self, ended: subprocess.CompletedProcess[str]) -> None:
        self.status = ended.returncode
        self.output = ended.stdout
        self.text = " ".join(ended.stdout.split())
        self.error = ended.stderr

    def wrong(self) -> list[str]:
        """What was marked as wrong."""
        return [line.split()[1] for line in self.output.splitlines() if line.startswith("  ✗")]


@pytest.fixture
def doctor(world: World, broker: LocalBroker) -> Callable[..., Said]:
    """Asks the doctor, with changed settings."""

    def ask(*arguments: str, **changes: str) -> Said:
        settings = world.environment | {MANAGEMENT: broker.management_url} | changes
        return Said(run_program("doctor", *arguments, settings={"COLUMNS": "80", **settings}))

    return ask


@pytest.fixture
def declared(world: World) -> None:
    """The topology as a worker declares it, and its ledger."""
    world.start_worker().stop()


# --- a sound installation ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("declared")
def test_of_a_sound_installation_nothing_is_wrong(world: World, doctor: Any) -> None:
    """Else people would look for faults that are none, or learn to overlook what it says."""
    said = doctor()
    assert (said.status, said.wrong()) == (0, []), said.output + said.error
    assert "!" not in said.output
    for reported in (
        "RabbitMQ",
        "all 9 exchanges and 8 queues are there",
        "are as the worker declares them",
        "may write to the exchanges and read from the queues",
        "within RabbitMQ's default consumer timeout of 1800 s",
        "API v1_5, v1_6, v1_7",
        "verified by the CA file; the certificate is valid until",
        "may see jobs",
        "nothing wrong",
    ):
        assert reported in said.text
    # Only a word that is longer than a line, such as a path, is not broken.
    assert all(len(line) <= 80 or len(line.split()[-1]) > 60 for line in said.output.splitlines())
    assert world.enterprise_manager.sessions == []
    assert "\x1b" not in said.output
    assert said.error == ""


def test_looking_changes_nothing(world: World, broker: LocalBroker, virtual_host: str, doctor: Any) -> None:
    """Else a look at a new installation would leave queues and files behind that nobody ordered."""
    ledger = Path(world.environment["UNLINK_LEDGER__URL"].removeprefix("sqlite:///"))
    ledger.unlink()
    said = doctor()
    assert (said.status, said.wrong()) == (0, []), said.output
    assert "17 of 17 not there yet: the worker declares them at its start" in said.text
    assert "none yet: the worker makes it at its start" in said.text
    assert requests.get(f"{broker.management_url}/api/queues/{virtual_host}", timeout=30).json() == []
    assert not ledger.exists()


@pytest.mark.usefixtures("declared")
def test_a_command_that_waits_is_still_there_afterwards(world: World, doctor: Any) -> None:
    """Else who asks for help would lose what he asks for."""
    world.send(b"waits")
    world.until(lambda: world.client.count("unlink.commands.default") == 1, "the command on its queue")
    assert doctor().status == 0
    world.until(lambda: world.client.count("unlink.commands.default") == 1, "the command back on its queue")
    assert world.client.count("unlink.dead") == 0
    assert world.client.count("unlink.unrouted") == 0
    assert world.client.count("unlink.delay.5s") == 0


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_reached_is_reported_with_the_setting_that_mends_it(doctor: Any) -> None:
    """Else a typing error would take an afternoon."""
    said = doctor(
        UNLINK_BROKER__URL="amqp://worker:hunter2@127.0.0.1:1",
        UNLINK_LEDGER__URL="postgresql://worker:hunter2@127.0.0.1:1/unlink",
        **{f"{EM}URL": "https://127.0.0.1:1"},
    )
    assert (said.status, said.wrong()) == (1, ["reachable"] * 3)
    assert "3 of 3 checks are wrong" in said.text
    for reported in ("UNLINK_BROKER__URL is right", "correct UNLINK_LEDGER__URL", f"is the port in {EM}URL right?"):
        assert reported in said.text
    assert "hunter2" not in said.output + said.error
    assert "Traceback" not in said.output + said.error


def test_a_wrong_password_counts_once(world: World, doctor: Any) -> None:
    """Else the doctor himself would lock the account."""
    said = doctor(**{f"{EM}PASSWORD": "hunter2"}, UNLINK_BROKER__URL=world.broker_url_with_password("hunter2"))
    assert (said.status, said.wrong()) == (1, ["reachable", "logon"])
    assert "refuses the user name or the password (403): correct UNLINK_BROKER__URL" in said.text
    assert f"check {EM}USERNAME and {EM}PASSWORD" in said.text
    assert world.enterprise_manager.count("POST", "/sessionMngr/") == 1
    assert "hunter2" not in said.output + said.error


@pytest.mark.parametrize(
    ("changes", "status", "reported"),
    [
        ({"CERT_SHA256": "ab" * 32}, 1, f"is not the one in {EM}CERT_SHA256"),
        ({"CA_FILE": None}, 1, f"or set {EM}CERT_SHA256 to its fingerprint"),
        ({"CA_FILE": None, "VERIFY_TLS": "false"}, 0, "not verified: the password is sent to any server that answers"),
    ],
)
def test_a_server_that_may_be_another_is_reported(
    world: World, doctor: Any, changes: dict[str, str | None], status: int, reported: str
) -> None:
    """Else a password would go to a stranger, or nobody know why it does not go."""
    for name, value in changes.items():
        if value is None:
            del world.environment[EM + name]
    said = doctor(**{EM + name: value for name, value in changes.items() if value is not None})
    assert said.status == status
    assert reported in said.text


def test_a_missing_role_is_reported(world: World, doctor: Any) -> None:
    """Else the first unlink would be the first to learn of it."""
    world.enterprise_manager.behaviour.role = "Restore Operator"
    said = doctor()
    assert (said.status, said.wrong()) == (1, ["role"])
    assert "needs the role Portal Administrator" in said.text
    assert world.enterprise_manager.sessions == []


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize(
    ("permissions", "reported"),
    [
        ({"configure": "^$", "write": ".*", "read": ".*"}, "may not configure"),
        ({"configure": ".*", "write": "^unlink\\.dead$", "read": ".*"}, "may not write to unlink.events"),
        ({"configure": ".*", "write": ".*", "read": "^$"}, "read from unlink.commands.default"),
    ],
)
def test_a_missing_permission_is_reported(
    broker_users: BrokerUsers, doctor: Any, permissions: dict[str, str], reported: str
) -> None:
    """Else the worker would start, and fail at the first thing that it may not do."""
    url = broker_users.url("limited", **permissions)
    said = doctor(UNLINK_BROKER__URL=url)
    assert (said.status, said.wrong()) == (1, ["permissions"]), said.output
    assert reported in said.text
    assert "set_permissions" in said.text
    if permissions["configure"] == "^$":
        assert doctor(UNLINK_BROKER__URL=url, UNLINK_BROKER__TOPOLOGY="verify").status == 0


def test_a_queue_with_other_arguments_is_reported(
    broker_users: BrokerUsers, virtual_host: str, world: World, doctor: Any
) -> None:
    """Else the worker would try to declare it for ever."""
    arguments = {"x-queue-type": "quorum", "x-consumer-timeout": 60_000}
    queue = {"durable": True, "arguments": arguments}
    broker_users.put(f"queues/{virtual_host}/unlink.commands.default", queue)
    said = doctor()
    assert said.status == 1
    assert "unlink.commands.default was declared with others" in said.text
    assert "x-dead-letter-exchange is not set, not unlink.misrouted" in said.text
    assert "a queue's consumer timeout is 60 s" in said.text
    only_checked = doctor(UNLINK_BROKER__TOPOLOGY="verify")
    assert "unlink-worker topology declare" in only_checked.text
    assert only_checked.status == 1
    del world


@pytest.mark.slow
@pytest.mark.usefixtures("declared")
def test_a_policy_that_drops_commands_is_reported(
    broker: LocalBroker, broker_users: BrokerUsers, virtual_host: str, doctor: Any
) -> None:
    """Else commands would run out on their queue, and nothing show why."""
    policy = {"pattern": "^unlink\\.commands", "definition": {"message-ttl": 60_000}, "apply-to": "queues"}
    broker_users.put(f"policies/{virtual_host}/ttl", policy)
    queues = f"{broker.management_url}/api/queues/{virtual_host}"
    # The API shows a policy a little later.
    assert wait_until(lambda: '"policy":"ttl"' in requests.get(queues, timeout=30).text, seconds=20)
    said = doctor()
    assert "x-message-ttl is 60000" in said.text, said.output
    assert (said.status, said.wrong()) == (1, ["effective"])


def test_a_management_api_that_is_not_there_is_said_plainly(broker: LocalBroker, doctor: Any) -> None:
    """Else nobody would know that policies were not looked at."""
    said = doctor(**{MANAGEMENT: "http://somebody:hunter2@127.0.0.1:1"})
    assert said.status == 0
    assert "API at 127.0.0.1:1: nothing that speaks HTTP with JSON answers there" in said.text
    assert f"or set {MANAGEMENT}; without it no policy is seen" in said.text
    assert "hunter2" not in said.output
    refused = doctor(**{MANAGEMENT: f"http://nobody:hunter2@{broker.management_url.rpartition('@')[2]}"})
    assert "it refuses the user: give it the tag" in refused.text


def test_holding_longer_than_the_broker_lets_is_reported(doctor: Any) -> None:
    """Else the broker would take long unlinks away in the middle, again and again."""
    said = doctor(UNLINK_BROKER__HOLD_SECONDS="1800")
    assert (said.status, said.wrong()) == (1, ["held"])
    assert "lower UNLINK_BROKER__HOLD_SECONDS" in said.text


# --- the ledger -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_postgresql_is_looked_at_before_and_after_its_first_worker(
    world: World, doctor: Any, empty_postgresql_url: str
) -> None:
    """Else its schema, rights and clock would be found out by the first unlink."""
    before = doctor(UNLINK_LEDGER__URL=empty_postgresql_url)
    assert "none yet: the worker makes it at its start" in before.text
    world.start_worker({"UNLINK_LEDGER__URL": empty_postgresql_url}).stop()
    after = doctor(UNLINK_LEDGER__URL=empty_postgresql_url)
    assert after.status == 0, after.output
    for reported in ("PostgreSQL", "may read and write the ledger's tables", "the database's is 0."):
        assert reported in after.text


@pytest.mark.usefixtures("declared")
def test_a_ledger_of_a_newer_version_is_reported(world: World, doctor: Any) -> None:
    """Else an old worker would be started on it, and end at once."""
    path = world.environment["UNLINK_LEDGER__URL"].removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    connection.close()
    assert "99, made by a newer version; this one knows" in doctor().text


def test_a_folder_that_is_not_there_is_reported(doctor: Any) -> None:
    """Else SQLite's own words, which name no folder, would be all there is."""
    said = doctor(UNLINK_LEDGER__URL="sqlite:////nowhere/ledger.sqlite")
    assert (said.status, said.wrong()) == (1, ["reachable"])
    assert "there is no folder /nowhere" in said.text


@pytest.mark.parametrize(("folder", "kind"), [("share/a b", "nfs4"), ("share", "ext4"), (".", "ext4"), ("sh", "ext4")])
def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(tmp_path: Path, folder: str, kind: str) -> None:
    """Else a ledger on a network share, where SQLite's locks do not hold, would pass for a local one."""
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"31 22 0:51 / {tmp_path}/share/a\\040b rw shared:2 - nfs4 server:/export rw\n"
    )
    assert file_system_of(tmp_path / folder, mounts) == kind


# --- how it is said ---------------------------------------------------------------------------------------------------


def test_what_never_answers_does_not_keep_it_from_ending(doctor: Any) -> None:
    """Else the doctor would hang on the very thing that is to be found."""
    began = time.monotonic()
    with black_hole() as port:
        said = doctor(
            UNLINK_BROKER__URL=f"amqp://u:p@127.0.0.1:{port}",
            UNLINK_LEDGER__URL=f"postgresql://u:p@127.0.0.1:{port}/x",
            **{f"{EM}URL": f"https://127.0.0.1:{port}"},
        )
    assert (said.status, said.wrong()) == (1, ["reachable"] * 3), said.output
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_colour_is_for_terminals_that_want_it(world: World) -> None:
    """Else logs would be full of escape sequences, or a terminal without colours."""
    environment = surroundings() | world.environment | {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    environment.pop("NO_COLOR", None)
    for more, green in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal([sys.executable, "-m", "worker", "doctor"], environment | more)
        terminal.wait()
        assert ("\x1b[32m" in terminal.seen) is green


def test_the_certificate_of_a_first_connection_is_shown(world: World, doctor: Any) -> None:
    """Else a pin would have to be made with other tools, or verification be switched off."""
    url = world.enterprise_manager.url
    host, port = url.removeprefix("https://").split(":")
    pem = ssl.get_server_certificate((host, int(port)))
    said = doctor("--show-certificate")
    assert said.status == 0
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    assert f"SHA-256 {fingerprint}" in said.text
    for reported in ("subject", "issuer", "names localhost, 127.0.0.1", "valid 2000-01-01 to 3000-01-01"):
        assert reported in said.text
    assert world.enterprise_manager.count() == 0
    pinned = doctor(**{f"{EM}CERT_SHA256": fingerprint})
    assert "verified by its pinned fingerprint and the CA file" in pinned.text


def test_the_certificate_is_shown_without_any_settings(world: World) -> None:
    """Else a first connection would need the password that is to be protected by it."""
    ended = run_program("doctor", "--show-certificate", "--url", world.enterprise_manager.url, settings={})
    assert ended.returncode == 0
    assert "SHA-256" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "reported"),
    [
        (["--assumptions", "--show-certificate"], 2, "--assumptions goes with --output, --em"),
        (["--assumptions", "--with-job", "Copy"], 2, "--with-job and --with-repository go together"),
        (["--with-job", "Copy", "--with-repository", "B"], 2, "go with --assumptions"),
        (["--assumptions", "--em", "nobody"], 2, "is configured as nobody; there is default"),
        (["--url", "https://em:9398"], 2, "--url goes with --show-certificate"),
        (["--management-url", "http://u:hunter2@rabbit:15672"], 2, "belong in UNLINK_BROKER__MANAGEMENT_URL"),
        (["--show-certificate", "--url", "http://127.0.0.1:9399"], 1, "without TLS there is no certificate"),
        (["--show-certificate", "--url", "https://127.0.0.1:1"], 1, "no certificate was shown"),
    ],
)
def test_wrong_usage_is_said(doctor: Any, arguments: list[str], status: int, reported: str) -> None:
    """Else a mistake on the command line would pass for a finding."""
    said = doctor(*arguments)
    assert said.status == status
    assert reported in " ".join(said.error.split())
    assert "hunter2" not in said.output + said.error
