"""Parses XML into nodes while it reads. DTDs, entities and external references are forbidden (defusedxml)."""

from __future__ import annotations

from functools import lru_cache
from xml.etree.ElementTree import ParseError

from defusedxml.ElementTree import DefusedXMLParser

from worker.enterprise_manager.documents.tree import Budget, Kind, Node, UnreadableDocumentError

#: The parser is fed in pieces of this size, in bytes, so that a document over a limit is rejected early.
_PIECE = 64 * 1024


def read_xml(body: bytes) -> Node:
    """Read an XML document; namespaces are dropped, attributes become fields.

    Raises:
        UnreadableDocumentError: it is not well-formed, is truncated, too large or too deep, or declares entities.
    """
    target = _NodeBuilder()
    parser = DefusedXMLParser(target=target, forbid_dtd=True)
    # Use expat's callbacks directly: ElementTree would first create names and dictionaries.
    parser.parser.StartElementHandler = target.start
    parser.parser.EndElementHandler = target.end
    try:
        for start in range(0, len(body), _PIECE):
            parser.feed(body[start : start + _PIECE])
        parser.close()
    except (ParseError, ValueError, LookupError) as error:
        # defusedxml raises ValueError for forbidden parts. LookupError: Python does not know the encoding.
        raise UnreadableDocumentError("it is not valid XML") from error
    finally:
        vars(parser).clear()  # after a failure, parser and target would hold each other, and all that was read
    if target.root is None:
        raise UnreadableDocumentError("it is not valid XML")
    return target.root


class _NodeBuilder:
    """Builds nodes from expat's callbacks. ElementTree's parser calls `data` and `close`."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._texts: list[list[str]] = []
        self._budget = Budget()

    def start(self, tag: str, attributes: list[str]) -> None:
        """Begin an element. `attributes` holds names and values alternately."""
        depth = len(self._open) + 1
        self._budget.spend(depth + 1 if attributes else depth, 1 + len(attributes) // 2)
        node = Node(_local(tag), Kind.ELEMENT)
        if attributes:
            pairs = zip(attributes[::2], attributes[1::2], strict=True)
            node.children = [Node(_local(name), Kind.TEXT, value) for name, value in pairs]
        if self._open:
            self._open[-1].children.append(node)
        elif self.root is None:
            self.root = node
        self._open.append(node)
        self._texts.append([])

    def data(self, text: str) -> None:
        # Text is counted too: expat calls this once for each line and each reference of a text.
        self._budget.spend(len(self._open))
        self._texts[-1].append(text)

    def end(self, tag: str) -> None:
        del tag
        self._open.pop().text = "".join(self._texts.pop())

    def close(self) -> None:
        """Do nothing; the result is in `root`."""


@lru_cache(maxsize=256)
def _local(name: str) -> str:
    return name.rpartition("}")[2].lower()
