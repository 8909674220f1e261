"""Detects the format of a document by its first character, because a server's `Content-Type` may be wrong."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from worker.enterprise_manager.documents.from_json import read_json
from worker.enterprise_manager.documents.from_xml import read_xml
from worker.enterprise_manager.documents.tree import Node, UnreadableDocumentError, cleaned

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Recognises an HTML page by its first tag after declarations and comments. A document may quote HTML later on.
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?(?>\s|<\?.*?\?>|<!--.*?-->)*+<(!doctype\s+html|html|head|body)[\s/>]", re.IGNORECASE | re.DOTALL
)
_TITLE = re.compile(r"<title[^>]*>(.{1,400}?)</title", re.IGNORECASE | re.DOTALL)
_LONGEST_TITLE = 80

#: The first tag is searched for in this many bytes of the body.
_HEAD = 2048

#: A document of at least this size, in bytes, is parsed on a thread: parsing would block the event loop noticeably.
LONG_BODY = 64 * 1024


def read_document(body: bytes) -> Node:
    """Read the body of a response, XML or JSON.

    Raises:
        UnreadableDocumentError: it is neither valid XML nor valid JSON, or exceeds a limit.
    """
    content = body.removeprefix(BYTE_ORDER_MARK).lstrip()
    if not content:
        raise UnreadableDocumentError("it is empty")
    if is_html(body):
        raise UnreadableDocumentError("it is an HTML page")
    return read_xml(content) if content.startswith(b"<") else read_json(content)


def read_short_document(body: bytes) -> Node | None:
    """Read a body whose document is short, such as an error. None if it is long, or cannot be read."""
    if len(body) >= LONG_BODY:
        return None
    try:
        return read_document(body)
    except UnreadableDocumentError:
        return None


def is_error(root: Node) -> bool:
    """Whether a document is an error of Enterprise Manager: such a document names its status code (seen)."""
    return root.name == "error" or root.has("statuscode")


def is_html(body: bytes) -> bool:
    """Whether the body is an HTML page: then a proxy, or a web server that is not the REST API, has answered."""
    return _HTML.match(body[:_HEAD]) is not None


def html_title(body: bytes, clean: Callable[[str], str] = str) -> str | None:
    """The title of an HTML page, cleaned and truncated. No other part of a page is passed on."""
    found = _TITLE.search(body[: _HEAD * 4].decode("utf-8", "replace"))
    return (cleaned(clean(html.unescape(found[1])), _LONGEST_TITLE) or None) if found else None
