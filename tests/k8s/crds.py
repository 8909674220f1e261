"""The operators' schemas: custom resources are checked against them strictly, with unknown fields refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.k8s.manifests import Resource

#: By API version and kind, without descriptions. Other projects' work: the first entry names them.
_SCHEMAS = Path(__file__).with_name("custom_resources.json")


def is_custom(resource: Resource) -> bool:
    """Whether an operator's definition, and not Kubernetes, says what this resource may hold."""
    group = resource["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def problems(resource: Resource) -> list[str]:
    """What its operator's schema has against a resource."""
    name = f"{resource['apiVersion']} {resource['kind']}"
    schema = _schemas().get(name)
    if schema is None:
        return [f"no schema for {name}"]
    errors = Draft202012Validator(_strict(schema)).iter_errors(resource)
    return [f"{error.json_path}: {error.message}" for error in errors]


@cache
def _schemas() -> dict[str, Any]:
    return dict(json.loads(_SCHEMAS.read_bytes()))


def _strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as JSON Schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        name: {field: _strict(inner) for field, inner in value.items()} if name == "properties" else _strict(value)
        for name, value in schema.items()
    }
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    elif schema.get("nullable") and "type" in schema:
        strict["type"] = [schema["type"], "null"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_ended:
        strict["additionalProperties"] = False
    return strict
