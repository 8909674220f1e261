"""An HTTP server of a few lines, for as long as a context lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from worker.sandbox.processes.free_ports import LOOPBACK


class Request(BaseHTTPRequestHandler):
    """A request that is to be answered: `command` (the method), `path` and `headers` are the library's."""

    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        """What was sent."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, status: int, content: bytes = b"", content_type: str = "text/html") -> None:
        """Answer it."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output for the tests."""


@contextmanager
def serving(respond: Callable[[Request], None]) -> Iterator[str]:
    """Serve on a free loopback port; the URL, without a path."""
    handler = type("Handler", (Request,), dict.fromkeys(("do_GET", "do_POST", "do_PATCH"), respond))
    with ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
