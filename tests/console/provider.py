"""A small provider of OpenID Connect, in this process: everybody who comes is signed in at once."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT = "unlink-console"
SECRET = "secret-of-the-client"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@dataclass
class Provider:
    """The provider: `claims` replace those of the next tokens; `down` answers 500 to all."""

    url: str
    claims: dict[str, Any] = field(default_factory=dict)
    down: bool = False
    #: What the browser asked for, by the code that it was given.
    asked: dict[str, dict[str, str]] = field(default_factory=dict)

    def discovery(self) -> dict[str, Any]:
        """The discovery document."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
        }

    def token(self, form: dict[str, str], account: str | None) -> dict[str, Any] | None:
        """The answer of the token endpoint; None if the request is not as the specifications want it."""
        asked = self.asked.pop(form.get("code", ""), None)
        challenge = _base64url(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        expected = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if (
            asked is None
            or account != expected
            or asked["code_challenge_method"] != "S256"
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form["redirect_uri"]
            or form["grant_type"] != "authorization_code"
        ):
            return None
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "j.doe",
            "exp": time.time() + 300,
            "nonce": asked["nonce"],
            "roles": ["operate", "something-else"],
            **self.claims,
        }
        parts = [_base64url(json.dumps(each).encode()) for each in ({"alg": "RS256"}, claims)]
        return {"token_type": "Bearer", "access_token": "x", "id_token": ".".join([*parts, "signature"])}


@contextmanager
def provider() -> Iterator[Provider]:
    """Run it until the context ends."""

    class Endpoints(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if running.down:
                self._answer(500, {})
            elif parts.path == "/.well-known/openid-configuration":
                self._answer(200, running.discovery())
            else:
                asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                code = f"code-{len(running.asked)}-{time.monotonic_ns()}"
                running.asked[code] = asked
                self.send_response(303)
                self.send_header(
                    "Location", f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
                )
                self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[-1] for name, values in parse_qs(body).items()}
            token = running.token(form, self.headers.get("Authorization"))
            self._answer(400 if token is None else 200, token or {"error": "invalid_grant"})

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoints) as server:
        # Another site than the console's 127.0.0.1, as a provider is.
        running = Provider(f"http://localhost:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
