"""`unlink-worker topology`: declare or check the exchanges, queues and bindings that the worker needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from contracts.commands import EnterpriseManagerName
from worker.broker.connection import PREPARE_SECONDS
from worker.broker.problems import BrokerError, ConnectError
from worker.broker.topology import Topology, describe
from worker.broker.topology import declare as declare_all
from worker.broker.topology import verify as verify_all
from worker.broker.visit import visit
from worker.cli.output.errors import refuse, refuse_settings, settings_or_exit
from worker.cli.output.terminal import Output, OutputOption
from worker.settings import BrokerSettings, ClientSettings, Settings, SettingsInvalidError

if TYPE_CHECKING:
    from pika.adapters.asyncio_connection import AsyncioConnection

    Work = Callable[[Topology, AsyncioConnection], Awaitable[None]]

topology = typer.Typer(no_args_is_help=True, help="The broker's exchanges, queues and bindings.")

_Names = Annotated[
    list[str] | None,
    typer.Option(
        "--enterprise-manager",
        "--em",
        help="The queue of this Enterprise Manager; may be repeated. Without it: of those that the worker's settings "
        "name. With it, UNLINK_BROKER__URL is the only setting needed.",
    ),
]


@topology.command()
def declare(*, enterprise_manager: _Names = None, output: OutputOption = "text") -> None:
    """Declare all that the worker needs; what exists already is not changed.

    Exit status 0; 1 if something exists with other arguments, may not be declared, or the broker cannot be reached; 2
    wrong usage.
    """
    described = _on_the_broker(enterprise_manager, declare_all)
    _say(output, f"Declared: {_count(described)}.", described)


@topology.command()
def verify(*, enterprise_manager: _Names = None, output: OutputOption = "text") -> None:
    """Check that every exchange and queue is there; change nothing. AMQP cannot read their arguments and bindings.

    Exit status 0; 1 if something is missing, or the broker cannot be reached; 2 wrong usage.
    """
    described = _on_the_broker(enterprise_manager, verify_all)
    _say(output, f"There: {_count(described, bindings=False)}.", described)


def _say(output: Output, line: str, described: Topology) -> None:
    names = {
        "exchanges": sorted(each.name for each in described.exchanges),
        "queues": sorted(each.name for each in described.queues),
    }
    typer.echo(line if output == "text" else json.dumps(names))


def _on_the_broker(names: list[str] | None, work: Work) -> Topology:
    broker, described = _described(names)
    try:
        asyncio.run(_work_there(broker, described, work))
    except SettingsInvalidError as error:
        refuse_settings(error)
    except BrokerError as error:
        refuse(str(error), status=1)
    return described


def _described(names: list[str] | None) -> tuple[BrokerSettings, Topology]:
    if not names:
        settings = settings_or_exit(Settings)
        return settings.broker, describe(settings.enterprise_managers)
    try:
        TypeAdapter(list[EnterpriseManagerName]).validate_python(names)
    except ValidationError:
        refuse("The name of an Enterprise Manager is 1 to 64 of A-Z a-z 0-9 _ -")
    return settings_or_exit(ClientSettings).broker, describe(dict.fromkeys(names))


def _count(described: Topology, *, bindings: bool = True) -> str:
    counts = [f"{len(described.exchanges)} exchanges", f"{len(described.queues)} queues"]
    if bindings:
        counts.append(f"{len(described.bindings)} bindings")
    return ", ".join(counts)


async def _work_there(settings: BrokerSettings, described: Topology, work: Work) -> None:
    """Do the work on a connection that is tried once."""
    async with visit(settings, "topology") as connection:
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await work(described, connection)
        except TimeoutError:
            raise ConnectError(f"the broker did not answer all of it within {PREPARE_SECONDS:g} s") from None
