"""A simulated Veeam Backup Enterprise Manager: the part of its REST API that an unlink uses, XML and JSON over HTTPS.

It behaves as documented. Where the behaviour is not documented, the switches of `Behaviour` select it. Failures of
real networks are injected with `Fault`. Use it

- in process, from synchronous and asynchronous tests:
  `with SimulatedEnterpriseManager.start(behaviour=Behaviour(...)) as em: ...`
- as a program: `python -m worker.sandbox.simulated_enterprise_manager --help`, and from other processes through the
  control URL that it prints: `SimulationControl(control_url)`, which has the same interface.

A request passes these modules: `server` (HTTP, faults, recording), `routes` and `queries` (execute the request),
`state`, `edits` and `model` (jobs, links, sessions and tasks), `documents` and `rendering` (the response).
"""

from worker.sandbox.simulated_enterprise_manager.behaviour import JSON_LINKS_NAMES, Behaviour, UnknownBehaviourError
from worker.sandbox.simulated_enterprise_manager.control import ControlFailedError, SimulationControl
from worker.sandbox.simulated_enterprise_manager.faults import Fault
from worker.sandbox.simulated_enterprise_manager.model import LinkedBackup, LinkedRepository
from worker.sandbox.simulated_enterprise_manager.operations import Simulation
from worker.sandbox.simulated_enterprise_manager.server import RecordedRequest
from worker.sandbox.simulated_enterprise_manager.simulation import SimulatedEnterpriseManager
from worker.sandbox.simulated_enterprise_manager.state import (
    VENDOR_JOB_ID,
    VENDOR_JOB_NAME,
    VENDOR_LINK_ID,
    VENDOR_REPOSITORY_NAME,
    VENDOR_REPOSITORY_UID,
)

__all__ = [
    "JSON_LINKS_NAMES",
    "VENDOR_JOB_ID",
    "VENDOR_JOB_NAME",
    "VENDOR_LINK_ID",
    "VENDOR_REPOSITORY_NAME",
    "VENDOR_REPOSITORY_UID",
    "Behaviour",
    "ControlFailedError",
    "Fault",
    "LinkedBackup",
    "LinkedRepository",
    "RecordedRequest",
    "SimulatedEnterpriseManager",
    "Simulation",
    "SimulationControl",
    "UnknownBehaviourError",
]
