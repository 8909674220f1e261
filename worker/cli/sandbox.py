"""`unlink-worker sandbox`."""

from __future__ import annotations

import shlex
import signal

import typer

from worker.cli.refusals import refuse


def sandbox() -> None:
    """Run a private broker, a simulated Enterprise Manager and a worker until Ctrl-C, and print how to reach them."""
    try:
        from worker.sandbox.errors import SandboxError  # noqa: PLC0415 - an extra that a production worker does not install
        from worker.sandbox.playground import Playground  # noqa: PLC0415 - as above
        from worker.sandbox.simulated_enterprise_manager import VENDOR_JOB_ID, VENDOR_LINK_ID  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        refuse(f"The sandbox needs {error.name}, of the extra `sandbox`: pip install 'unlink-worker[sandbox]'")
    try:
        typer.echo("Starting a private RabbitMQ, a simulated Enterprise Manager and a worker ...", err=True)
        with Playground() as playground:
            worker = playground.start_worker()
            for name, value in sorted(playground.environment.items()):
                typer.echo(f"export {name}={shlex.quote(value)}")
            typer.echo(
                "\nReady, until Ctrl-C. In another terminal, paste the lines above, then for example:\n\n"
                f"  unlink-worker submit --wait --job {VENDOR_JOB_ID} --link {VENDOR_LINK_ID}\n\n"
                f"The worker's log: {worker.log_file}",
                err=True,
            )
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()
    except SandboxError as error:
        refuse(str(error), status=1)
    except KeyboardInterrupt:
        typer.echo("Gone, without a trace.", err=True)
