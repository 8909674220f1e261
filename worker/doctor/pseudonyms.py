"""Replaces what identifies an installation in requests and documents by pseudonyms: the same for the same value.

Only what is known to be harmless is kept: the structure, types, states, numbers and truth values. A field that nobody
thought of is therefore replaced, not published.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any
from urllib.parse import quote, unquote, urlsplit

#: The UUID and the name with which the doctor asks for what does not exist. They are kept.
NOBODY = "6e6f626f-6479-4000-8000-6e6f626f6479"
NO_NAME = 'unlink"worker'

#: The host name that replaces the address of the server in a recording. A replay replaces it by its own address.
ASKED = "asked.example"

_MARK = "\ufeff"

#: The fields whose values are kept.
_HARMLESS = frozenset(
    {"rel", "type", "state", "operation", "jobtype", "platform", "kind", "version", "encoding", "xmlns", "nil"}
)

#: The messages that are kept: those of successful tasks.
_MESSAGES = frozenset({"ok", "operationfinished", "running"})

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_URN = re.compile(rf"(urn:veeam:[A-Za-z]+:)({_UUID.pattern})")
#: Values that are kept: those of names (of versions and tasks), and those of other fields.
_PLAIN_NAME = re.compile(r"task-[0-9]+|v[0-9]+_[0-9]+")
_PLAIN = re.compile(rf"-?[0-9]+(?:\.[0-9]+)?|true|false|{_PLAIN_NAME.pattern}", re.IGNORECASE)
_TAG = re.compile(r"(<!--.*?-->|<!\[CDATA\[.*?\]\]>|<[^>]*>)", re.DOTALL)
_ATTRIBUTE = re.compile(r"""([\w:.-]+)(\s*=\s*)("[^"]*"|'[^']*')""")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


class Pseudonyms:
    """The pseudonyms of one recording.

    Args:
        netloc: host and port of the Enterprise Manager that is asked.
        keep_names: whether names, messages, addresses and IDs are kept.
    """

    def __init__(self, netloc: str, *, keep_names: bool = False) -> None:
        self._netloc = netloc.lower()
        self._keep_names = keep_names
        self._uuids: dict[str, str] = {NOBODY: NOBODY}
        self._hosts: dict[str, str] = {}
        self._texts: dict[str, str] = {NO_NAME: NO_NAME}

    def path(self, path: str) -> str:
        """A path, whose segments are names of resources or IDs."""
        return "/".join(quote(self._segment(unquote(part)), safe="=?&:") for part in path.split("/"))

    def query(self, query: dict[str, str]) -> dict[str, str]:
        """The parameters of a query: quoted values in its filter are names."""
        return {name: _QUOTED.sub(self._quoted, value) for name, value in query.items()}

    def body(self, body: bytes) -> str:
        """A document as text; what is neither JSON nor XML is left out."""
        text = body.decode("utf-8", "replace")
        mark, content = (_MARK, text[1:]) if text.startswith(_MARK) else ("", text)
        if content.lstrip().startswith(("{", "[")):
            try:
                return mark + json.dumps(self._value("", json.loads(content)), ensure_ascii=False)
            except ValueError:
                return mark + "{"
        if content.lstrip().startswith("<"):
            return mark + self._xml(content)
        return mark

    def value(self, name: str, text: str) -> str:
        """The text of a field."""
        name = name.rpartition(":")[2].casefold()
        plain = _PLAIN_NAME if name.endswith(("name", "description", "message")) else _PLAIN
        if name in _HARMLESS or not text.strip() or plain.fullmatch(text.strip()):
            return text
        if name == "message" and text.casefold() in _MESSAGES:
            return text
        if text.startswith(("http://", "https://")):
            return text if text.endswith(".veeam.com/ent/v1.0") or "//www.w3.org/" in text else self._url(text)
        if _UUID.fullmatch(text):
            return self._uuid(text)
        return _URN.sub(self._urn, text) if _URN.fullmatch(text) else self._text(name, text)

    # --- documents ----------------------------------------------------------------------------------------------------

    def _value(self, name: str, content: Any) -> Any:
        if isinstance(content, dict):
            return {key: self._value(key, each) for key, each in content.items()}
        if isinstance(content, list):
            return [self._value(name, each) for each in content]
        return self.value(name, content) if isinstance(content, str) else content

    def _xml(self, text: str) -> str:
        element, parts = "", []
        for part in _TAG.split(text):
            if not part.startswith("<"):
                parts.append(html.escape(self.value(element, html.unescape(part)), quote=False))
            elif not part.startswith("<!"):
                element = part.strip("</?>").split(maxsplit=1)[0] if part.strip("</?>").split() else ""
                parts.append(_ATTRIBUTE.sub(self._attribute, part))
        return "".join(parts)

    def _attribute(self, found: re.Match[str]) -> str:
        name, sign, quoted = found.groups()
        if name.startswith("xmlns"):
            return found[0]
        value = self.value(name, html.unescape(quoted[1:-1]))
        return f'{name}{sign}"{html.escape(value)}"'

    # --- values -------------------------------------------------------------------------------------------------------

    def _segment(self, text: str) -> str:
        if _UUID.fullmatch(text):
            return self._uuid(text)
        return text if _PLAIN.fullmatch(text) or text.isalpha() or not text else self._text("id", text)

    def _url(self, text: str) -> str:
        parts = urlsplit(text)
        if parts.netloc.lower() == self._netloc:
            host = ASKED
        else:
            host = self._hosts.setdefault(parts.netloc.lower(), f"host-{len(self._hosts) + 1}.example")
            host = parts.netloc if self._keep_names else host
        query = "?" + _QUOTED.sub(self._quoted, unquote(parts.query)) if parts.query else ""
        return f"{parts.scheme}://{host}{self.path(parts.path)}{quote(query, safe='?&=')}"

    def _quoted(self, found: re.Match[str]) -> str:
        inner = self.value("name", found[1].replace('""', '"'))
        return '"' + inner.replace('"', '""') + '"'

    def _urn(self, found: re.Match[str]) -> str:
        return found[1] + self._uuid(found[2])

    def _uuid(self, text: str) -> str:
        if self._keep_names:
            return text
        return self._uuids.setdefault(text.lower(), f"00000000-0000-4000-8000-{len(self._uuids):012d}")

    def _text(self, name: str, text: str) -> str:
        if self._keep_names or text in self._texts:
            return self._texts.get(text, text)
        if (other := self._texts.get(text.swapcase())) is not None:
            return other.swapcase()  # the doctor asks for a name in the other case
        kind = "name" if name.endswith("name") else name or "text"
        # What decides whether the doctor can ask for a name is kept: letters, and quotes.
        number = len(self._texts) + 1
        made = f"{kind}-{number}" if text.swapcase() != text else str(1000 + number)
        return self._texts.setdefault(text, made + ('"' if '"' in text else ""))
