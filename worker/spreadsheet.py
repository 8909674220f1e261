"""Lines and cells of CSV files that are opened in a spreadsheet, which takes some texts for formulas and runs them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Final

#: What a spreadsheet takes for a formula, if a cell begins with it (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - full-width ones too


def line_of(cells: Iterable[object]) -> str:
    """A line of a CSV file, which ends with a line feed.

    Before version 3.13, Python quotes only those line ends in a cell that are a part of `lineterminator`. Readers take
    a carriage return that is not quoted for the end of the line.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def as_cell(text: str) -> str:
    """The text; with an apostrophe before it if a spreadsheet would take it for a formula. `from_cell` removes it."""
    return f"'{text}" if _is_formula(text) else text


def from_cell(cell: str) -> str:
    """The text that `as_cell` made the cell of. Of a cell that was written otherwise, an apostrophe is kept."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    """Whether it would be a formula without the apostrophes before it: each of them is one that was added."""
    return text.lstrip("'").startswith(_FORMULA)
