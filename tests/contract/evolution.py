"""Whether a message's schema changed in a way that breaks those who were built against the released one.

A publisher's command that was right must stay right and mean the same: what the released schema allows, the new one
allows. A consumer must be able to read every event by the released schema: what the new one allows, the released one
allows. Both are one question, asked in opposite directions. Where this comparer does not understand a difference it
says so, which counts as breaking: a person decides.

It reads the subset of JSON Schema that `contracts.published` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

#: Words for people; they may change.
_REMARKS = frozenset({"$schema", "$id", "$defs", "title", "description", "examples", "default", "x-extensible-enum"})

_LOWER_BOUNDS = ("minimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS = ("maximum", "maxLength", "maxItems", "maxProperties")

#: Restrictions that are only ever compared for equality.
_OPAQUE = ("pattern", "format", "not", "oneOf", "propertyNames")

_UNDERSTOOD = _REMARKS | {
    "$ref", "type", "const", "enum", "anyOf", "required", "properties", "additionalProperties", "items",
    *_LOWER_BOUNDS, *_UPPER_BOUNDS, *_OPAQUE,
}  # fmt: skip

_EVERYTHING: dict[str, Any] = {}
_NULL = {"type": "null"}


def broken_publishers(released: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a publisher that was built against the released schema of a command would stumble over; empty if nothing."""
    sides = _Sides(narrow=released, wide=new, narrow_root=released, wide_root=new)
    return [*_not_allowed(sides), *_changed_defaults(sides)]


