"""`unlink-worker doctor` on one Enterprise Manager."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from worker.clock import SystemClock
from worker.doctor.enterprise_manager import examine
from worker.doctor.findings import Mark
from worker.sandbox.simulated_enterprise_manager import Fault, SimulatedEnterpriseManager
from worker.settings import EnterpriseManagerSettings


@pytest.mark.parametrize("works", [True, False])
async def test_a_logon_that_works_is_proof_enough(certificates: Path, works: bool) -> None:
    """Else the doctor would call an Enterprise Manager wrong with which the worker works, or a wrong URL right."""
    with SimulatedEnterpriseManager.start(folder=certificates) as em:
        em.inject(Fault("wrong_content", "GET", "/api/"))
        if not works:
            em.inject(Fault("wrong_content", "POST", "/sessionMngr/"))
        settings = EnterpriseManagerSettings(
            url=em.url, username=em.username, password=SecretStr(em.password), ca_file=em.ca_file
        )
        found = {finding.what: finding async for finding in examine("lab", settings, SystemClock())}
    assert "HTML page" in found["reachable"].seen
    assert found["reachable"].mark is (Mark.DOUBTFUL if works else Mark.WRONG)
    assert ("role" in found) is works
    assert [finding.mark for finding in found.values()].count(Mark.WRONG) == (not works)
