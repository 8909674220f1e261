"""What makes a trial fail, beside the reckoning: an operator's help, a hold that is not kept, what nobody foresaw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.deployment import HOLD_SECONDS
from tests.chaos.fallible_worker import Hold
from tests.chaos.gauges import Course
from tests.chaos.reckoning import Books, reckon
from tests.chaos.trial import HOLD_MARGIN_SECONDS, Options, Result


@pytest.fixture
def result() -> Result:
    """A trial in which nothing was commanded, and no promise broken."""
    return Result(
        options=Options(seed=1, unlinks=0, workers=1, minutes=1),
        tally=reckon(Books({}, [], [], {}, frozenset(), {})),
        strikes={},
        published=0,
        put_back=0,
        orphaned=0,
        warnings={},
        unforeseen={"unlink.attempt_failed: can't start new thread": 3},
        courses={"threads": Course(20, 20)},
        longest_hold=HOLD_SECONDS + HOLD_MARGIN_SECONDS,
        settled_seconds=7.0,
        seconds=90.0,
    )


def test_a_trial_without_fault_is_clean(result: Result) -> None:
    """A false alarm would send people looking for what is not there."""
    assert result.clean


@pytest.mark.parametrize(
    "changes",
    [
        {"orphaned": 1},
        {"longest_hold": HOLD_SECONDS + HOLD_MARGIN_SECONDS + 0.1},
        {"unforeseen": {"unlink.requeued: the ledger did not answer": 1}},
        {"courses": {"threads": Course(20, 40)}},
    ],
)
def test_what_no_worker_may_need_or_do_is_a_violation(result: Result, changes: dict[str, object]) -> None:
    """It was printed, and the trial called itself clean."""
    assert not replace(result, **changes).clean  # type: ignore[arg-type] # of the parameters above


def test_the_time_of_a_hold_counts_without_that_of_a_suspended_process() -> None:
    """A worker would be accused of what it could not end: none of its timers ran."""
    hold = Hold()
    for now in (0.0, 0.1, 0.2, 12.2, 12.3):
        hold.note(now, [0.15] if now > 0.15 else [])
    assert hold.longest == pytest.approx(0.15, abs=0.05)
    hold.note(12.4, [12.2])
    assert hold.longest == pytest.approx(0.2, abs=0.05)


def test_a_hold_that_lasts_is_seen() -> None:
    """A thread that watches, and is late itself, must not excuse every hold."""
    hold = Hold()
    for tick in range(600):
        hold.note(tick * 0.1, [0.0])
    assert hold.longest == pytest.approx(59.9)
