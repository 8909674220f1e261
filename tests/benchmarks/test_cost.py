"""What an unlink costs must not grow unnoticed: counted, so that a busy machine does not matter."""

from __future__ import annotations

import pytest

from tests.benchmarks import counting
from tests.benchmarks.parts import Parts


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_unlink_costs_no_more_than_a_fifth_above_what_was_counted_before() -> None:
    """Else each change would add a little CPU time, and in a year an unlink would cost twice as much."""
    with Parts() as parts:
        counted = counting.count(parts)
    most = ", ".join(f"{calls:.0f} {name}" for name, calls in counted.by_function.most_common(10))
    for figure in counting.figures(counted):
        assert figure.met, f"{figure.name}: {figure.value:.1f}, at most {figure.goal:.1f}. Most calls: {most}"
