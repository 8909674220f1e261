"""The report of a run: one HTML file without anything from outside, its plots as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tests.benchmarks.figures import Figure

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 260, 60, 40
_COLOURS = ("#1f6feb", "#bf3989", "#1a7f37")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Benchmarks of the unlink worker</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;margin:2em;max-width:70em}}table{{border-collapse:collapse}}
td,th{{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}}td:first-child,th:first-child{{text-align:left}}
.missed{{color:#cf222e}}.met{{color:#1a7f37}}figure{{display:inline-block;margin:1em 1em 1em 0}}</style></head>
<body><h1>Benchmarks of the unlink worker</h1><p>Measured on {machine}.</p>
<table><tr><th>figure</th><th>measured</th><th>goal</th><th>of the floor</th><th></th></tr>{rows}</table>
{plots}</body></html>
"""


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines by name, each through its points; the axes begin at zero."""

    title: str
    x: str
    y: str
    lines: dict[str, Sequence[tuple[float, float]]]

    def svg(self) -> str:
        """The plot."""
        points = [point for line in self.lines.values() for point in line]
        most_x, most_y = (max(point[axis] for point in points) * 1.05 or 1 for axis in (0, 1))
        right, top = _WIDTH - 15, 30
        parts = [
            f'<text x="{_WIDTH / 2}" y="18" text-anchor="middle" font-weight="bold">{escape(self.title)}</text>',
            f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(self.x)}</text>',
            f'<text transform="translate(12,{_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(self.y)}</text>',
        ]

        def place(x: float, y: float) -> tuple[float, float]:
            across = _LEFT + x / most_x * (right - _LEFT)
            return round(across, 1), round(_HEIGHT - _BOTTOM - y / most_y * (_HEIGHT - _BOTTOM - top), 1)

        for step in range(5):
            (x, _), (_, y) = place(most_x * step / 4, 0), place(0, most_y * step / 4)
            parts += [
                f'<line x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>',
                f'<text x="{_LEFT - 4}" y="{y + 4}" text-anchor="end">{most_y * step / 4:.3g}</text>',
                f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{most_x * step / 4:.3g}</text>',
            ]
        for number, (name, line) in enumerate(self.lines.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in line))
            parts += [
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
                f'<text x="{right}" y="{top + 14 * number}" fill="{colour}" text-anchor="end">{escape(name)}</text>',
            ]
        return (
            f'<figure><svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
            f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg></figure>'
        )


def write(file: Path, machine: str, figures: Sequence[Figure], plots: Sequence[Plot]) -> None:
    """Write the report."""
    rows = "".join(
        f"<tr><td>{escape(figure.name)}</td>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in figure.cells)
        + f'<td class="{figure.rating}">{figure.rating}</td></tr>'
        for figure in figures
    )
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        _PAGE.format(machine=escape(machine), rows=rows, plots="".join(plot.svg() for plot in plots)), encoding="utf-8"
    )
