"""One shape for XML and JSON documents, so that what a task or a link looks like is written down once.

An XML attribute and an XML child element are both fields, as a JSON key is. Field names are compared without regard to
case: servers of version 13.0 were seen to answer in camelCase, which their vendor called unintended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

#: A document nested deeper than this is no answer of Enterprise Manager: its own stay below ten.
MAX_DEPTH = 40

#: The most fields of one document. Bounds memory: a few bytes of a hostile document can ask for hundreds.
MAX_NODES = 200_000

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class DocumentError(Exception):
    """The body of an answer is of no use."""


class UnreadableDocumentError(DocumentError):
    """It is no document at all: truncated, neither XML nor JSON, too deep, too large, or with forbidden parts."""


class UnexpectedDocumentError(DocumentError):
    """It can be read, and says something else than was asked for."""


class Kind(Enum):
    """What a node was in its document."""

    ELEMENT = auto()
    OBJECT = auto()
    ARRAY = auto()
    TEXT = auto()
    NULL = auto()


@dataclass(slots=True)
class Node:
    """An element, an attribute, an object, an array or a value, by its lower-case name."""

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
        """Whether there is such a field, be it null."""
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
    """Counts the nodes of one document, and refuses one too many."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def spend(self, depth: int, nodes: int = 1) -> None:
        """Account for so many more nodes at that depth.

        Raises:
            UnreadableDocumentError: the document is too large or too deep.
        """
        self._left -= nodes
        if self._left < 0:
            raise UnreadableDocumentError(f"it has more than {MAX_NODES} fields")
        if depth > MAX_DEPTH:
            raise UnreadableDocumentError(f"it is nested deeper than {MAX_DEPTH} levels")


def cleaned(text: str, longest: int) -> str:
    """One line of printable text that can be encoded and logged, cut to so many characters."""
    line = _UNPRINTABLE.sub(" ", text[: longest * 4]).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"
