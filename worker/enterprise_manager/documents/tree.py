"""One tree for XML and JSON documents, so that the structure of a task or a link is defined once.

XML attributes, XML child elements and JSON keys are all fields. Field names are compared without regard to case:
servers of version 13.0 were seen to answer in camelCase, which their vendor called unintended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

#: The maximum depth of a document. The documents of Enterprise Manager have fewer than ten levels.
MAX_DEPTH = 40

#: The maximum number of fields in one document. Limits memory: a few bytes of a document may take hundreds of bytes.
MAX_NODES = 200_000

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class DocumentError(Exception):
    """The body of a response cannot be used."""


class UnreadableDocumentError(DocumentError):
    """The document cannot be parsed: truncated, neither XML nor JSON, too deep, too large, or with forbidden parts."""


class UnexpectedDocumentError(DocumentError):
    """The document was parsed, but is not the one that was requested."""


class Kind(Enum):
    """Which part of its XML or JSON document a node was."""

    ELEMENT = auto()
    OBJECT = auto()
    ARRAY = auto()
    TEXT = auto()
    NULL = auto()


@dataclass(slots=True)
class Node:
    """An XML element or attribute, or a JSON object, array or value. Its name is in lower case."""

    name: str
    kind: Kind
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def child(self, *names: str) -> Node | None:
        """The first field of one of these (lower-case) names that is not null."""
        for child in self.children:
            if child.name in names and child.kind is not Kind.NULL:
                return child
        return None

    def value(self, *names: str) -> str | None:
        """The text of the first such field, stripped; None if there is none or it is empty."""
        found = self.child(*names)
        return (found.text.strip() or None) if found is not None else None

    def has(self, *names: str) -> bool:
        """Whether there is such a field, even if it is null."""
        return any(child.name in names for child in self.children)

    def records(self, identity: str) -> Iterator[Node]:
        """The outermost nodes, this one included, that have a field of that name."""
        if self.child(identity) is not None:
            yield self
            return
        for child in self.children:
            yield from child.records(identity)

    def find(self, name: str) -> Node | None:
        """The first node of that name, this one included, depth first."""
        if self.name == name and self.kind is not Kind.NULL:
            return self
        for child in self.children:
            if (found := child.find(name)) is not None:
                return found
        return None


class Budget:
    """Counts the nodes of one document, and raises when a limit is exceeded."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def spend(self, depth: int, nodes: int = 1) -> None:
        """Count `nodes` more nodes at that depth.

        Raises:
            UnreadableDocumentError: the document is too large or too deep.
        """
        self._left -= nodes
        if self._left < 0:
            raise UnreadableDocumentError(f"it has more than {MAX_NODES} fields")
        if depth > MAX_DEPTH:
            raise UnreadableDocumentError(f"it is nested deeper than {MAX_DEPTH} levels")


def cleaned(text: str, longest: int) -> str:
    """The text as one line of printable characters that can be encoded, truncated to `longest` characters."""
    line = _UNPRINTABLE.sub(" ", text[: longest * 4]).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"
