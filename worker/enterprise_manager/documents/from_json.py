"""Parses JSON into nodes."""

from __future__ import annotations

import json
from typing import Any

from worker.enterprise_manager.documents.tree import MAX_NODES, Budget, Kind, Node, UnreadableDocumentError


def read_json(body: bytes) -> Node:
    """Read a JSON document, with or without a byte-order mark. Numbers are kept as text.

    Raises:
        UnreadableDocumentError: it is not JSON, is truncated, too large or too deep.
    """
    # Count before parsing: for each bracket, the parser allocates much more than one byte.
    if body.count(b"{") + body.count(b"[") + body.count(b",") > MAX_NODES:
        raise UnreadableDocumentError(f"it has more than {MAX_NODES} fields")
    try:
        content = json.loads(body, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise UnreadableDocumentError("it is not valid JSON") from error
    if not isinstance(content, dict | list):
        raise UnreadableDocumentError("it is JSON, but neither an object nor an array")
    return _node("", content, 1, Budget())


def _node(name: str, content: Any, depth: int, budget: Budget) -> Node:
    budget.spend(depth)
    match content:
        case None:
            return Node(name, Kind.NULL)
        case dict():
            fields = [_node(key.lower(), value, depth + 1, budget) for key, value in content.items()]
            return Node(name, Kind.OBJECT, children=fields)
        case list():
            return Node(name, Kind.ARRAY, children=[_node("", value, depth + 1, budget) for value in content])
        case bool():
            return Node(name, Kind.TEXT, "true" if content else "false")
        case _:
            return Node(name, Kind.TEXT, content)
