"""`unlink-worker demo`."""

from __future__ import annotations

import typer
from rich.console import Console

from worker.cli.output.errors import refuse, refuse_without_extra


def demo() -> None:
    """Show the worker at work, on a private broker and a simulated Enterprise Manager. Changes nothing of yours."""
    try:
        from worker.cli.demo.presentation import play  # noqa: PLC0415 - an extra that a production worker does not install
        from worker.sandbox.errors import SandboxError  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        refuse_without_extra("The demo", "sandbox", error)
    try:
        all_well = play(Console())
    except SandboxError as error:
        refuse(str(error), status=1)
    except KeyboardInterrupt:
        refuse("Interrupted; nothing is left running.", status=130)
    raise typer.Exit(0 if all_well else 1)
