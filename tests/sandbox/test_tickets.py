"""The sandbox's ticketing system."""

from __future__ import annotations

import requests

from worker.cli.sandbox.tickets import ticketing_system

TIMEOUT = 30


def test_a_ticket_shows_what_was_last_written_into_it() -> None:
    """Who tries a consumer of events sees what it did with the tickets."""
    with ticketing_system() as api:
        ticket = f"{api}/tickets/OPS-1"
        assert requests.get(ticket, timeout=TIMEOUT).status_code == 404
        for update in ({"state": "open", "note": "unlink submitted"}, {"state": "closed"}):
            requests.patch(ticket, json=update, timeout=TIMEOUT).raise_for_status()
        assert requests.get(ticket, timeout=TIMEOUT).json() == {
            "id": "OPS-1",
            "state": "closed",
            "note": "unlink submitted",
        }
        assert requests.patch(ticket, data=b"state=closed", timeout=TIMEOUT).status_code == 400


def test_each_ticketing_system_has_its_own_tickets() -> None:
    """What was tried in one sandbox does not show in the next."""
    with ticketing_system() as first, ticketing_system() as second:
        requests.patch(f"{first}/tickets/OPS-1", json={"state": "open"}, timeout=TIMEOUT).raise_for_status()
        assert requests.get(f"{second}/tickets/OPS-1", timeout=TIMEOUT).status_code == 404
