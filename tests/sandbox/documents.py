"""What a reader of a Markdown file can type or copy: commands, and blocks of code in other languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Inline code that is a whole command.
_INLINE = re.compile(r"`((?:unlink-worker|make) [^`]+)`")
_FENCE = re.compile(r"```(\w*)$")
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Block:
    """Something to type (`language` is `sh`) or to copy, as it is written."""

    language: str
    text: str

    @property
    def command(self) -> str:
        """A command without the comment that follows it."""
        return re.sub(r"\s+# .*$", "", self.text)


def blocks_of(markdown: str) -> Iterator[Block]:
    """Each fenced block, and each command of indented blocks and inline code, in the order of the text."""
    lines = iter(markdown.splitlines())
    for line in lines:
        if fence := _FENCE.match(line):
            yield Block(fence[1], "\n".join(iter(lambda: next(lines), "```")))
        elif line.startswith(_INDENT):
            while line.endswith("\\"):
                line += "\n" + next(lines)  # noqa: PLW2901 - the command goes on
            yield Block("sh", "\n".join(part.removeprefix(_INDENT) for part in line.splitlines()))
        else:
            yield from (Block("sh", command) for command in _INLINE.findall(line))
