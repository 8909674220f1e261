"""`unlink-worker sandbox`."""

from __future__ import annotations

import select
import signal
import sys
from typing import TYPE_CHECKING, TextIO

import typer

from worker.broker.client import BrokerClientError
from worker.cli.output.errors import refuse, refuse_without_extra

if TYPE_CHECKING:
    from worker.cli.sandbox.interactive import InteractiveSandbox

_READY = """
Ready, until Ctrl-C. In another terminal paste the lines above, or this one, which does the same:

  . {settings_file}

Then remove a link:

  unlink-worker submit --wait --job 'Copy to Frankfurt' --repository 'Scale-out 3' --ticket jira:OPS-4711

Put it back. It is a new link: to remove it, name another ticket.

  curl --silent --show-error --cacert "$SANDBOX_CA_FILE" --header 'Content-Type: application/json' \\
    --data '{{"job": "Copy to Frankfurt", "repository": "Scale-out 3"}}' "$SANDBOX_CONTROL_URL/put_back"

{console}The jobs and their linked repositories:

{jobs}

An unlink is refused for "Copy to Vault" (it has linked backups), for "Copy to Archive" (two jobs have this name:
--job-server names one) and for "Daily Backup" (it is no copy job). Two dead letters wait: unlink-worker dead list

RabbitMQ's pages:  {management_url} (user and password are those of AMQP_URL)
Control URL:       {control_url} (of the simulated Enterprise Manager)
The worker's log:  {log_file}"""


def sandbox() -> None:
    """Run a private broker, a simulated Enterprise Manager, a worker and the console until Ctrl-C.

    The first line has the console's address. Standard output has the lines that set up another shell. They hold the
    sandbox's passwords.
    """
    try:
        from worker.cli.sandbox.interactive import InteractiveSandbox  # noqa: PLC0415 - as below
        from worker.cli.tryout.console import ConsoleAddress, console_is_installed  # noqa: PLC0415 - as below
        from worker.sandbox.errors import SandboxError  # noqa: PLC0415 - an extra that a production worker does not install
    except ModuleNotFoundError as error:
        refuse_without_extra("The sandbox", "sandbox", error)
    terminals = terminals_of(sys.stdin, sys.stdout, sys.stderr)
    try:
        address = ConsoleAddress.free() if console_is_installed() else None
        if address is not None:
            typer.echo(f"The console: {address.url} as soon as everything has started", err=True)
        typer.echo("Starting a private RabbitMQ, a simulated Enterprise Manager and a worker ...", err=True)
        with InteractiveSandbox(address) as running:
            typer.echo(running.exports, nl=False)
            typer.echo(_ready(running), err=True)
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            terminals.poll()
    except (SandboxError, BrokerClientError) as error:
        refuse(str(error), status=1)
    except KeyboardInterrupt:
        typer.echo("Gone, without a trace.", err=True)


def terminals_of(*streams: TextIO) -> select.poll:
    """The terminals of this program. `poll()` returns when one is closed, or was; without a terminal, it never does.

    A closed terminal sends its signal to the leader of its session alone. If that is `make`, it waits for this program.
    A terminal that is closed is none for `isatty` any more: they are looked for before anything takes time.
    """
    terminals = select.poll()
    for stream in streams:
        if stream.isatty():
            terminals.register(stream.fileno(), 0)  # a hang-up is always reported
    return terminals


def _ready(running: InteractiveSandbox) -> str:
    return _READY.format(
        settings_file=running.settings_file,
        console=_console(running),
        jobs=_jobs(),
        management_url=running.management_url,
        control_url=running.control_url,
        log_file=running.worker.log_file,
    )


def _console(running: InteractiveSandbox) -> str:
    if running.console is None or running.passwords_file is None:
        return ""
    return (
        f"Look at it, search it and steer it: {running.console.url}\n"
        f"Its users (reader, submitter, operator) and their passwords: {running.passwords_file}\n\n"
    )


def _jobs() -> str:
    from worker.cli.sandbox.estate import JOBS, REPOSITORIES  # noqa: PLC0415 - as above

    lines = []
    for backup_server in REPOSITORIES:
        lines.append(f"  on {backup_server}")
        linked = (job for job in JOBS if job.links and job.backup_server == backup_server)
        lines += [f"    {job.name:<31}  {', '.join(job.links)}" for job in linked]
    return "\n".join(lines)
