"""XML into nodes: without document type, entities or anything from outside (defusedxml), built as it is parsed."""

from __future__ import annotations

from functools import lru_cache
from xml.etree.ElementTree import ParseError

from defusedxml.ElementTree import DefusedXMLParser

from worker.enterprise_manager.documents.tree import Budget, Kind, Node, UnreadableDocumentError

#: Fed in pieces, so that a document which breaks a limit is given up early.
_PIECE = 64 * 1024


def read_xml(body: bytes) -> Node:
    """Read an XML document; namespaces are dropped, attributes become fields.

    Raises:
        UnreadableDocumentError: it is not well-formed, is truncated, too large or too deep, or declares entities.
    """
    target = _NodeBuilder()
    parser = DefusedXMLParser(target=target, forbid_dtd=True)
    # Directly from expat, which was configured above: ElementTree would first make names and dictionaries.
    parser.parser.StartElementHandler = target.start
    parser.parser.EndElementHandler = target.end
    try:
        for start in range(0, len(body), _PIECE):
            parser.feed(body[start : start + _PIECE])
        parser.close()
    except (ParseError, ValueError, LookupError) as error:
        # ValueError is what defusedxml raises for forbidden parts; LookupError an encoding that Python does not know.
        raise UnreadableDocumentError("it is not valid XML") from error
    if target.root is None:
        raise UnreadableDocumentError("it is not valid XML")
    return target.root


class _NodeBuilder:
    """Takes what expat finds; `data` and `close` are what ElementTree's parser calls."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._texts: list[list[str]] = []
        self._budget = Budget()

    def start(self, tag: str, attributes: list[str]) -> None:
        """An element begins; its attributes are names and values, one after the other."""
        depth = len(self._open) + 1
        self._budget.spend(depth)
        node = Node(_local(tag), Kind.ELEMENT)
        if attributes:
            self._budget.spend(depth + 1, len(attributes) // 2)
            pairs = zip(attributes[::2], attributes[1::2], strict=True)
            node.children = [Node(_local(name), Kind.TEXT, value) for name, value in pairs]
        if self._open:
            self._open[-1].children.append(node)
        elif self.root is None:
            self.root = node
        self._open.append(node)
        self._texts.append([])

    def data(self, text: str) -> None:
        # Counted too: a text comes in as many pieces as it has lines and references.
        self._budget.spend(len(self._open))
        self._texts[-1].append(text)

    def end(self, tag: str) -> None:
        del tag
        self._open.pop().text = "".join(self._texts.pop())

    def close(self) -> None:
        """Nothing is left to do: `root` is what was built."""


@lru_cache(maxsize=256)
def _local(name: str) -> str:
    return name.rpartition("}")[2].lower()
