"""An Enterprise Manager that differs from what is expected is reported once, by the name of the assumption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from contracts.commands import JobReference
from tests.enterprise_manager.ids import JOB, LINK
from tests.enterprise_manager.sending import at_any_time
from worker.enterprise_manager import Gateway
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager


@pytest.mark.parametrize("spoken", ["xml", "json"])
@pytest.mark.parametrize(
    ("switches", "assumption", "seen_in"),
    [
        ({}, None, ()),
        ({"json_byte_order_mark": True}, "no_byte_order_mark", ("json",)),
        ({"json_keys": "camel"}, "pascal_case_keys", ("json",)),
        ({"unknown_state": "Collecting"}, "task_states", ("xml", "json")),
        ({"finished_result": "absent"}, "finished_task_with_result", ("xml", "json")),
        ({"links_in_job_entity": "left_out"}, "links_in_job_entity", ("xml", "json")),
    ],
)
async def test_a_difference_is_logged_once_by_the_name_of_the_assumption(
    em: SimulatedEnterpriseManager,
    gateway_with: Callable[..., Gateway],
    finish: Any,
    spoken: str,
    switches: dict[str, Any],
    assumption: str | None,
    seen_in: tuple[str, ...],
) -> None:
    """Else nobody would learn that a server is otherwise than believed, or would learn it with every request."""
    em.change_behaviour(**switches)
    gateway = gateway_with(format=spoken)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            assert (await gateway.find_job(JobReference(id=JOB))).id == JOB
            assert len(await gateway.links(JOB)) == 2
        await finish(gateway, (await gateway.delete_link(JOB, LINK, at_any_time)).ticket)
    differences = [line["assumption"] for line in logs if line["event"] == "enterprise_manager.differs"]
    assert differences == ([assumption] if spoken in seen_in else [])
