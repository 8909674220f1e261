"""A client of a private broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.broker.client import BrokerClient
from worker.settings import BrokerSettings

if TYPE_CHECKING:
    from worker.sandbox.environment import SandboxEnvironment


def client_of(sandbox: SandboxEnvironment) -> BrokerClient:
    """A client on the sandbox's broker."""
    return BrokerClient(BrokerSettings.model_validate({"url": sandbox.broker.url}))
