"""`unlink-worker doctor`: checks what the worker needs, and names the remedy for each problem."""

from __future__ import annotations

import asyncio
import json
import logging
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import structlog
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.text import Text

from worker.cli.doctor.assumptions import LaboratoryTrial, RecordingOrder, show_assumptions
from worker.cli.output.errors import refuse, refuse_settings, settings_or_exit
from worker.cli.output.terminal import Output, printable
from worker.clock import SystemClock
from worker.doctor import broker, certificates, enterprise_manager, ledger, management
from worker.doctor.findings import Finding, Mark, bounded
from worker.doctor.laboratory import WATCH_SECONDS, LaboratoryLink, TimeLimits
from worker.settings import EnterpriseManagerClientSettings, Settings, SettingsInvalidError, secrets_of
from worker.telemetry import logs

#: The sign, colour and word of each mark; the word is for terminals without such signs.
_SIGNS = {Mark.GOOD: ("✓", "ok", "green"), Mark.DOUBTFUL: ("!", "! ", "yellow"), Mark.WRONG: ("✗", "X ", "bold red")}

_WIDEST = 100
_NAMES = 13


def doctor(  # noqa: PLR0913 - one parameter an option
    *,
    show_certificate: Annotated[
        bool,
        typer.Option(
            "--show-certificate",
            help="Only print the certificate that each Enterprise Manager shows, to be compared and pinned.",
        ),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="With --show-certificate: of this https:// URL; no settings are needed then."),
    ] = None,
    management_url: Annotated[
        str | None,
        typer.Option(help="The broker's management API, such as http://rabbit:15672; as the worker's own user."),
    ] = None,
    assumptions: Annotated[
        bool,
        typer.Option(
            "--assumptions",
            help="Check only the assumptions, against each Enterprise Manager; needs no other settings than theirs.",
        ),
    ] = False,
    with_job: Annotated[
        str | None,
        typer.Option(
            help="With --assumptions and --with-repository: the backup copy job of a laboratory, by name or ID, whose "
            "link to the repository may be removed and put back."
        ),
    ] = None,
    with_repository: Annotated[
        str | None, typer.Option(help="With --with-job: the repository of that link, by name or UID.")
    ] = None,
    watch_seconds: Annotated[
        float,
        typer.Option(
            min=1,
            max=3600,
            help="With --with-job: how long the list of links and a finished task are watched for a change.",
        ),
    ] = WATCH_SECONDS,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --assumptions: record all exchanges in a new file, without credentials, names and addresses.",
        ),
    ] = None,
    keep_names: Annotated[
        bool,
        typer.Option("--keep-names", help="With --record: keep names, addresses and IDs; never credentials."),
    ] = False,
    enterprise_manager: Annotated[
        str | None,
        typer.Option("--enterprise-manager", "--em", metavar="NAME", help="With --assumptions: only this one."),
    ] = None,
    output: Annotated[Output, typer.Option(help="json: one object with all findings.")] = "text",
) -> None:
    """Check broker, ledger and every Enterprise Manager; change nothing, except with --with-job.

    Exit status 0; 1 if anything is wrong (with --assumptions: if one cannot be reached, or the link of the laboratory
    could not be put back); 2 wrong usage or settings, or no such link. It logs on to each Enterprise Manager once, with
    --with-job twice, and off again.
    """
    if assumptions:
        if show_certificate or url is not None or management_url is not None:
            refuse("--assumptions goes with --output, --em, --record, --with-job and --with-repository only.")
        if (with_job is None) != (with_repository is None):
            refuse("--with-job and --with-repository go together.")
        trial = None
        if with_job is not None and with_repository is not None:
            link = LaboratoryLink(with_job, with_repository)
            trial = LaboratoryTrial(link, TimeLimits(links=watch_seconds, kept=watch_seconds))
        order = RecordingOrder(record, keep_names) if record is not None else None
        raise typer.Exit(_assumptions(output, enterprise_manager, trial, order))
    if any(option is not None for option in (with_job, with_repository, enterprise_manager, record)):
        refuse("--em, --with-job, --with-repository and --record go with --assumptions.")
    if url is not None and not show_certificate:
        refuse("--url goes with --show-certificate.")
    if show_certificate:
        raise typer.Exit(_show([url] if url is not None else _urls(settings_or_exit(Settings))))
    settings = _with_management(settings_or_exit(Settings), management_url)
    secrets = secrets_of(settings)
    _silence_the_log()
    redactor = logs.Redactor(secrets)
    printer = _Printer(redactor) if output == "text" else _Findings(redactor)
    try:
        asyncio.run(_examine(settings, printer))
    except SettingsInvalidError as error:
        refuse_settings(error)
    raise typer.Exit(printer.conclusion())


def _assumptions(
    output: Output, enterprise_manager: str | None, trial: LaboratoryTrial | None, record: RecordingOrder | None
) -> int:
    if record is not None and record.file.exists():
        refuse(f"{printable(str(record.file))} exists; --record writes a new file.")
    settings = settings_or_exit(EnterpriseManagerClientSettings)
    configured = settings.enterprise_managers
    if enterprise_manager is not None:
        if enterprise_manager not in configured:
            there = ", ".join(configured)
            refuse(f"No Enterprise Manager is configured as {printable(enterprise_manager)}; there is {there}.")
        only = {enterprise_manager: configured[enterprise_manager]}
        settings = settings.model_copy(update={"enterprise_managers": only})
    elif (trial is not None or record is not None) and len(configured) > 1:
        refuse("Several Enterprise Managers are configured: --em names the one of the laboratory or the recording.")
    _silence_the_log()
    try:
        return show_assumptions(settings, output, trial, record)
    except SettingsInvalidError as error:
        refuse_settings(error)


