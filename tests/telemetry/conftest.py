"""Whole workers, watched from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.world import World
from worker.sandbox.simulated_enterprise_manager import Behaviour, SimulatedEnterpriseManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def behaviour() -> Behaviour:
    """How the simulated Enterprise Manager behaves; a test changes it before or while it runs."""
    return Behaviour()


@pytest.fixture
def world(broker_url: str, tmp_path: Path, behaviour: Behaviour) -> Iterator[World]:
    """Everything that a worker needs, without the worker."""
    with SimulatedEnterpriseManager.start(behaviour=behaviour) as enterprise_manager:
        world = World(broker_url, f"sqlite:///{tmp_path / 'ledger.sqlite'}", enterprise_manager)
        try:
            yield world
        finally:
            world.close()
