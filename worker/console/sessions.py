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
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.console.users import Role

if TYPE_CHECKING:
    from worker.console.users import User, Users
    from worker.settings import ConsoleProgramSettings

#: How long a session lasts: with a password, and by OpenID Connect, whose provider is then asked again.
SESSION_SECONDS: Final = 8 * 60 * 60
PROVIDED_SECONDS: Final = 60 * 60
#: How long a browser is known in which a user has signed in with their password.
KNOWN_SECONDS: Final = 90 * 24 * 60 * 60
KNOWN: Final = "unlink-known"

_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class Session:
    """A valid session. Each of its forms must send `csrf`."""

    name: str
    role: Role
    csrf: str


class Sessions:
    """Makes and reads the cookie. With `secure`, browsers send it only over HTTPS and only to this host."""

    def __init__(self, settings: ConsoleProgramSettings, users: Users, *, secure: bool) -> None:
        urls = [settings.ledger.url, *([settings.broker.url] if settings.broker is not None else [])]
        shared = "\0".join(secret.get_secret_value() for secret in urls)
        self._key = hashlib.sha256(shared.encode()).digest()
        oidc = settings.console.oidc
        # Without a provider, a random key: no such session is valid.
        account = secrets.token_hex() if oidc is None else f"{oidc.issuer} {oidc.client_secret.get_secret_value()}"
        self._provided_key = hmac.digest(self._key, f"oidc:{account}".encode(), "sha256")
        self._users = users
        self._secure = secure
        self.cookie = "__Host-unlink-session" if secure else "unlink-session"

    def begin(self, user: User) -> str:
        """The header `Set-Cookie` of a new session."""
        claims = json.dumps([user.name, int(time.time()) + SESSION_SECONDS]).encode()
        text = base64.urlsafe_b64encode(claims).decode().rstrip("=")
        return self._header(f"{text}.{_sign(self._key_of(user), 'session', text)}", SESSION_SECONDS)

    def begin_provided(self, name: str, role: Role) -> str:
        """The header for a user who signed in by OpenID Connect. The session keeps the role until it ends."""
        claims = json.dumps([name, int(time.time()) + PROVIDED_SECONDS, role.value]).encode()
        text = base64.urlsafe_b64encode(claims).decode().rstrip("=")
        return self._header(f"{text}.{_sign(self._provided_key, 'session', text)}", PROVIDED_SECONDS)

    def know(self, user: User) -> str:
        """The header `Set-Cookie` that marks this browser as one of the user's. It is no session."""
        text = secrets.token_hex(16)
        value = f"{text}.{_sign(self._key_of(user), f'known:{user.name}', text)}"
        return self._header(value, KNOWN_SECONDS, name=KNOWN, path="/login")

    def known(self, value: str | None, name: str) -> str | None:
        """The mark of a browser, if it is one of this user's."""
        text, _, signature = (value or "").partition(".")
        user = self._users.named(name)
        if user is None or user.password_argon2 is None:
            return None
        expected = _sign(self._key_of(user), f"known:{name}", text)
        return text if hmac.compare_digest(signature.encode(), expected.encode()) else None

    def end(self) -> str:
        """The header `Set-Cookie` that removes it."""
        return self._header("", 0)

    def read(self, value: str) -> Session | None:
        """The session; None if it has ended, if its user does not exist any more, or if its signature is wrong."""
        text, _, signature = value.partition(".")
        if len(value) > _LONGEST:
            return None
        try:
            claims = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            name, ends, *provided = claims
            user = self._users.named(name) if isinstance(name, str) else None
            role = Role(provided[0]) if provided else None
        except (ValueError, TypeError, RecursionError):
            return None
        if not isinstance(name, str) or not isinstance(ends, int):
            return None
        if role is not None:
            key: bytes | None = None if user is not None else self._provided_key
        else:
            key = None if user is None or user.password_argon2 is None else self._key_of(user)
            role = None if user is None else user.role
        if (
            key is None
            or role is None
            or not hmac.compare_digest(signature.encode(), _sign(key, "session", text).encode())
        ):
            return None
        return Session(name, role, _sign(key, "csrf", text)) if time.time() < ends else None

    def _key_of(self, user: User) -> bytes:
        return hmac.digest(self._key, (user.password_argon2 or "").encode(), "sha256")

    def _header(self, value: str, seconds: int, *, name: str | None = None, path: str = "/") -> str:
        secure = "; Secure" if self._secure else ""
        return f"{name or self.cookie}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def _sign(key: bytes, purpose: str, text: str) -> str:
    return hmac.new(key, f"{purpose}:{text}".encode(), "sha256").hexdigest()
