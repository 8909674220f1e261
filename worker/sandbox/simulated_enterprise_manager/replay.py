"""Answers requests from a recording that `unlink-worker doctor --assumptions --record` wrote, or that a person made.

The requests other than GET divide the recording into sections: each section begins with such a request. When a client
sends such a request, the replay moves forward to its next recorded occurrence. A GET is answered from the current
section. If the section has several answers to the same GET, they are given in their order, and the last one is repeated
from then on. A client that polls more or less often than the recorded one therefore sees the same course of events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: The host name in a recording that stands for the address that was asked.
ASKED = "asked.example"

_TOKEN = "replayed-session-"  # noqa: S105 - tokens of a replay guard nothing

_Key = tuple[str, frozenset[tuple[str, str]], int | str | None, str, bool]


class RecordingInvalidError(ValueError):
    """The file is not a recording."""


class RecordedExchange(BaseModel):
    """One exchange of a recording."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    path: str
    query: dict[str, str] = {}
    accept: Literal["xml", "json"] = "xml"
    gzip: bool = False
    #: The number of the session in which it was sent; "unknown" if its token was not from this server.
    session: int | Literal["unknown"] | None = None
    #: The number of the session that its answer begins.
    begins: int | None = None
    #: Seconds since the beginning.
    at: float = 0
    body: str | None = None
    status: int | None = None
    headers: dict[str, str] = {}
    #: The index of the answer's body.
    answer: int = 0
    #: Why there was no answer.
    lost: Literal["compressed", "no answer"] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    recording: Literal[1]
    exchanges: list[RecordedExchange] = Field(min_length=1)
    bodies: list[str]
    trial: dict[str, str] | None = None
    results: dict[str, str] = {}
    #: Where the recording comes from, for its readers.
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayedAnswer:
    """The recorded answer to one request. `lost` says why there is none."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    lost: str | None = None


@dataclass(slots=True)
class Replay:
    """A recording that is being replayed. Not thread-safe."""

    exchanges: list[RecordedExchange]
    bodies: list[str]
    #: The index of the exchange with which the current section begins; -1 before the first.
    _reached: int = -1
    #: Which answer of the current section each GET got last, counted from 0.
    _answered: dict[_Key, int] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path) -> Replay:
        """Read a recording.

        Raises:
            OSError: the file cannot be read.
            RecordingInvalidError: it is no recording.
        """
        try:
            content = _File.model_validate_json(file.read_bytes())
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise RecordingInvalidError(f"{file} is no recording: {where}: {problem['msg']}") from None
        if any(not 0 <= each.answer < len(content.bodies) for each in content.exchanges if each.lost is None):
            raise RecordingInvalidError(f"{file} is no recording: an exchange names a body that is not there")
        return cls(content.exchanges, content.bodies)

    def answer(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], netloc: str
    ) -> ReplayedAnswer:
        """The recorded answer to a request; 404 if there is none. `netloc` is the address that was asked."""
        token = headers.get("X-RestSvcSessionId")
        session = None if token is None else _session(token)
        accept = "json" if "json" in headers.get("Accept", "") else "xml"
        gzip = "gzip" in headers.get("Accept-Encoding", "")
        key: _Key = (f"{method} {path}", frozenset(query.items()), session, accept, gzip)
        found = self._read(key) if method == "GET" else self._move_on(key)
        if found is None:
            return _not_recorded(method, path)
        return self._answer(found, netloc)

    def _move_on(self, key: _Key) -> RecordedExchange | None:
        matches = self._matching(0, len(self.exchanges), key)
        later = [at for at in matches if at > self._reached]
        if later:
            self._reached = later[0]
            self._answered.clear()
        return self.exchanges[(later or matches[-1:])[0]] if matches else None

    def _read(self, key: _Key) -> RecordedExchange | None:
        start = self._reached + 1
        changing = (at for at in range(start, len(self.exchanges)) if self.exchanges[at].method != "GET")
        here = self._matching(start, next(changing, len(self.exchanges)), key)
        if here:
            number = self._answered[key] = self._answered.get(key, -1) + 1
            return self.exchanges[here[min(number, len(here) - 1)]]
        elsewhere = [*reversed(self._matching(0, start, key)), *self._matching(start, len(self.exchanges), key)]
        return self.exchanges[elsewhere[0]] if elsewhere else None

    def _matching(self, start: int, end: int, key: _Key) -> list[int]:
        """The exchanges of that request in this range; those in another format if there is none in the right one."""
        matches = [at for at in range(start, end) if _same(self.exchanges[at], key)]
        exact = [at for at in matches if (self.exchanges[at].accept, self.exchanges[at].gzip) == key[3:]]
        return exact or matches

    def _answer(self, exchange: RecordedExchange, netloc: str) -> ReplayedAnswer:
        headers = {name: value.replace(ASKED, netloc) for name, value in exchange.headers.items()}
        if exchange.lost is not None or exchange.status is None:
            return ReplayedAnswer(200, headers, b"", exchange.lost or "no answer")
        if exchange.begins is not None:
            headers["X-RestSvcSessionId"] = f"{_TOKEN}{exchange.begins}"
        body = self.bodies[exchange.answer].replace(ASKED, netloc)
        return ReplayedAnswer(exchange.status, headers, body.encode())


def _session(token: str) -> int | str:
    number = token.removeprefix(_TOKEN)
    return int(number) if token.startswith(_TOKEN) and number.isdigit() else "unknown"


def _same(exchange: RecordedExchange, key: _Key) -> bool:
    path, query, session, _, _ = key
    return (
        f"{exchange.method} {exchange.path}".casefold() == path.casefold()
        and frozenset(exchange.query.items()) == query
        and exchange.session == session
    )


def _not_recorded(method: str, path: str) -> ReplayedAnswer:
    document: dict[str, Any] = {
        "FirstChanceExceptionMessage": None,
        "Message": f"The recording has no {method} {path}",
        "StackTrace": None,
        "Status": None,
        "StatusCode": 404,
    }
    return ReplayedAnswer(404, {"Content-Type": "application/json"}, json.dumps(document).encode())