def _silence_the_log() -> None:
    """Silence the libraries' log: the findings report the same problems."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _with_management(settings: Settings, url: str | None) -> Settings:
    if url is None:
        return settings
    if not url.startswith(("http://", "https://")) or "@" in url:
        refuse("--management-url is http(s)://host:port; a user and password belong in UNLINK_BROKER__MANAGEMENT_URL.")
    changed = settings.broker.model_copy(update={"management_url": SecretStr(url)})
    return settings.model_copy(update={"broker": changed})


async def _examine(settings: Settings, printer: _Printer | _Findings) -> None:
    """Examine all parts concurrently, and report them in a fixed order."""
    clock = SystemClock()
    names = list(settings.enterprise_managers)
    parts: dict[str, AsyncIterator[Finding]] = {
        "broker": _broker(settings),
        "ledger": ledger.examine(settings.ledger, clock),
        **{
            f"enterprise manager {name}": enterprise_manager.examine(name, settings.enterprise_managers[name], clock)
            for name in names
        },
    }
    under_way = {title: asyncio.create_task(bounded(part)) for title, part in parts.items()}
    for title, findings in under_way.items():
        printer.show(title, await findings)


async def _broker(settings: Settings) -> AsyncIterator[Finding]:
    reached = False
    async for finding in broker.examine(settings.broker, settings.enterprise_managers):
        reached = reached or finding.mark is Mark.GOOD
        yield finding
    if reached:
        async for finding in management.examine(settings.broker, list(settings.enterprise_managers)):
            yield finding


class _Findings:
    """Findings as one JSON object, printed at the end."""

    def __init__(self, redactor: logs.Redactor) -> None:
        self._redactor = redactor
        self._found: list[dict[str, str | None]] = []

    def show(self, title: str, findings: list[Finding]) -> None:
        clean = self._redactor.clean_text
        self._found += [
            {
                "part": title,
                "mark": finding.mark.name.lower(),
                "what": finding.what,
                "seen": clean(finding.seen),
                "remedy": None if finding.remedy is None else clean(finding.remedy),
            }
            for finding in findings
        ]

    def conclusion(self) -> int:
        """Print the conclusion; return the exit status."""
        well = all(found["mark"] != "wrong" for found in self._found)
        typer.echo(json.dumps({"well": well, "findings": self._found}, ensure_ascii=False))
        return 0 if well else 1


class _Printer:
    """Findings on standard output: at most as wide as the terminal, in colour if the terminal supports it."""

    def __init__(self, redactor: logs.Redactor) -> None:
        self._redactor = redactor
        self._console = Console(highlight=False, soft_wrap=True)
        self._width = min(self._console.width, _WIDEST)
        self._signs = "utf" in self._console.encoding.lower()
        self._counts = dict.fromkeys(Mark, 0)

    def show(self, title: str, findings: list[Finding]) -> None:
        self._console.print(Text(title, style="bold"))
        for finding in findings:
            self._counts[finding.mark] += 1
            self._show(finding)

    def conclusion(self) -> int:
        """Print the conclusion; return the exit status."""
        wrong = self._counts[Mark.WRONG]
        checked = f"{sum(self._counts.values())} checks"
        doubtful = f", {self._counts[Mark.DOUBTFUL]} doubtful" if self._counts[Mark.DOUBTFUL] else ""
        summary = (
            f"{wrong} of {checked} {'is' if wrong == 1 else 'are'} wrong" if wrong else f"{checked}, nothing wrong"
        )
        self._console.print(Text(summary + doubtful, style="bold red" if wrong else "bold"))
        return 1 if wrong else 0

    def _show(self, finding: Finding) -> None:
        sign, word, style = _SIGNS[finding.mark]
        head = f"  {sign if self._signs else word} {finding.what:<{_NAMES}}"
        lines = self._wrapped(finding.seen, head)
        if finding.remedy is not None:
            arrow = "→" if self._signs else ">"
            lines += self._wrapped(finding.remedy, " " * len(head) + arrow + " ")
        first = Text(lines[0])
        first.stylize(style, 0, len(head) - _NAMES)
        self._console.print(first)
        for line in lines[1:]:
            self._console.print(Text(line))

    def _wrapped(self, text: str, head: str) -> list[str]:
        return textwrap.wrap(
            self._redactor.clean_text(text),
            self._width,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )


# --- certificates -----------------------------------------------------------------------------------------------------


def _urls(settings: Settings) -> list[str]:
    return [each.url for each in settings.enterprise_managers.values()]


def _show(urls: list[str]) -> int:
    """Print the certificate that each server shows; return the exit status."""
    status = 0
    for url in urls:
        if not url.startswith("https://"):
            typer.echo(f"{url}: without TLS there is no certificate", err=True)
            status = 1
            continue
        try:
            certificate = certificates.shown_by(url)
        except (OSError, ValueError) as error:
            typer.echo(f"{url}: no certificate was shown ({error})", err=True)
            status = 1
            continue
        typer.echo(_described(url, certificate))
    if status == 0:
        typer.echo("\nCompare the SHA-256 with the server's own before you set it as ..__CERT_SHA256.", err=True)
    return status


def _described(url: str, certificate: certificates.ShownCertificate) -> str:
    unknown = "(cannot be read)"
    if certificate.not_before is not None and certificate.not_after is not None:
        valid = f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
    else:
        valid = unknown
    rows = {
        "SHA-256": certificate.fingerprint,
        "subject": certificate.subject or unknown,
        "names": ", ".join(certificate.names) or "(none)",
        "issuer": "itself (self-signed)" if certificate.self_signed else certificate.issuer or unknown,
        "valid": valid,
    }
    return "\n".join([url, *(f"  {name:<9}{value}" for name, value in rows.items())])
