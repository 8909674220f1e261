"""The blocking client of commands, on a broker that hangs."""

from __future__ import annotations

import pytest

from worker.broker.client import BrokerClient
from worker.sandbox.rabbitmq.private_broker import PrivateBroker
from worker.settings import BrokerSettings


@pytest.mark.timeout(20, func_only=True)  # the broker that all tests share may be started for this one
def test_ctrl_c_waits_for_no_answer_of_the_broker(broker: PrivateBroker, broker_url: str) -> None:
    """Whoever presses it while the broker hangs, or between two frames, would wait for a minute more."""
    client = BrokerClient(BrokerSettings.model_validate({"url": broker_url}))
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt_while_it_hangs(client, broker)
    finally:
        broker.resume()
    client._connection.close()  # noqa: SLF001 - a program ends here, and its connection with it


def interrupt_while_it_hangs(client: BrokerClient, broker: PrivateBroker) -> None:
    """Use the client until Ctrl-C."""
    with client:
        broker.suspend()
        raise KeyboardInterrupt