def broken_consumers(released: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a consumer that was built against the released schema of an event would stumble over; empty if nothing."""
    sides = _Sides(narrow=new, wide=released, narrow_root=new, wide_root=released)
    return [*_not_allowed(sides), *_lost_fields(sides), *_lost_known_values(sides)]


@dataclass(frozen=True, slots=True)
class _Sides:
    """Two schemas at one place; what `narrow` allows, `wide` should allow. The roots resolve references."""

    narrow: dict[str, Any]
    wide: dict[str, Any]
    narrow_root: dict[str, Any]
    wide_root: dict[str, Any]
    path: str = "message"

    def resolved(self) -> _Sides:
        return replace(self, narrow=_resolved(self.narrow, self.narrow_root), wide=_resolved(self.wide, self.wide_root))

    def at(self, narrow: dict[str, Any], wide: dict[str, Any], step: str = "") -> _Sides:
        path = f"{self.path}.{step}" if step else self.path
        return replace(self, narrow=narrow, wide=wide, path=path).resolved()

    def common_fields(self) -> Iterator[_Sides]:
        wide = self.wide.get("properties", {})
        for name, narrow in self.narrow.get("properties", {}).items():
            if name in wide:
                yield self.at(narrow, wide[name], name)

    def inside(self) -> Iterator[_Sides]:
        """Wherever both have the same place below this one: fields, items, and the branches that are not null."""
        yield from self.common_fields()
        if "items" in self.narrow and "items" in self.wide:
            yield self.at(self.narrow["items"], self.wide["items"], "[]")
        narrow = [branch for branch in _branches(self.narrow) if branch != _NULL]
        wide = [branch for branch in _branches(self.wide) if branch != _NULL]
        if ("anyOf" in self.narrow or "anyOf" in self.wide) and len(narrow) == len(wide) == 1:
            yield self.at(narrow[0], wide[0])


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    target: dict[str, Any] = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return _resolved(target, root) | {key: value for key, value in schema.items() if key != "$ref"}


# --- what one allows and the other does not -------------------------------------------------------------------------


def _not_allowed(sides: _Sides) -> Iterator[str]:
    sides = sides.resolved()
    if "anyOf" in sides.narrow or "anyOf" in sides.wide:
        yield from _alternatives(sides)
        return
    strange = sorted((sides.narrow.keys() | sides.wide.keys()) - _UNDERSTOOD)
    if strange:
        yield f"{sides.path}: {', '.join(strange)} cannot be compared"
    yield from _kinds(sides)
    yield from _values(sides)
    yield from _bounds(sides)
    for keyword in _OPAQUE:
        if keyword in sides.wide and _rules(sides.narrow.get(keyword)) != _rules(sides.wide[keyword]):
            yield f"{sides.path}: another {keyword}"
    yield from _fields(sides)
    if "items" in sides.wide:
        yield from _not_allowed(sides.at(sides.narrow.get("items", _EVERYTHING), sides.wide["items"], "[]"))


def _rules(part: Any) -> Any:
    """A restriction without the titles of its branches."""
    if isinstance(part, list):
        return [_rules(branch) for branch in part]
    return {name: value for name, value in part.items() if name != "title"} if isinstance(part, dict) else part


def _alternatives(sides: _Sides) -> Iterator[str]:
    for branch in _branches(sides.narrow):
        attempts = [list(_not_allowed(sides.at(branch, other))) for other in _branches(sides.wide)]
        if all(attempts):
            yield from min(attempts, key=len)


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema; `null` beside another type counts as one of its own."""
    if "anyOf" in schema:
        return list(schema["anyOf"])
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        return [schema]
    return [_NULL if kind == "null" else schema | {"type": kind} for kind in kinds]


def _kinds(sides: _Sides) -> Iterator[str]:
    narrow, wide = _types(sides.narrow), _types(sides.wide)
    if wide is None:
        return
    if narrow is None:
        yield f"{sides.path}: of any type on one side, {_listed(wide)} on the other"
        return
    extra = {kind for kind in narrow - wide if not (kind == "integer" and "number" in wide)}
    if extra:
        yield f"{sides.path}: {_listed(extra)} on one side, {_listed(wide)} on the other"


def _types(schema: dict[str, Any]) -> set[str] | None:
    kinds = schema.get("type")
    return None if kinds is None else {kinds} if isinstance(kinds, str) else set(kinds)


def _values(sides: _Sides) -> Iterator[str]:
    wide = _enumerated(sides.wide)
    if wide is None:
        return
    narrow = _enumerated(sides.narrow)
    if narrow is None:
        yield f"{sides.path}: any value on one side, only {_listed(wide)} on the other"
    elif extra := [value for value in narrow if value not in wide]:
        yield f"{sides.path}: {_listed(extra)} only on one side"


def _enumerated(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _bounds(sides: _Sides) -> Iterator[str]:
    for keyword in _LOWER_BOUNDS:
        if keyword in sides.wide and sides.narrow.get(keyword, float("-inf")) < sides.wide[keyword]:
            yield f"{sides.path}: {keyword} {_before_and_after(sides, keyword)}"
    for keyword in _UPPER_BOUNDS:
        if keyword in sides.wide and sides.narrow.get(keyword, float("inf")) > sides.wide[keyword]:
            yield f"{sides.path}: {keyword} {_before_and_after(sides, keyword)}"


def _before_and_after(sides: _Sides, keyword: str) -> str:
    return f"{sides.narrow.get(keyword, 'free')} on one side, {sides.wide[keyword]} on the other"


def _fields(sides: _Sides) -> Iterator[str]:
    for name in sides.wide.get("required", ()):
        if name not in sides.narrow.get("required", ()):
            yield f"{sides.path}.{name}: required on one side only"
    known = sides.wide.get("properties", {})
    others = sides.wide.get("additionalProperties", _EVERYTHING)
    for name, narrow in sides.narrow.get("properties", {}).items():
        if name in known:
            yield from _not_allowed(sides.at(narrow, known[name], name))
        elif others is False:
            yield f"{sides.path}.{name}: unknown on one side"
    yield from _other_fields(sides, others=others)


def _other_fields(sides: _Sides, *, others: dict[str, Any] | bool) -> Iterator[str]:
    mine = sides.narrow.get("additionalProperties", _EVERYTHING)
    if mine is False or others in (True, _EVERYTHING) or "object" not in (_types(sides.wide) or ()):
        return
    if isinstance(others, bool) or isinstance(mine, bool):
        yield f"{sides.path}: fields of any name on one side only"
        return
    yield from _not_allowed(sides.at(mine, others, "*"))


# --- what the question above does not see ---------------------------------------------------------------------------


def _changed_defaults(sides: _Sides) -> Iterator[str]:
    """A command that leaves a field out must go on meaning the same."""
    sides = sides.resolved()
    before, after = sides.narrow.get("default"), sides.wide.get("default")
    if before != after:
        yield f"{sides.path}: left out, it means {after!r}, where it meant {before!r}"
    for inner in sides.inside():
        yield from _changed_defaults(inner)


def _lost_fields(sides: _Sides) -> Iterator[str]:
    """A field that is no longer described may be anything, or nothing."""
    sides = sides.resolved()
    kept = sides.narrow.get("properties", {})
    for name in sides.wide.get("properties", {}):
        if name not in kept:
            yield f"{sides.path}.{name}: gone"
    for inner in sides.inside():
        yield from _lost_fields(inner)


def _lost_known_values(sides: _Sides) -> Iterator[str]:
    """Of a set that may grow, no value may go: somebody acts on it."""
    sides = sides.resolved()
    kept = sides.narrow.get("x-extensible-enum", ())
    gone = [value for value in sides.wide.get("x-extensible-enum", ()) if value not in kept]
    if gone:
        yield f"{sides.path}: {_listed(gone)} gone"
    for inner in sides.inside():
        yield from _lost_known_values(inner)


def _listed(values: Any) -> str:
    return ", ".join(sorted(str(value) for value in values))
