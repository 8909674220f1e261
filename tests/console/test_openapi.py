"""The OpenAPI document, judged by the OpenAPI Initiative's own schema and by that of JSON Schema."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError

from tests.console.conftest import Console

#: https://spec.openapis.org/oas/3.1/schema/2022-10-07, as `openapi-spec-validator` 0.9.0 carries it.
OPENAPI = json.loads((Path(__file__).parent / "openapi-3.1.schema.json").read_bytes())


@pytest.fixture
def document(console: Console) -> dict[str, Any]:
    """What the console serves."""
    document: dict[str, Any] = console.get("/api/v1/openapi.json").json()
    return document


def require_valid(document: dict[str, Any]) -> None:
    """Raise if the document, or a schema in it, is not what the specifications say, or refers to nothing."""
    Draft202012Validator(OPENAPI).validate(document)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in references_in(document):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in target, f"there is no {reference}"
            target = target[part]


def references_in(part: Any) -> Iterator[str]:
    """All references in a document."""
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference
        for inner in part.values():
            yield from references_in(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references_in(inner)


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """A generator of clients would refuse it."""
    require_valid(document)
    names = Counter(
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    )
    assert set(names.values()) == {1}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("paths", "/api/v1/unlinks", "get", "responses"), []),
        (("info", "version"), None),
        (("components", "schemas", "UnlinkItem", "type"), "nothing"),
        (("components", "schemas", "UnlinkItem", "properties", "job", "$ref"), "#/components/schemas/Nothing"),
    ],
)
def test_the_judge_finds_what_is_wrong(document: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    """It would pass any document."""
    *parts, last = path
    target = document
    for part in parts:
        target = target[part]
    target[last] = value
    with pytest.raises((ValidationError, SchemaError, AssertionError)):
        require_valid(document)
