"""A module that grows is split, or says why it is not."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MOST_LINES = 400

#: How the docstring of a longer module begins its reason.
REASON = f"More than {MOST_LINES} lines:"


def test_a_longer_module_names_its_reason() -> None:
    """A reader can hold a module of some hundred lines in mind; a longer one hides what it does."""
    long = [
        str(path.relative_to(ROOT))
        for folder in ("contracts", "worker", "tests", ".ci")
        for path in (ROOT / folder).rglob("*.py")
        if len((text := path.read_text()).splitlines()) > MOST_LINES
        and REASON not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert long == []
