"""`unlink-worker contracts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.published import all_schemas, in_text
from worker.cli.contracts.asyncapi import document
from worker.cli.output.errors import refuse


def contracts(
    *,
    schema: Annotated[str | None, typer.Option(help="Only this message's schema, such as unlink.v1.")] = None,
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="The AsyncAPI document: exchanges, queues, messages, replies.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="Write all of it into this folder: schemas/*.json and asyncapi.json.")
    ] = None,
) -> None:
    """Print the JSON Schemas of the messages, by name; or the AsyncAPI document; or write both to files."""
    if sum((schema is not None, asyncapi, write is not None)) > 1:
        refuse("--schema, --asyncapi and --write go one at a time.")
    schemas = all_schemas()
    if write is not None:
        _write(write)
    elif asyncapi:
        typer.echo(in_text(document()), nl=False)
    elif schema is None:
        typer.echo(in_text(schemas), nl=False)
    elif schema in schemas:
        typer.echo(in_text(schemas[schema]), nl=False)
    else:
        refuse(f"There is no message {schema!r}; there are: {', '.join(schemas)}.")


def files() -> dict[str, str]:
    """The published files, by their path in the folder `contracts`."""
    schemas = {f"schemas/{name}.json": in_text(schema) for name, schema in all_schemas().items()}
    return {**schemas, "asyncapi.json": in_text(document())}


def _write(folder: Path) -> None:
    for path, text in files().items():
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        except OSError as error:
            refuse(f"{folder / path} cannot be written: {error.strerror}", status=1)
