"""Probes: `/livez` while the console serves, `/readyz` while it can also read the ledger. They need no login."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from worker.console.api import Known
from worker.console.problems import Problem

router = APIRouter(include_in_schema=False)


@router.get("/livez", response_class=PlainTextResponse)
async def live() -> str:
    """Always."""
    return "ok\n"


@router.get("/readyz")
async def ready(readings: Known) -> PlainTextResponse:
    """Whether the ledger can be read. Shares the reading of the overview, and names no address."""
    try:
        await readings.overview()
    except Problem:
        return PlainTextResponse("the ledger cannot be read now\n", 503)
    return PlainTextResponse("ok\n")
