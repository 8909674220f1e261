"""Removes secrets from text for others: log lines, events, probes."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: What stands in the place of a secret.
REDACTED = "[redacted]"

_IN_A_URL = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]*(?=@)")

#: Shorter secrets are replaced only as whole words.
_SHORT = 6


class Redaction:
    """Replaces known secrets, and user and password in URLs."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first, so that a secret that contains another is replaced as a whole.
        longest_first = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(_pattern, longest_first))) if longest_first else None

    def clean(self, text: str) -> str:
        """The text without them."""
        if self._secrets is not None:
            text = self._secrets.sub(REDACTED, text)
        return _IN_A_URL.sub(REDACTED, text) if "://" in text else text


def _pattern(secret: str) -> str:
    """A pattern for the secret. A short one matches only whole words: it may occur inside many other words."""
    escaped = re.escape(secret)
    return escaped if len(secret) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
