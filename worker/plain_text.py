"""Text of others as it is shown to people: characters that would change the text around them are written out."""

from __future__ import annotations

import re

#: Control characters but for tab and line feed, and those that set the direction of writing or end a line.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""The text, with such characters as `\u202e`: they would move a name, or clear the reader's terminal."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
