"""Dead letters, printed for people at 80 or more columns, and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from worker.cli.output.naming import link_of, named, ticket_of
from worker.cli.output.terminal import Output, console, local_time, print_unfolded, printable
from worker.dead_letters.record import as_json, in_utc
from worker.dead_letters.replay import MEANINGS, Left, Report

if TYPE_CHECKING:
    from worker.broker.dead_letters import DeadLetter
    from worker.dead_letters.queue import Taken

#: Characters of a body that are shown to a person.
_MOST_SHOWN = 20_000


@dataclass(slots=True)
class Group:
    """Messages with one reason code, for one Enterprise Manager."""

    messages: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None

    def add(self, since: datetime | None) -> None:
        """Count one more message, dead-lettered at `since`."""
        self.messages += 1
        if since is not None:
            self.oldest = min(self.oldest or since, since)
            self.newest = max(self.newest or since, since)


def groups_of(messages: Iterable[Taken]) -> dict[tuple[str, str], Group]:
    """The messages, counted by reason code and Enterprise Manager."""
    groups: dict[tuple[str, str], Group] = {}
    for taken in messages:
        message = taken.message
        groups.setdefault((message.reason_code, message.enterprise_manager), Group()).add(message.since)
    return dict(sorted(groups.items()))


def print_groups(groups: dict[tuple[str, str], Group], output: Output) -> None:
    """Print the groups, as a table or as one JSON object."""
    total = sum(group.messages for group in groups.values())
    if output == "json":
        listed = [
            {
                "reason_code": reason,
                "enterprise_manager": manager,
                "messages": group.messages,
                "oldest": in_utc(group.oldest),
                "newest": in_utc(group.newest),
            }
            for (reason, manager), group in groups.items()
        ]
        typer.echo(json.dumps({"messages": total, "groups": listed}, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("reason", no_wrap=True, style="bold")
    table.add_column("manager", overflow="fold")
    table.add_column("messages", justify="right", no_wrap=True)
    table.add_column("oldest", no_wrap=True)
    table.add_column("newest", no_wrap=True)
    for (reason, manager), group in groups.items():
        times = (_minute(group.oldest), _minute(group.newest))
        table.add_row(printable(reason), printable(manager), str(group.messages), *times)
    screen = console()
    if groups:
        print_unfolded(table)
    screen.print(Text(count_of(total), style="dim"))


def print_each(messages: Iterable[Taken], output: Output) -> int:
    """Print a line for each message as it arrives; return the number of messages."""
    screen = console()
    count = 0
    for taken in messages:
        message = taken.message
        count += 1
        if output == "json":
            typer.echo(json.dumps({"position": taken.position, **as_json(message)}, ensure_ascii=False))
            continue
        line = Text(f"{taken.position:>5}  {_minute(message.since):16}  ")
        line.append(printable(message.reason_code), style="bold")
        line.append(f"  {printable(message.enterprise_manager)}  {printable(named(_name(message), message.content))}")
        screen.print(line, soft_wrap=not screen.is_terminal)
    if output == "text":
        screen.print(Text(count_of(count), style="dim"))
    return count


def print_one(taken: Taken, output: Output) -> None:
    """Print all of one message."""
    message = taken.message
    if output == "json":
        typer.echo(json.dumps({"position": taken.position, **as_json(message)}, ensure_ascii=False))
        return
    screen = console()
    screen.print(Text(printable(_name(message)), style="bold"), Text("  "), _reason(message), sep="", soft_wrap=True)
    screen.print(_facts(_known(taken)))
    headers = as_json(message)["headers"]
    if headers:
        screen.print()
        screen.print(Text("headers", style="dim"))
        screen.print(_facts((f"  {name}", _short(value)) for name, value in sorted(headers.items())))
    screen.print()
    screen.print(Text(f"body, {len(message.body)} bytes", style="dim"))
    screen.print(_body(message))


def print_report(report: Report, output: Output) -> None:
    """Print the result of a replay."""
    if output == "json":
        left = {why.value: report.left[why] for why in Left if report.left[why]}
        typer.echo(json.dumps({"replayed": report.replayed, "left": left}))
        return
    screen = console()
    screen.print(Text(f"{report.replayed} replayed, {sum(report.left.values())} left where they are", style="bold"))
    for why in Left:
        if not report.left[why]:
            continue
        screen.print(Text(f"{report.left[why]} {MEANINGS[why]}"))
        for name in report.named[why]:
            screen.print(Text(f"  {printable(name)}", overflow="fold"))
        hidden = report.left[why] - len(report.named[why])
        if hidden > 0:
            screen.print(Text(f"  and {hidden} more"))


def _known(taken: Taken) -> Iterator[tuple[str, str]]:
    message = taken.message
    if message.reason:
        yield "because", message.reason
    if message.problem and message.problem != message.reason:
        yield "unreadable", message.problem
    yield "position", str(taken.position)
    yield "manager", message.enterprise_manager
    if link := link_of(message.content):
        yield "unlink", link
    if ticket := ticket_of(message.content):
        yield "ticket", ticket
    yield "since", "unknown" if message.since is None else local_time(message.since)
    if message.routing_key:
        yield "routing key", message.routing_key
    for name, value in as_json(message)["properties"].items():
        yield name.replace("_", " "), _short(value)


def _reason(message: DeadLetter) -> Text:
    return Text(printable(message.reason_code), style="bold red")


def _name(message: DeadLetter) -> str:
    return message.key or message.message_id or "(no key)"


def _facts(facts: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", overflow="fold", max_width=30)
    grid.add_column(overflow="fold")
    for name, fact in facts:
        grid.add_row(printable(name) if not name.startswith("  ") else "  " + printable(name[2:]), printable(fact))
    return grid


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} (and {len(text) - _MOST_SHOWN} characters more)"


def _body(message: DeadLetter) -> Text:
    try:
        text = message.body.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = as_json(message)["body_base64"]
    lines = _short(_indented(text)).splitlines()
    return JSONHighlighter()(Text("\n".join(printable(line) for line in lines), overflow="fold"))


def _indented(text: str) -> str:
    """JSON with a line for each value; unchanged if it is no JSON object, so that the mistake is visible."""
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
        return json.dumps(content, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if any(count > 1 for count in Counter(name for name, _ in pairs).values()):
        raise ValueError("a repeated name")
    return dict(pairs)


def _minute(moment: datetime | None) -> str:
    return "unknown" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def count_of(messages: int) -> str:
    """A number of messages in words."""
    return "1 dead letter" if messages == 1 else f"{messages or 'no'} dead letters"
