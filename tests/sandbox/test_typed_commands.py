"""Every command of README.md and contracts/README.md, typed into a shell with the settings that the sandbox prints."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from tests import programs
from tests.missing_parts import require_program, require_rabbitmq
from tests.sandbox.documents import Block, blocks_of
from tests.sandbox.shell import INTERRUPT, PROGRAMS, Shell
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.processes.worker_process import surroundings

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "contracts" / "recipes"
README = ROOT / "README.md"
CONTRACT = ROOT / "contracts" / "README.md"

#: Programs whose commands are typed, unless they are set aside.
TYPED = {"unlink-worker", "curl", "printf"}

#: Commands that are not typed, and why. Each must be there in one of the files.
SET_ASIDE = {
    r"make (demo|sandbox)": "the program's own commands of these names run in tests of their own, and here",
    r"make (test|test-all|test-pythons|simulate|mutants|chaos|bench|fuzz|soak)( .*)?": "runs the tests",
    r"make (lint|lock|contracts)": "for who works on the project: changes or checks its files",
    r"docker compose .*": "run by tests/containers where there is a container engine",
    r"pip install .*|rm -rf build": "run by the tests of the set-up",
    r"export UNLINK_[A-Z_]+=.*": "a template with the reader's own values in place of the sandbox's",
}

#: What is expected of a command, where it is more than exit status 0.
EXPECTED: dict[str, dict[str, Any]] = {
    "unlink-worker --help": {"shown": "submit"},
    "unlink-worker --version": {"shown": "unlink-worker 0."},
    "unlink-worker --install-completion": {"shown": "bash completion installed"},
    "unlink-worker doctor": {"shown": "nothing wrong"},
    "unlink-worker doctor --show-certificate": {"shown": "SHA-256"},
    "unlink-worker run": {"answers": (("worker.started", INTERRUPT),)},
    "unlink-worker watch": {"answers": (("Ctrl-C ends", INTERRUPT),)},
    "unlink-worker console": {"answers": (("console.listening", INTERRUPT),)},
    "unlink-worker submit --wait --job 'Copy to Frankfurt' --repository 'Scale-out 3' --ticket jira:OPS-4711": {
        "shown": "succeeded"
    },
    "unlink-worker submit --wait --file commands.csv": {"shown": "succeeded  2"},
    "unlink-worker offboard --dry-run --repository 'NAS Lyon' --ticket jira:OPS-4713": {"shown": "link"},
    # Whether the cancel is in time depends on the machine's speed. If it is not, there is nothing to run again.
    "unlink-worker cancel --wait CHG0030193": {"statuses": {0, 4}},
    "unlink-worker retry --wait --yes CHG0030193": {"statuses": {0, 1}, "shown": "succeeded"},
    "unlink-worker status CHG0030193": {"statuses": {0, 4}, "shown": "Copy to Vienna"},
    "unlink-worker pause default": {"shown": "default is paused"},
    "unlink-worker resume default": {"shown": "default is resumed"},
    "unlink-worker dead list": {"shown": "invalid_message"},
    "unlink-worker dead show CHG0030188": {"shown": "dryrun: unknown field"},
    "unlink-worker dead discard CHG0030188 --record discarded.jsonl": {
        "answers": (("Discard 1 dead letter?", "y\n"),),
        "shown": "1 discarded",
    },
    "unlink-worker contracts": {"shown": "unlink.succeeded.v1"},
    "unlink-worker contracts --schema unlink.v1": {"shown": "idempotency_key"},
    "unlink-worker contracts --asyncapi": {"shown": '"asyncapi": "3.'},
}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """`unlink-worker sandbox` as it runs: what it printed on standard output, and on standard error."""

    settings: str
    said: str

    def value(self, name: str) -> str:
        """The value of a variable that it set."""
        (value,) = re.findall(rf"^export {name}='?(.*?)'?$", self.settings, flags=re.MULTILINE)
        return str(value)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One sandbox for all that is typed; it ends with Ctrl-C and leaves nothing."""
    require_rabbitmq()
    with subprocess.Popen(
        [sys.executable, "-m", "worker", "sandbox"],
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("The worker's log"):
                break
        os.set_blocking(process.stdout.fileno(), False)
        running = Sandbox(process.stdout.read(), said)
        yield running
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "Gone, without a trace.\n"
        assert process.wait(60) == 0
    assert not Path(running.value("RABBITMQ_NETRC")).parent.exists()
    assert not Path(running.value("SANDBOX_CA_FILE")).exists()


@pytest.fixture
def shell(sandbox: Sandbox, tmp_path: Path) -> Iterator[Shell]:
    """A shell into which the printed settings were pasted."""
    with Shell(tmp_path) as shell:
        assert shell.type(sandbox.settings).status == 0
        yield shell


def is_set_aside(block: Block) -> bool:
    """Whether the command is not typed."""
    return any(re.fullmatch(pattern, block.command, flags=re.DOTALL) for pattern in SET_ASIDE)


def unclassified(markdown: str) -> list[str]:
    """The commands that nobody said what to do with."""
    commands = (block for block in blocks_of(markdown) if block.language == "sh")
    return [each.text for each in commands if not is_set_aside(each) and each.text.split()[0] not in TYPED]


def type_block(shell: Shell, block: Block) -> None:
    """Type a command as it is written, and see that it does what it should."""
    if is_set_aside(block):
        return
    expected = EXPECTED.get(block.command, {})
    ended = shell.type(block.text, answers=expected.get("answers", ()))
    assert ended.status in expected.get("statuses", {0}), f"{block.text}\n{ended.shown}"
    seen = re.sub(r" {3,}", "  ", ended.shown)
    assert expected.get("shown", "") in seen, f"{block.text}\n{ended.shown}"


def publish(shell: Shell, home: Path, message: str) -> dict[str, Any]:
    """Publish a message with the recipe that waits for the reply; the event."""
    (home / "message.json").write_text(message)
    ended = shell.type(f"python {RECIPES / 'publish.py'} < message.json")
    assert ended.status == 0, ended.shown
    event: dict[str, Any] = json.loads(ended.shown)
    return event


@pytest.mark.parametrize("file", [README, CONTRACT])
def test_every_command_is_typed_or_set_aside_for_a_reason(file: Path) -> None:
    """A command that is added to a README is tried, or it is written down why it is not."""
    assert unclassified(file.read_text()) == []


def test_a_command_that_nobody_classified_is_found() -> None:
    """The check above finds commands in all their places, and knows them by their whole text."""
    text = "Say `make coffee`:\n\n    make demo  # yes\n    apt install x \\\n      y\n\n```sh\nexport A=1\n```\n"
    assert unclassified(text) == ["make coffee", "apt install x \\\n  y", "export A=1"]


def test_nothing_is_classified_that_is_not_there() -> None:
    """What is expected of a command that was changed is changed with it."""
    blocks = [block for file in (README, CONTRACT) for block in blocks_of(file.read_text())]
    commands = [block.command for block in blocks if block.language == "sh"]
    assert set(EXPECTED) <= set(commands)
    assert [each for each in SET_ASIDE if not any(re.fullmatch(each, command) for command in commands)] == []


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_the_readme_works_as_it_is_written(shell: Shell, tmp_path: Path) -> None:
    """A newcomer types the README from its first line to its last, and everything in it works and is so."""
    event: dict[str, Any] = {}
    for block in blocks_of(README.read_text()):
        content = json.loads(block.text) if block.language == "json" else {}
        if block.language == "sh":
            type_block(shell, block)
        elif "command" in content:
            event = publish(shell, tmp_path, block.text)
            assert event["type"] == "unlink.succeeded.v1"
        elif "specversion" in content:
            assert_shortened(content, event)
        else:
            assert block.language == "toml"  # tests/unit/test_policy.py reads it
    assert (tmp_path / "discarded.jsonl").exists()


def assert_shortened(shown: dict[str, Any], event: dict[str, Any]) -> None:
    """See that the event came as it is shown; the event's and the task's ID are each unlink's own."""
    for name in shown.keys() - {"id", "data"}:
        assert shown[name] == event[name]
    for name in shown["data"].keys() - {"task"}:
        assert shown["data"][name] == event["data"][name]
    assert shown["data"]["task"] | {"id": ""} == event["data"]["task"] | {"id": ""}


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_the_contracts_readme_works_as_it_is_written(shell: Shell, sandbox: Sandbox, tmp_path: Path) -> None:
    """Somebody who builds a publisher and a consumer tries each example, as it is, before writing their own."""
    require_program("curl", PROGRAMS)
    ticket = ""
    for block in blocks_of(CONTRACT.read_text()):
        if block.language == "json":
            command = json.loads(block.text)
            if "ticket" in command:
                ticket = block.text
                (tmp_path / "command.json").write_text(block.text)
                ended = shell.type(f"sh {RECIPES / 'publish.sh'} < command.json")
                assert (ended.shown, ended.status) == ("", 0)
            event = publish(shell, tmp_path, block.text)
            assert (event["type"], event["subject"]) == ("unlink.succeeded.v1", command["idempotency_key"])
        elif "curl" in block.text:
            assert '{"routed":true}' in shell.type(block.text).shown
            (request,) = re.findall(r"<<'EOF'\n(.*?)\nEOF", block.text, flags=re.DOTALL)
            assert publish(shell, tmp_path, json.loads(request)["payload"])["type"] == "unlink.succeeded.v1"
        elif block.language == "sh":
            type_block(shell, block)
        elif block.language == "js":
            assert "ajv" in block.text  # it needs Node; tests/contract/test_published.py tries what it names
        else:
            assert block.language == "python"
            consumer = tmp_path / "consumer.py"
            consumer.write_text(block.text)
            assert_closes_the_ticket(shell, sandbox, ticket, tmp_path)


def assert_closes_the_ticket(shell: Shell, sandbox: Sandbox, command: str, home: Path) -> None:
    """Run the consumer beside the shell. A command that has ended is answered again, so it may come late."""
    ticket = json.loads(command)["ticket"]["id"]
    url = f"{sandbox.value('TICKETS_API')}/tickets/{ticket}"

    def closed() -> bool:
        publish(shell, home, command)
        return bool(requests.get(url, timeout=30).json().get("state") == "closed")

    with Shell(home) as other_shell:
        other_shell.type(sandbox.settings)
        other_shell.begin("python consumer.py")
        assert wait_until(closed, seconds=90)
    assert requests.get(url, timeout=30).json()["note"] == "unlink succeeded"


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_what_the_sandbox_says_works(sandbox: Sandbox, tmp_path: Path) -> None:
    """Whoever types what the sandbox suggests removes a link, puts it back by one command, and removes it again."""
    require_program("curl", PROGRAMS)
    blocks = [block for block in blocks_of(sandbox.said.replace("\n  ", "\n    ")) if "  on " not in block.text]
    settings, submit, put_back = (block.text.strip() for block in blocks[:3])
    with Shell(tmp_path) as shell:
        assert shell.type(settings).status == 0
        assert "succeeded" in shell.type(submit).shown
        assert '{"result": "' in shell.type(put_back).shown
        assert "is linked to Copy to Frankfurt" in shell.type(put_back).shown
        again = shell.type(submit.replace("OPS-4711", "OPS-4799")).shown
        assert "submitted" in again
        assert "its task finished" in again


@pytest.mark.slow
def test_the_settings_are_for_any_shell(sandbox: Sandbox, tmp_path: Path) -> None:
    """The printed lines can be evaluated by a script, too, also one that stops at the first mistake."""
    done = programs.run(
        ["sh", "-euc", 'eval "$0" && unlink-worker --version', sandbox.settings],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("unlink-worker 0.")


@pytest.mark.slow
def test_files_with_passwords_are_for_their_owner_alone(sandbox: Sandbox) -> None:
    """Nobody else on the machine reads the sandbox's passwords, though its settings lie in a file."""
    netrc = Path(sandbox.value("RABBITMQ_NETRC"))
    settings = netrc.parent / "settings"
    assert settings.read_text() == sandbox.settings
    assert [file.stat().st_mode & 0o077 for file in (netrc, settings)] == [0, 0]


@pytest.mark.slow
def test_the_first_line_is_the_consoles_address(sandbox: Sandbox) -> None:
    """A newcomer would not learn that there is a console, or could look and not order."""
    address = re.match(r"The console: (http://127\.0\.0\.1:\d+)/ ", sandbox.said)
    passwords = re.search(r"passwords: (/.+)", sandbox.said)
    assert address is not None
    assert passwords is not None
    file = Path(passwords[1])
    assert file.stat().st_mode & 0o077 == 0
    users = dict(line.split() for line in file.read_text().splitlines())
    assert set(users) == {"reader", "submitter", "operator"}
    with httpx.Client(base_url=address[1]) as client:
        form = {"name": "operator", "password": users["operator"]}
        assert client.post("/login", data=form, headers={"Origin": address[1]}).status_code == 303
        assert client.get("/").status_code == 200
        assert client.get("/api/v1/enterprise-managers/default/links?job=Copy%20to%20Zurich").json()["items"]


@pytest.mark.slow
def test_completion_completes(sandbox: Sandbox, tmp_path: Path) -> None:
    """After `--install-completion`, a new bash completes the commands' names."""
    with Shell(tmp_path) as shell:
        shell.type(sandbox.settings)
        assert shell.type("unlink-worker --install-completion").status == 0
        shell.type(". ~/.bashrc; COMP_WORDS=(unlink-worker sub); COMP_CWORD=1")
        shown = shell.type('_unlink_worker_completion unlink-worker; echo "${COMPREPLY[@]}"').shown
    assert shown.split() == ["submit"]
