"""The audit lines: who did what, from where, with which result. What was refused has a line, too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from worker.console.problems import Problem

if TYPE_CHECKING:
    from starlette.types import Scope

    from worker.console.users import Caller

log = structlog.get_logger()

READING: Final = frozenset({"GET", "HEAD"})
_UNAUTHORIZED: Final = 401


def audit(caller: Caller, action: str, target: str, result: str, enterprise_manager: str | None = None) -> None:
    """Log an action and its result."""
    log.info(
        "console.action",
        user=caller.name,
        role=caller.role.value,
        address=caller.address,
        action=action,
        target=target,
        enterprise_manager=enterprise_manager,
        result=result,
    )


@contextmanager
def audited(caller: Caller, action: str, target: str, enterprise_manager: str | None = None) -> Iterator[None]:
    """Log the action if it ends with a problem, with that as its result; or with a fault, or because of a stop."""
    try:
        yield
    except Problem as problem:
        if not problem.logged:
            audit(caller, action, target, problem.detail, enterprise_manager)
        problem.logged = True
        raise
    except asyncio.CancelledError:  # what a thread is doing goes on
        audit(
            caller,
            action,
            target,
            "the console was stopped before its end: see whether it was done",
            enterprise_manager,
        )
        raise
    except Exception as fault:
        audit(caller, action, target, f"a fault of the console: {type(fault).__name__}", enterprise_manager)
        raise


def log_refusal(scope: Scope, problem: Problem) -> None:
    """Log a request that would have changed something, or had no valid login, unless its problem has a line already."""
    if problem.logged or (scope["method"] in READING and problem.status != _UNAUTHORIZED):
        return
    state = scope.get("state", {})
    caller: Caller | None = state.get("caller")
    log.warning(
        "console.request_refused",
        user=None if caller is None else caller.name,
        address=state.get("address") or str((scope.get("client") or ("unknown",))[0]),
        method=scope["method"],
        path=scope["path"],
        status=problem.status,
        problem=problem.detail,
    )
