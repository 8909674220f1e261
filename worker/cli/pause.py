"""`unlink-worker pause` and `resume`: leave an Enterprise Manager's commands on their queue during its maintenance."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from worker.cli.output.errors import refuse, settings_or_exit
from worker.cli.output.opened_ledger import opened_ledger
from worker.cli.output.terminal import Output, OutputOption, local_time, printable
from worker.ledger import Inspection
from worker.ledger.documents import utc
from worker.ledger.leases import LOOKS_IN_A_LEASE
from worker.settings import Settings

_Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The Enterprise Manager's configured name.", show_default=False)
]


def pause(
    *,
    enterprise_manager: _Name = None,
    by: Annotated[str | None, typer.Option(help="Who pauses it; without it, the user of this process.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    output: OutputOption = "text",
) -> None:
    """Stop taking an Enterprise Manager's commands; without a name, list what is paused.

    The pause applies to all workers of the ledger, also to those that start later, until `resume`. Commands wait on
    their queue. Unlinks in progress continue. Needs the settings of a worker. Exit status 0; 1 if the ledger cannot
    be reached, 2 wrong usage.
    """
    settings = settings_or_exit(Settings)
    with opened_ledger(settings.ledger) as ledger:
        if enterprise_manager is None:
            _list(ledger, output)
            return
        _require_known(enterprise_manager, settings)
        ledger.pause(enterprise_manager, by or _user(), reason)
    _say(
        output,
        f"{enterprise_manager} is paused: within {_in_effect_within(settings):g} s no worker takes its commands. "
        f"Unlinks in progress continue; unlink_in_flight shows how many there are.",
        {"enterprise_manager": enterprise_manager, "paused": True, "within_seconds": _in_effect_within(settings)},
    )


def resume(
    *,
    enterprise_manager: Annotated[
        str, typer.Argument(metavar="NAME", help="The Enterprise Manager's configured name.", show_default=False)
    ],
    output: OutputOption = "text",
) -> None:
    """Take an Enterprise Manager's commands again.

    Needs the settings of a worker. Exit status 0, also if it was not paused; 1 if the ledger cannot be reached, 2 wrong
    usage.
    """
    settings = settings_or_exit(Settings)
    content = {
        "enterprise_manager": enterprise_manager,
        "paused": False,
        "within_seconds": _in_effect_within(settings),
    }
    with opened_ledger(settings.ledger) as ledger:
        # Also one that is not configured any more: otherwise its pause could not be removed.
        if not ledger.resume(enterprise_manager):
            _require_known(enterprise_manager, settings)
            _say(output, f"{enterprise_manager} was not paused.", {**content, "was_paused": False})
            return
    _say(
        output,
        f"{enterprise_manager} is resumed: the workers take its commands within {_in_effect_within(settings):g} s.",
        {**content, "was_paused": True},
    )


def _say(output: Output, line: str, content: dict[str, Any]) -> None:
    typer.echo(line if output == "text" else json.dumps(content, ensure_ascii=False))


def _list(ledger: Inspection, output: Output) -> None:
    pauses = ledger.pauses()
    if output == "json":
        listed = [{**asdict(each), "paused_at": utc(each.paused_at)} for each in pauses]
        typer.echo(json.dumps({"paused": listed}, ensure_ascii=False))
        return
    for each in pauses:
        why = f": {printable(each.reason)}" if each.reason else ""
        typer.echo(
            f"{printable(each.enterprise_manager)}  paused {local_time(each.paused_at)} "
            f"by {printable(each.paused_by or 'a user')}{why}"
        )
    if not pauses:
        typer.echo("No Enterprise Manager is paused.")


def _require_known(enterprise_manager: str, settings: Settings) -> None:
    """Refuse an unknown name: the pause would have no effect."""
    known = sorted(settings.enterprise_managers)
    if enterprise_manager not in known:
        refuse(f"no Enterprise Manager is configured as {enterprise_manager!r}; there are: {', '.join(known)}")


def _in_effect_within(settings: Settings) -> float:
    return round(settings.ledger.lease_seconds / LOOKS_IN_A_LEASE, 1)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return None
