"""The result of the check of one assumption."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.enterprise_manager.assumptions import Assumption


class Result(StrEnum):
    """The result of one check."""

    CONFIRMED = "confirmed"
    DIFFERENT = "different"
    NEEDS_CHANGE = "not_without_a_change"
    NOT_WITH_ACCOUNT = "not_with_this_account"
    #: A trial was made, and did not show it.
    NOT_SHOWN = "not_shown"


@dataclass(frozen=True, slots=True)
class Check:
    """One assumption, the result of its check, and what was seen. Contains no secret."""

    assumption: Assumption
    result: Result
    seen: str = ""
