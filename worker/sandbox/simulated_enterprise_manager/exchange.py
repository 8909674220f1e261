"""A request to the simulated Enterprise Manager and its answer, and functions that read parts of a request."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from worker.sandbox.simulated_enterprise_manager.documents import error
from worker.sandbox.simulated_enterprise_manager.faults import Fault
from worker.sandbox.simulated_enterprise_manager.rendering import Element

SESSION_HEADER = "X-RestSvcSessionId"

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ACCESS_DENIED = "Access is denied."


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of an HTTP request that the simulation uses."""

    method: str
    #: The path below `/api`, decoded, without slashes at its ends.
    path: str
    query: Mapping[str, str]
    authorization: str | None
    cookie_token: str | None = field(repr=False)
    header_token: str | None = field(repr=False)
    body: bytes
    #: The URL of the API as the client addressed it. Links begin with it if `Behaviour.links_host` is None.
    api: str
    #: The injected fault for the edit that this request begins, if there is one.
    fault: Fault | None = None

    @property
    def token(self) -> str | None:
        """The token of the cookie, even if it is stale; else the header's (helpcenter, "HTTP Authentication")."""
        return self.header_token if self.cookie_token is None else self.cookie_token


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a document that is not rendered yet."""

    status: int
    document: Element | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusalError(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = Answer(status, error(status, message), headers or {})


@dataclass(frozen=True, slots=True)
class Account:
    """The account that may log on."""

    username: str
    password: str = field(repr=False)

    def matches(self, authorization: str | None) -> bool:
        """Whether an `Authorization` header has this account's credentials."""
        scheme, _, credentials = (authorization or "").partition(" ")
        try:
            given = base64.b64decode(credentials, validate=True)
        except (binascii.Error, ValueError):
            return False
        wanted = f"{self.username}:{self.password}".encode()
        return scheme.lower() == "basic" and hmac.compare_digest(given, wanted)


def unauthorized() -> RefusalError:
    """The refusal of a request without a valid session, or of a logon."""
    return RefusalError(401, "Unauthorized.", {"WWW-Authenticate": "Basic Realm=RestSvc"})


def as_entity(request: Request) -> bool:
    """Whether entities are asked for, not references."""
    return request.query.get("format", "").lower() == "entity"


def bare(text: str) -> str:
    """The ID from a path, in lower case. IDs in paths are bare UUIDs [doc].

    Raises:
        RefusalError: 400, it is no bare UUID.
    """
    if not _UUID.fullmatch(text):
        raise RefusalError(400, f"The ID [{quote(text)}] is ill-formed.")
    return text.lower()


def posted_uid(body: bytes, element: str, kind: str) -> str:
    """The bare UUID in that element of the body: the UID of a resource of that kind.

    Raises:
        RefusalError: 400, the body has no such element, or its text is no such UID.
    """
    prefix, _, uid = posted(body, element).rpartition(":")
    if prefix not in {"", f"urn:veeam:{kind}"}:
        raise RefusalError(400, f"{element} is no UID of a {kind}.")
    return bare(uid)


def posted(body: bytes, element: str) -> str:
    """The text of that element of the body, in XML or JSON.

    Raises:
        RefusalError: 400, the body cannot be read, or has no such element.
    """
    try:
        if body.lstrip().startswith(b"{"):
            fields: dict[str, Any] = json.loads(body)
            return next(str(value) for key, value in fields.items() if key.lower() == element.lower())
        root = defusedxml.ElementTree.fromstring(body)
        return next(each.text or "" for each in root.iter() if each.tag.rpartition("}")[2] == element).strip()
    except (ValueError, SyntaxError, DefusedXmlException, StopIteration):
        raise RefusalError(400, f"The request body must hold {element}.") from None
