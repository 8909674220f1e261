"""Renders one tree of elements as Enterprise Manager's XML, or as its JSON for the same objects.

In JSON, attributes and child elements are fields, and an element that contains a list is an object with an array, or
the array itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour

Scalar = str | bool | int | None

NAMESPACE = "http://www.veeam.com/ent/v1.0"

_ROOT_ATTRIBUTES = (
    f' xmlns="{NAMESPACE}" xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)

#: Escapes for characters with a meaning in XML. Characters that XML does not allow become the replacement character.
_ESCAPES = str.maketrans(
    dict.fromkeys((*map(chr, range(32)), "\ufffe", "\uffff"), "\ufffd")
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)


#: The element's list is the JSON array itself.
BARE_ARRAY = ""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a document.

    A leaf has `text`. A `text` of None is null in JSON. In XML the element is left out, or has `xsi:nil` if `nil` is
    true. With `array`, the children are a list, and `array` is the name of the JSON array; with `BARE_ARRAY`, the JSON
    value is the array itself.
    """

    name: str
    attributes: Mapping[str, Scalar] | None = None
    children: Sequence[Element] | None = None
    text: Scalar = None
    array: str | None = None
    nil: bool = False


def to_xml(element: Element) -> bytes:
    """The XML document, in UTF-8."""
    parts = ['<?xml version="1.0" encoding="utf-8"?>']
    _write_xml(element, parts, _ROOT_ATTRIBUTES)
    return "".join(parts).encode(errors="replace")


def _write_xml(element: Element, parts: list[str], more: str = "") -> None:
    if element.children is None and element.text is None and element.attributes is None and not element.nil:
        return
    attributes = "".join(
        f' {name}="{_text(value)}"' for name, value in (element.attributes or {}).items() if value is not None
    )
    nil = ' xsi:nil="true"' if element.nil else ""
    parts.append(f"<{element.name}{more}{attributes}{nil}")
    if element.text is not None:
        parts.append(f">{_text(element.text)}</{element.name}>")
    elif element.children:
        parts.append(">")
        for child in element.children:
            _write_xml(child, parts)
        parts.append(f"</{element.name}>")
    else:
        parts.append(" />")


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).translate(_ESCAPES)


def to_json(element: Element, behaviour: Behaviour) -> bytes:
    """The JSON document, in UTF-8, in the format that `behaviour` selects."""
    document = _json_value(element, behaviour)
    if behaviour.json_keys == "camel":
        document = _camel(document)
    mark = b"\xef\xbb\xbf" if behaviour.json_byte_order_mark else b""
    return mark + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _json_value(element: Element, behaviour: Behaviour) -> Any:
    if element.nil or (element.children is None and element.attributes is None):
        return element.text
    if element.array is not None:
        items: Any = [_json_value(child, behaviour) for child in element.children or ()]
        if not items and behaviour.json_empty_list == "null":
            items = None
        return items if element.array == BARE_ARRAY else {element.array: items, **(element.attributes or {})}
    fields = {child.name: _json_value(child, behaviour) for child in element.children or ()}
    return fields | dict(element.attributes or {})


def _camel(document: Any) -> Any:
    if isinstance(document, dict):
        return {_camel_key(key): _camel(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_camel(item) for item in document]
    return document


@lru_cache(maxsize=1000)
def _camel_key(key: str) -> str:
    """The key in camel case by the rules of .NET: `TaskId` becomes `taskId`, `UID` becomes `uid`."""
    capitals = next((at for at, letter in enumerate(key) if not letter.isupper()), len(key))
    head = capitals if capitals in {1, len(key)} else max(capitals - 1, 0)
    return key[:head].lower() + key[head:]
