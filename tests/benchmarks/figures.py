"""A measured figure, its goal, and the table of all of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure. `of_floor` is its ratio to the floor of the same run; `goal` the most, or with `at_least` the least."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    of_floor: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is met, if there is one."""
        return self.goal is None or (self.value >= self.goal if self.at_least else self.value <= self.goal)

    @property
    def rating(self) -> str:
        """`met` or `missed`; empty where there is no goal."""
        return "" if self.goal is None else "met" if self.met else "missed"

    @property
    def cells(self) -> tuple[str, str, str]:
        """Value, goal and ratio as texts."""
        goal = "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {_text(self.goal)} {self.unit}"
        return f"{_text(self.value)} {self.unit}", goal, "" if self.of_floor is None else f"{self.of_floor:.2f}"


def table_of(figures: Iterable[Figure], title: str) -> Table:
    """The table: figure, value, goal, ratio to the floor."""
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("figure", no_wrap=True)
    for column in ("measured", "goal", "of the floor", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(figure.name, *figure.cells, figure.rating)
    return table


def machine() -> str:
    """What it was measured on."""
    models = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.processor()
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}, load {load:.1f}"
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _text(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
