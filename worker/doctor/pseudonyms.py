"""Replaces what identifies an installation in requests and documents by pseudonyms: the same for the same value.

Only what is known to be harmless is kept: the structure, field names, the words of the API (types, states, resources,
parameters), numbers and truth values. What nobody thought of is therefore replaced or left out, not published.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, unquote_plus, urlsplit

#: The UUID and the names with which the doctor asks for what does not exist. They are kept.
NOBODY = "6e6f626f-6479-4000-8000-6e6f626f6479"
NO_NAME = 'unlink"worker'
UNUSED_NAME = "unlink-worker"

#: The host name that replaces the address of the server in a recording. A replay replaces it by its own address.
ASKED = "asked.example"

#: A secret of at least this length is searched for inside of values.
_LONG = 6

_MARK = "\ufeff"
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'

#: The fields that hold words of the API. Their values are kept if they are single words.
_HARMLESS = frozenset({"rel", "type", "state", "operation", "jobtype", "platform", "kind", "nil"})

#: The messages that are kept: those of successful tasks.
_MESSAGES = frozenset({"ok", "operationfinished", "running"})

#: The namespaces that are kept.
_NAMESPACES = ("http://www.veeam.com/ent/v1.0", "http://www.w3.org/2001/XMLSchema")

#: The resources of the API (vendor, "REST API Reference"), as they stand in paths.
_RESOURCES = re.compile(
    "api|agents|backupFiles|backups|backupServers|backupSessions|backupTaskSessions|catalog|cloud|failoverPlans|"
    "fileServers|hierarchyRoots|includes|jobs|linkedBackupRepositories|linkedJobs|logonSessions|lookupSvc|"
    "managedServers|nas|query|querySvc|replicas|replicaSessions|replicaTaskSessions|reports|repositories|"
    "restorePoints|restoreSessions|security|sessionMngr|summary|tasks|taskSessions|vAppRestorePoints|vCloud|vms|"
    "vmReplicaPoints|vmRestorePoints|wanAccelerators",
    re.IGNORECASE,
)

#: The parameters of queries whose values are words of the API, and the properties that a filter compares.
_PARAMETERS = frozenset({"format", "type", "pagesize", "page", "v", "action", "sortasc", "sortdesc"})
_PROPERTIES = re.compile(
    "BackupServerName|CreationTime|EndTime|JobName|JobType|JobUid|Kind|Name|Operation|Platform|Result|State|TaskId|UID",
    re.IGNORECASE,
)

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_URN = re.compile(rf"(urn:veeam:[A-Za-z]+:)({_UUID.pattern})")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
#: A name of a field, of an element or of an attribute.
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?::[A-Za-z_][A-Za-z0-9_]*)?")
#: Values that are kept: those of names (of versions and tasks), and those of other fields.
_PLAIN_NAME = re.compile(r"task-[0-9]+|v[0-9]+_[0-9]+")
_PLAIN = re.compile(rf"-?[0-9]+(?:\.[0-9]+)?|true|false|{_PLAIN_NAME.pattern}", re.IGNORECASE)
_QUOTED = r"""(?:"[^"]*"|'[^']*')"""
_TAG = re.compile(
    rf"(<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|<[!?/]?[A-Za-z_](?:[^<>\"']|{_QUOTED})*+>)", re.DOTALL
)
_ELEMENT = re.compile(r"<(/?)([^\s/>]+)(.*?)(\s?/?)>", re.DOTALL)
_ATTRIBUTE = re.compile(rf"([\w:.-]+)\s*=\s*({_QUOTED})")
_COMPARISON = re.compile(r'([A-Za-z]+)(\s*(?:==|!=|>=|<=|>|<)\s*)("(?:[^"]|"")*"|[^;,()"<>=!]+)')


