"""The session of a person: a signed cookie, stored only in the browser.

The console stores no sessions, so several consoles can serve the same session. The key of the signature is derived from
what all of them know: the URLs of ledger and broker, with their passwords, and the hash of the user's password. A new
password, or the removal of the user, ends the session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from worker.console.users import User, Users
    from worker.settings import ConsoleProgramSettings

#: How long a session lasts.
SESSION_SECONDS: Final = 8 * 60 * 60

_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """A valid session. Each of its forms must send `csrf`."""

    user: User
    csrf: str


class Sessions:
    """Makes and reads the cookie. With `secure`, browsers send it only over HTTPS and only to this host."""

    def __init__(self, settings: ConsoleProgramSettings, users: Users, *, secure: bool) -> None:
        secrets = [settings.ledger.url, *([settings.broker.url] if settings.broker is not None else [])]
        shared = "\0".join(secret.get_secret_value() for secret in secrets)
        self._key = hashlib.sha256(shared.encode()).digest()
        self._users = users
        self._secure = secure
        self.cookie = "__Host-unlink-session" if secure else "unlink-session"

    def begin(self, user: User) -> str:
        """The header `Set-Cookie` of a new session."""
        claims = json.dumps([user.name, int(time.time()) + SESSION_SECONDS]).encode()
        text = base64.urlsafe_b64encode(claims).decode().rstrip("=")
        return self._header(f"{text}.{self._sign(user, 'session', text)}", SESSION_SECONDS)

    def end(self) -> str:
        """The header `Set-Cookie` that removes it."""
        return self._header("", 0)

    def read(self, value: str) -> Session | None:
        """The session; None if it has ended, if its user does not exist any more, or if its signature is wrong."""
        text, _, signature = value.partition(".")
        if len(value) > _LONGEST:
            return None
        try:
            name, ends = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            user = self._users.named(name) if isinstance(name, str) else None
        except (ValueError, TypeError, RecursionError):
            return None
        if user is None or user.password_argon2 is None or not isinstance(ends, int):
            return None
        if not hmac.compare_digest(signature.encode(), self._sign(user, "session", text).encode()):
            return None
        return Session(user, self._sign(user, "csrf", text)) if time.time() < ends else None

    def _sign(self, user: User, purpose: str, text: str) -> str:
        key = hmac.digest(self._key, (user.password_argon2 or "").encode(), "sha256")
        return hmac.new(key, f"{purpose}:{text}".encode(), "sha256").hexdigest()

    def _header(self, value: str, seconds: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{self.cookie}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
