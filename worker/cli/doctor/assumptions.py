"""`unlink-worker doctor --assumptions`: check the worker's assumptions about Enterprise Manager against a real one."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from worker.cli.output.errors import WRONG_USAGE
from worker.cli.output.terminal import Output, console, printable
from worker.clock import SystemClock
from worker.doctor.assumptions import UnreachableError, examine
from worker.doctor.checks import Check, Result
from worker.doctor.laboratory import LaboratoryLink, RefusedError, TimeLimits
from worker.doctor.recording import Recording, netloc_of
from worker.doctor.trial import TrialOrder
from worker.settings import EnterpriseManagerClientSettings, EnterpriseManagerSettings, secrets_of
from worker.telemetry import logs

#: The word and the colour of each result.
_WORDS = {
    Result.CONFIRMED: ("confirmed", "green"),
    Result.DIFFERENT: ("different", "bold yellow"),
    Result.NEEDS_CHANGE: ("not without a change", "dim"),
    Result.NOT_WITH_ACCOUNT: ("not with this account", "dim"),
    Result.NOT_SHOWN: ("not shown", "dim"),
}

_Checks = dict[str, list[Check]]


@dataclass(frozen=True, slots=True)
class LaboratoryTrial:
    """A trial that was asked for."""

    link: LaboratoryLink
    limits: TimeLimits


@dataclass(frozen=True, slots=True)
class RecordingOrder:
    """That all exchanges with the one Enterprise Manager are to be recorded, in a new file."""

    file: Path
    keep_names: bool


def show_assumptions(
    settings: EnterpriseManagerClientSettings,
    output: Output,
    trial: LaboratoryTrial | None = None,
    record: RecordingOrder | None = None,
) -> int:
    """Check the assumptions against every given Enterprise Manager; print the results, return the exit status.

    With a `trial`, it is made at each of them. With `record`, there must be only one.

    Raises:
        SettingsInvalidError: a CA file cannot be used.
    """
    clean = logs.Redactor(secrets_of(settings)).clean_text
    examination = _Examination(settings, trial, record)
    try:
        asyncio.run(examination.run())
    except asyncio.CancelledError:
        typer.echo("Interrupted.", err=True)
        return 1
    except RefusedError as error:
        typer.echo(f"No trial was made, and nothing was changed: {printable(clean(str(error)))}", err=True)
        return WRONG_USAGE
    if output == "json":
        found = {name: _document(checks, clean) for name, checks in examination.checks.items()}
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        for name, checks in examination.checks.items():
            _print_table(name, checks, clean, "" if trial is not None else "; nothing was changed")
    for name, problem in examination.unreachable.items():
        typer.echo(f"{printable(name)}: {printable(clean(problem))}", err=True)
    return 1 if examination.unreachable or examination.unrecorded or not examination.restored else 0


class _Examination:
    def __init__(
        self, settings: EnterpriseManagerClientSettings, trial: LaboratoryTrial | None, record: RecordingOrder | None
    ) -> None:
        self._settings = settings
        self._record = record
        self._order = TrialOrder(trial.link, self._ended, trial.limits) if trial is not None else None
        self.checks: dict[str, list[Check]] = {}
        #: The problem of each Enterprise Manager that could not be examined.
        self.unreachable: dict[str, str] = {}
        self.restored = True
        self.unrecorded = False

    async def run(self) -> None:
        """Examine each. An interruption ends a trial too; its link is restored before."""
        if self._order is not None:
            self._end_in_order()
            typer.echo(
                "The link will be removed and put back several times. An interruption puts it back too.", err=True
            )
        clock = SystemClock()
        for name, server in self._settings.enterprise_managers.items():
            recording = Recording() if self._record is not None else None
            try:
                async for check in examine(name, server, clock, self._order, recording):
                    self.checks.setdefault(name, []).append(check)
            except UnreachableError as error:
                self.unreachable[name] = str(error)
            finally:
                if self._record is not None and recording is not None:
                    self._write(recording, self._record, name, server)

    def _write(
        self, recording: Recording, record: RecordingOrder, name: str, server: EnterpriseManagerSettings
    ) -> None:
        link = self._order.link if self._order is not None else None
        try:
            checks = self.checks.get(name, ())
            size = recording.write(record.file, netloc_of(server), link, checks, keep_names=record.keep_names)
        except OSError as error:
            self.unrecorded = True
            typer.echo(f"The recording was not written: {printable(error.strerror or str(error))}", err=True)
            return
        kept = "its names and addresses are kept" if record.keep_names else "without names and addresses"
        typer.echo(f"Recorded in {printable(str(record.file))} ({size} characters), {kept}.", err=True)

    def _ended(self, restored: bool, edits: int) -> None:  # noqa: FBT001 - the callback of a trial
        self.restored = restored
        if edits == 0:
            said = "Nothing was changed."
        elif restored:
            said = f"The link is there again, with a new ID in its job; {edits} edits of the job were requested."
        else:
            said = (
                "THE LINK IS NOT KNOWN TO BE BACK: look at the job in the console of the backup server once no edit is "
                "under way, and add the repository if it is missing."
            )
        typer.echo(said, err=True)

    def _end_in_order(self) -> None:
        """Let signals cancel this examination, however often they come: a trial then restores its link first."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs in a task
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _document(checks: list[Check], clean: Callable[[str], str]) -> list[dict[str, str | None]]:
    return [
        {
            "assumption": check.assumption.value,
            "belief": check.assumption.belief,
            "result": check.result.value,
            "seen": clean(check.seen) or None,
        }
        for check in checks
    ]


def _print_table(name: str, checks: list[Check], clean: Callable[[str], str], changed: str) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("assumption", "result", "what is expected, and what was seen instead"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "assumption")
    for check in checks:
        word, style = _WORDS[check.result]
        seen = f"; but: {printable(clean(check.seen))}" if check.result is Result.DIFFERENT else ""
        note = f" ({printable(clean(check.seen))})" if check.seen and not seen else ""
        table.add_row(check.assumption.value, Text(word, style=style), check.assumption.belief + seen + note)
    screen = console()
    screen.print(Text(f"enterprise manager {printable(name)}", style="bold"))
    screen.print(table)
    different = sum(check.result is Result.DIFFERENT for check in checks)
    confirmed = sum(check.result is Result.CONFIRMED for check in checks)
    typer.echo(f"{len(checks)} assumptions: {confirmed} confirmed, {different} different{changed}")
