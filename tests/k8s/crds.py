"""The operators' schemas: custom resources are checked against them strictly, with unknown fields refused."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema import Draft202012Validator

from tests.k8s.manifests import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.k8s.manifests import Resource

#: Beside the project, not in it: the schemas are other projects' work.
FOLDER = ROOT.parent / "shared" / "crds"

NOT_CHECKED = "NOT CHECKED: needs the schemas of the operators' resources, which are not in ../shared/crds"


def is_custom(resource: Resource) -> bool:
    """Whether an operator's definition, and not Kubernetes, says what this resource may hold."""
    group = resource["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def problems(resource: Resource) -> list[str]:
    """What its operator's schema has against a resource."""
    validator = _validators().get((resource["apiVersion"], resource["kind"]))
    if validator is None:
        return [f"no schema for {resource['apiVersion']} {resource['kind']}"]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]


@cache
def _validators() -> dict[tuple[str, str], Draft202012Validator]:
    return {
        (f"{definition['spec']['group']}/{version['name']}", definition["spec"]["names"]["kind"]): Draft202012Validator(
            _strict(version["schema"]["openAPIV3Schema"])
        )
        for definition in _definitions()
        for version in definition["spec"]["versions"]
        if version["served"]
    }


def _definitions() -> Iterator[Resource]:
    for file in sorted(FOLDER.glob("*.yaml")):
        yield from yaml.load_all(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


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
