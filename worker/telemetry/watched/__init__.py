"""The core's ports, watched.

All that the core does crosses its ports, so whoever watches these sees all of it, and the core need not know of being
watched: no metric, no span and no further port in it. Log lines would show the same, but a quieter log level must not
change what is counted.
"""

from worker.telemetry.watched.enterprise_manager import RequestObserver, WatchedEnterpriseManager
from worker.telemetry.watched.ledger import WatchedLedger
from worker.telemetry.watched.outbox import WatchedOutbox

__all__ = ["RequestObserver", "WatchedEnterpriseManager", "WatchedLedger", "WatchedOutbox"]
