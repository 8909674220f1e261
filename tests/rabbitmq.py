"""A plugin of pytest: the private RabbitMQ of the tests. With `--one-broker`, all processes of a run share one node.

Starting a node takes more than ten seconds of CPU. Where each process starts its own, a run with six processes spends a
sixth of its time on that. A shared node is neither stopped nor suspended, and gets no call of `rabbitmqctl`: tests that
do so run without this option.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from worker.sandbox.errors import MissingPartError, PartFailedError
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.rabbitmq.choice import private_broker
from worker.sandbox.rabbitmq.installation import HOME_VARIABLE, SUITES, VERSION_VARIABLE, find_installation
from worker.sandbox.rabbitmq.private_broker import Credentials, LocalBroker, PrivateBroker

#: How long a shared node may take to start, in seconds, while all processes of the run start as well.
_START_SECONDS = 120.0

_shared = pytest.StashKey[PrivateBroker]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--one-broker", action="store_true", help="with -n: one RabbitMQ node for all processes")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the newest RabbitMQ for all processes of this run, unless the user has chosen one."""
    is_worker_of_xdist = hasattr(config, "workerinput")
    if is_worker_of_xdist or os.environ.get(HOME_VARIABLE) or os.environ.get(VERSION_VARIABLE):
        return
    newest = next(iter(SUITES))
    try:
        find_installation(newest)
    except MissingPartError:
        return  # what the demo would take is taken instead, and the header says so
    os.environ[VERSION_VARIABLE] = newest


def pytest_report_header() -> str:
    """Which RabbitMQ the tests run against."""
    try:
        return find_installation().description
    except MissingPartError as error:
        return f"no RabbitMQ: {str(error).splitlines()[0]}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of the run where the shared node is; start it for the first process, and wait for nothing."""
    config: pytest.Config = node.config
    if not config.getoption("one_broker"):
        return
    # Where there is no RabbitMQ, the tests that need it say so.
    with suppress(MissingPartError):
        if _shared not in config.stash:
            broker = private_broker("tests", management=True)
            config.add_cleanup(broker.close)
            broker.launch()
            config.stash[_shared] = broker
        node.workerinput["broker"] = _as_plain_data(config.stash[_shared])


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[LocalBroker]:
    """One private RabbitMQ node with its HTTP API, for the whole session: with `--one-broker`, for all processes.

    What a test makes outside its own virtual host has a name that no other test uses.
    """
    shared: dict[str, Any] | None = getattr(pytestconfig, "workerinput", {}).get("broker")
    if shared:
        yield _once_it_runs(shared)
        return
    with private_broker("tests", management=True) as broker:
        yield broker


def own_node(broker: LocalBroker) -> PrivateBroker:
    """The node, for a test that stops or suspends it, or calls `rabbitmqctl`. Who stops it starts it again."""
    if not isinstance(broker, PrivateBroker):
        pytest.fail("this test does not leave the broker alone: run it without --one-broker")
    return broker


def _as_plain_data(broker: LocalBroker) -> dict[str, Any]:
    """What can be sent to another process."""
    facts = {each.name: getattr(broker, each.name) for each in fields(LocalBroker)}
    credentials = {each.name: getattr(broker.credentials, each.name) for each in fields(Credentials)}
    return facts | {"credentials": credentials, "log": str(broker.log)}


def _once_it_runs(facts: dict[str, Any]) -> LocalBroker:
    """The shared node of which these are the facts, once it accepts connections."""
    broker = LocalBroker(**facts | {"credentials": Credentials(**facts["credentials"]), "log": Path(facts["log"])})
    if not wait_until(broker.accepts_connections, seconds=_START_SECONDS):
        log = broker.log.read_text(errors="replace") if broker.log.is_file() else "there is none"
        raise PartFailedError(f"RabbitMQ did not start; its log:\n{log}")
    return broker