class Pseudonyms:
    """The pseudonyms of one recording.

    Args:
        netloc: host and port of the Enterprise Manager that is asked.
        keep_names: whether names, messages, addresses and IDs are kept. IDs of logon sessions are replaced even then.
        secrets: a value that contains one of these is always replaced; that of a few characters, if it is all of it.
    """

    def __init__(self, netloc: str, *, keep_names: bool = False, secrets: Iterable[str] = ()) -> None:
        self._netloc = netloc.lower()
        self._keep_names = keep_names
        self._secrets = tuple(filter(None, secrets))
        self._uuids: dict[str, str] = {NOBODY: NOBODY}
        self._hosts: dict[str, str] = {}
        self._texts: dict[str, str] = {NO_NAME: NO_NAME, UNUSED_NAME: UNUSED_NAME}

    def path(self, path: str) -> str:
        """A path, whose segments are names of resources or IDs."""
        segments, before = [], ""
        for part in path.split("/"):
            segments.append(quote(self._segment(unquote(part), before), safe="=?&:", errors="replace"))
            before = part.casefold()
        return "/".join(segments)

    def query(self, query: dict[str, str]) -> dict[str, str]:
        """The parameters of a query."""
        return {self._word("parameter", name): self._parameter(name, value) for name, value in query.items()}

    def body(self, body: bytes) -> str:
        """A document as text; what is neither JSON nor XML is left out."""
        text = body.decode("utf-8", "replace")
        mark, content = (_MARK, text[1:]) if text.startswith(_MARK) else ("", text)
        if content.lstrip().startswith(("{", "[")):
            try:
                return mark + json.dumps(self._value("", json.loads(content)), ensure_ascii=False)
            except (ValueError, RecursionError):
                return mark + "{"
        if content.lstrip().startswith("<"):
            return mark + self._xml(content)
        return mark

    def value(self, name: str, text: str) -> str:
        """The text of a field."""
        name = name.rpartition(":")[2].casefold()
        if self._is_secret(name, text):
            return self._uuid(text, always=True) if _UUID.fullmatch(text) else self._text(name, text, always=True)
        if not text.strip() or self._is_harmless(name, text):
            return text
        if text.casefold().startswith(("http://", "https://")):
            return self._url(text)
        if name in {"href", "location"} and text.startswith("/") and not text.startswith("//"):
            return self._path_and_query(*text.partition("?")[::2])
        if _UUID.fullmatch(text):
            return self._uuid(text)
        return _URN.sub(self._urn, text) if _URN.fullmatch(text) else self._text(name, text)

    def _is_secret(self, name: str, text: str) -> bool:
        if not text or name == "sessionid":
            return bool(text)
        return any(text == each or (len(each) >= _LONG and each in text) for each in self._secrets)

    def _is_harmless(self, name: str, text: str) -> bool:
        if name in _HARMLESS and _WORD.fullmatch(text.strip()):
            return True
        if name == "message" and text.casefold() in _MESSAGES:
            return True
        plain = _PLAIN_NAME if name.endswith(("name", "description", "message")) else _PLAIN
        return plain.fullmatch(text.strip()) is not None

    # --- documents ----------------------------------------------------------------------------------------------------

    def _value(self, name: str, content: Any) -> Any:
        if isinstance(content, dict):
            return {self._field(key): self._value(key, each) for key, each in content.items()}
        if isinstance(content, list):
            return [self._value(name, each) for each in content]
        return self.value(name, content) if isinstance(content, str) else content

    def _field(self, name: str) -> str:
        return name if self._keep_names or _FIELD.fullmatch(name) else self.value("fieldname", name)

    def _xml(self, text: str) -> str:
        element, parts = "", []
        for part in _TAG.split(text):
            if not part.startswith("<") or not part.endswith(">"):
                parts.append(html.escape(self.value(element, html.unescape(part)), quote=False))
                continue
            element = ""
            if part.startswith("<?xml "):
                parts.append(_DECLARATION)
            elif (found := _ELEMENT.fullmatch(part)) is not None and not found[2].startswith(("!", "?")):
                name = found[2] if self._keep_names or _FIELD.fullmatch(found[2]) else "unnamed"
                attributes = "".join(map(self._attribute, _ATTRIBUTE.finditer(found[3])))
                parts.append(f"<{found[1]}{name}{attributes}{found[4]}>")
                element = "" if found[1] or found[4].strip() else name
        return "".join(parts)

    def _attribute(self, found: re.Match[str]) -> str:
        name, value = found[1], html.unescape(found[2][1:-1])
        if not _FIELD.fullmatch(name):
            return ""
        if not (name.partition(":")[0] == "xmlns" and value.startswith(_NAMESPACES) and value.isascii()):
            value = self.value(name, value)
        return f' {name}="{html.escape(value)}"'

    # --- values -------------------------------------------------------------------------------------------------------

    def _segment(self, text: str, before: str) -> str:
        if self._is_secret("sessionid" if before == "logonsessions" else "", text):
            return self.value("sessionid", text)
        if _UUID.fullmatch(text):
            return self._uuid(text)
        known = not text or _RESOURCES.fullmatch(text) or _PLAIN.fullmatch(text)
        return text if known else self._text("id", text)

    def _url(self, text: str) -> str:
        if text in _NAMESPACES:
            return text
        try:
            parts = urlsplit(text)
        except ValueError:
            return self._text("url", text, always=True)
        netloc = parts.netloc.rpartition("@")[2]
        if netloc.lower() == self._netloc:
            host = ASKED
        else:
            host = self._hosts.setdefault(netloc.lower(), f"host-{len(self._hosts) + 1}.example")
            host = netloc if self._keep_names else host
        return f"{parts.scheme}://{host}{self._path_and_query(parts.path, parts.query)}"

    def _path_and_query(self, path: str, query: str) -> str:
        parameters = []
        for each in query.split("&") if query else ():
            name, sign, value = each.partition("=")
            name = unquote_plus(name)
            written = quote(self._parameter(name, unquote_plus(value)), safe="", errors="replace")
            parameters.append(quote(self._word("parameter", name), errors="replace") + sign + written)
        return self.path(path) + ("?" + "&".join(parameters) if parameters else "")

    def _parameter(self, name: str, value: str) -> str:
        name = name.casefold()
        if name == "filter":
            return self._filter(value)
        if name in _PARAMETERS and (_WORD.fullmatch(value) or _PLAIN.fullmatch(value)):
            return value
        return self.value("name", value)

    def _word(self, kind: str, text: str) -> str:
        return text if text.casefold() in {*_PARAMETERS, "filter"} else self._text(kind, text)

    def _filter(self, text: str) -> str:
        known = all(_PROPERTIES.fullmatch(found[1]) for found in _COMPARISON.finditer(text))
        if _COMPARISON.sub("", text).strip(" ;,()") or not known:
            return self._text("filter", text)
        return _COMPARISON.sub(self._compared, text)

    def _compared(self, found: re.Match[str]) -> str:
        name, sign, operand = found.groups()
        if not operand.startswith('"'):
            return name + sign + self.value(name, operand)
        inner = self.value(name, operand[1:-1].replace('""', '"'))
        return f'{name}{sign}"' + inner.replace('"', '""') + '"'

    def _urn(self, found: re.Match[str]) -> str:
        return found[1] + self._uuid(found[2])

    def _uuid(self, text: str, *, always: bool = False) -> str:
        if self._keep_names and not always and text.lower() not in self._uuids:
            return text
        return self._uuids.setdefault(text.lower(), f"00000000-0000-4000-8000-{len(self._uuids):012d}")

    def _text(self, name: str, text: str, *, always: bool = False) -> str:
        if text in self._texts:
            return self._texts[text]
        if self._keep_names and not always:
            return text
        if (other := self._texts.get(text.swapcase())) is not None:
            return other.swapcase()  # the doctor asks for a name in the other case
        kind = "name" if name.endswith("name") else name if _WORD.fullmatch(name) else "text"
        # What decides whether the doctor can ask for a name is kept: letters, and quotes.
        number = len(self._texts) + 1
        made = f"{kind}-{number}" if text.swapcase() != text else str(1000 + number)
        return self._texts.setdefault(text, made + ('"' if '"' in text else ""))
