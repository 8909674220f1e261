"""Charts as SVG, drawn on the server, without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from markupsafe import Markup, escape

from contracts.events import Outcome

_BAR: Final = 18
_GAP: Final = 6
_HEIGHT: Final = 96

#: The outcomes in a bar, from the bottom to the top.
_ORDER: Final = (Outcome.SUCCEEDED, Outcome.CANCELLED, Outcome.TIMED_OUT, Outcome.FAILED)


def stacked_bars(ended: Mapping[str, Sequence[int]], hours: int) -> Markup:
    """How unlinks ended, one bar for each hour, the newest at the right. The page shows the sums as text above it."""
    totals = [sum(counts[hour] for counts in ended.values()) for hour in range(hours)]
    highest = max([*totals, 1])
    width = hours * (_BAR + _GAP) - _GAP
    parts = [f'<line class="axis" x1="0" y1="{_HEIGHT}" x2="{width}" y2="{_HEIGHT}"/>']
    for hour in range(hours):
        top = float(_HEIGHT)
        x = hour * (_BAR + _GAP)
        ago = hours - 1 - hour
        counted = ", ".join(f"{counts[hour]} {outcome}" for outcome, counts in sorted(ended.items()) if counts[hour])
        parts.append(f"<g><title>{escape(_when(ago))}: {escape(counted or 'none')}</title>")
        parts.append(f'<rect class="slot" x="{x}" y="0" width="{_BAR}" height="{_HEIGHT}"/>')
        for outcome in _ORDER:
            count = ended.get(outcome, [0] * hours)[hour]
            if count:
                height = max(count / highest * (_HEIGHT - 4), 2)
                top -= height
                parts.append(f'<rect class="{outcome}" x="{x}" y="{top:.1f}" width="{_BAR}" height="{height:.1f}"/>')
        parts.append("</g>")
    label = f"Unlinks ended in the last {hours} hours, a bar an hour"
    return Markup(  # noqa: S704 - made of numbers and of what is escaped above
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {width} {_HEIGHT + 1}" '
        f'preserveAspectRatio="none">{"".join(parts)}</svg>'
    )


def _when(hours_ago: int) -> str:
    return "within the last hour" if hours_ago == 0 else f"{hours_ago} to {hours_ago + 1} hours ago"
