"""`unlink-worker contracts`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from contracts.commands import UnlinkCommand
from contracts.events import Event

if TYPE_CHECKING:
    from pydantic import BaseModel

_MESSAGES: dict[str, type[BaseModel]] = {"unlink.v1": UnlinkCommand, "event.v1": Event}


def contracts() -> None:
    """Print the JSON Schemas of the messages, by name."""
    schemas: dict[str, Any] = {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:unlink-worker:{name}"}
        | model.model_json_schema(mode="serialization" if model is Event else "validation")
        for name, model in _MESSAGES.items()
    }
    typer.echo(json.dumps(schemas, indent=2))
