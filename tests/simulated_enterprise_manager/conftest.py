"""A simulated Enterprise Manager, and a client in each format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.simulated_enterprise_manager.client import Client, Format
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager


@pytest.fixture
def em() -> Iterator[SimulatedEnterpriseManager]:
    """With its default behaviour; a test changes it."""
    with SimulatedEnterpriseManager.start() as em:
        yield em


@pytest.fixture(params=["xml", "json"])
def client(em: SimulatedEnterpriseManager, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Logged on, in one format and then in the other."""
    wanted: Format = request.param
    with closing(Client(em, wanted)) as client:
        yield client


@pytest.fixture
def another(em: SimulatedEnterpriseManager, client: Client) -> Iterator[Client]:
    """A second session of the same user."""
    with closing(Client(em, client.format)) as another:
        yield another
