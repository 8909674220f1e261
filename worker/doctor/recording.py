"""Records the exchanges with one Enterprise Manager, and writes them without what identifies it.

The file is JSON: `exchanges` in the order of their ends, each with the index of its answer's body in `bodies`. The
sandbox's simulated Enterprise Manager replays it.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worker.doctor.checks import Check
from worker.doctor.laboratory import LaboratoryLink
from worker.doctor.pseudonyms import Pseudonyms
from worker.enterprise_manager.logon import TOKEN_HEADER
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.transport import Answer, CompressedAnswerError, Request, Transport, TransportError
from worker.settings import EnterpriseManagerSettings

#: The version of the file's format.
FORMAT = 1

#: The headers of an answer that are recorded, and the texts that are kept. Any other text is replaced.
_HEADERS = {
    "Content-Type": re.compile(r"[a-z]+/[a-z.+-]+(; ?charset=[A-Za-z0-9-]+)?", re.IGNORECASE),
    "Location": None,
    "Retry-After": re.compile(r"[0-9]+|[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"),
}


@dataclass(frozen=True, slots=True)
class _Exchange:
    request: Request
    answer: Answer | None
    lost: str
    seconds: float


class Recording:
    """All exchanges of one examination. Thread-safe."""

    def __init__(self) -> None:
        self._exchanges: list[_Exchange] = []
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def add(self, request: Request, answer: Answer | None, lost: str = "") -> None:
        """Record one exchange. `lost` says why there is no answer."""
        with self._lock:
            self._exchanges.append(_Exchange(request, answer, lost, time.monotonic() - self._started))

    def write(
        self, file: Path, netloc: str, link: LaboratoryLink | None, checks: Iterable[Check], *, keep_names: bool
    ) -> int:
        """Write the recording without credentials and tokens, and its names replaced. Returns its length in characters.

        Args:
            file: a new file.
            netloc: host and port of the Enterprise Manager.
            link: the link of a trial, if there was one.
            checks: what was found, for the comparison with a replay.
            keep_names: whether names, addresses and IDs are kept.

        Raises:
            OSError: the file exists or cannot be written.
        """
        secrets = {secret for each in self._exchanges for secret in _secrets(each)}
        pseudonyms, bodies = Pseudonyms(netloc, keep_names=keep_names, secrets=secrets), dict[str, int]()
        sessions: dict[str, int] = {}
        exchanges = [self._written(each, pseudonyms, bodies, sessions) for each in self._exchanges]
        results = {check.assumption.value: check.result.value for check in checks}
        content: dict[str, Any] = {"recording": FORMAT, "results": results}
        if link is not None:
            names = (pseudonyms.value("name", link.job), pseudonyms.value("name", link.repository))
            content["trial"] = dict(zip(("job", "repository"), names, strict=True))
        content |= {"exchanges": exchanges, "bodies": list(bodies)}
        text = json.dumps(content, indent=1)
        with file.open("x", encoding="utf-8") as written:
            return written.write(text + "\n")

    def _written(
        self, exchange: _Exchange, pseudonyms: Pseudonyms, bodies: dict[str, int], sessions: dict[str, int]
    ) -> dict[str, Any]:
        request, answer = exchange.request, exchange.answer
        token = request.headers.get(TOKEN_HEADER)
        written: dict[str, Any] = {
            "method": request.method,
            "path": pseudonyms.path(request.path),
            "query": pseudonyms.query(dict(request.query)),
            "accept": "json" if "json" in request.headers["Accept"] else "xml",
            "session": sessions.get(token, "unknown") if token is not None else None,
            "at": round(exchange.seconds, 3),
        }
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            written["gzip"] = True
        if request.body:
            written["body"] = pseudonyms.body(request.body)
        if answer is None:
            return written | {"lost": exchange.lost}
        if (token := answer.headers.get(TOKEN_HEADER)) is not None:
            written["begins"] = sessions.setdefault(token, len(sessions) + 1)
        body = pseudonyms.body(answer.body)
        headers = {
            name: text if (known := _HEADERS[name]) and known.fullmatch(text) else pseudonyms.value(name, text)
            for name in _HEADERS
            if (text := answer.headers.get(name)) is not None
        }
        return written | {"status": answer.status, "headers": headers, "answer": bodies.setdefault(body, len(bodies))}


def _secrets(exchange: _Exchange) -> Iterator[str]:
    """The credentials and the token in the headers of an exchange."""
    headers = exchange.request.headers
    credentials = headers.get("Authorization", "").partition(" ")[2]
    yield credentials
    yield base64.b64decode(credentials).decode("utf-8", "replace").partition(":")[2]
    yield headers.get(TOKEN_HEADER, "")
    if exchange.answer is not None:
        yield exchange.answer.headers.get(TOKEN_HEADER, "")


class RecordingTransport(Transport):
    """A transport that records each exchange."""

    def __init__(self, settings: EnterpriseManagerSettings, remedies: Remedies, recording: Recording) -> None:
        super().__init__(settings, remedies)
        self._recording = recording
        self._accepted = {"Accept": self._accept}

    def exchange(self, request: Request) -> Answer:
        """As `Transport.exchange`."""
        recorded = replace(request, headers={**self._accepted, **request.headers})
        try:
            answer = super().exchange(request)
        except TransportError as error:
            lost = "compressed" if isinstance(error, CompressedAnswerError) else "no answer"
            self._recording.add(recorded, None, lost)
            raise
        self._recording.add(recorded, answer)
        return answer


def netloc_of(settings: EnterpriseManagerSettings) -> str:
    """Host and port of an Enterprise Manager."""
    return urlsplit(settings.url).netloc
