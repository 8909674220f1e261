"""Lines of CSV files that a spreadsheet, or a program, reads."""

from __future__ import annotations

import csv
import io

import pytest

from worker.spreadsheet import line_of


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\nb", 'a",b', "\r", "Zürich"])
def test_a_text_stays_in_its_cell(text: str) -> None:
    """A carriage return ends a line for most readers of CSV: the rest of the text would be a line of its own."""
    line = line_of([text, "next"])
    assert line.endswith("next\n")
    assert list(csv.reader(io.StringIO(line, newline=""))) == [[text, "next"]]
