"""A ticketing system for the sandbox: it stores what consumers of events write into tickets, and returns it.

`PATCH /tickets/ID` with a JSON object changes a ticket, or creates it. `GET /tickets/ID` returns it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from worker.sandbox.processes.free_ports import LOOPBACK

_PREFIX = "/tickets/"


@contextmanager
def ticketing_system() -> Iterator[str]:
    """Run a ticketing system until the context ends; yields the URL of its API, on the loopback address."""
    with _Server((LOOPBACK, 0), _Api) as server:
        thread = threading.Thread(target=server.serve_forever, name="ticketing-system", daemon=True)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], api: type[_Api]) -> None:
        super().__init__(address, api)
        self.tickets: dict[str, dict[str, Any]] = {}


class _Api(BaseHTTPRequestHandler):
    timeout = 30
    server: _Server

    def do_PATCH(self) -> None:
        try:
            changes = dict(json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0")))))
        except (ValueError, TypeError):
            self._answer(400, {"error": "a JSON object is needed"})
            return
        ticket = self.server.tickets.setdefault(self._id(), {"id": self._id()})
        ticket.update(changes)
        self._answer(200, ticket)

    def do_GET(self) -> None:
        ticket = self.server.tickets.get(self._id())
        if ticket is None:
            self._answer(404, {"error": f"there is no ticket {self._id()}"})
        else:
            self._answer(200, ticket)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing: the sandbox prints on the same terminal."""

    def _id(self) -> str:
        return self.path.removeprefix(_PREFIX)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
