"""A simulated Veeam Backup Enterprise Manager: its REST API as far as an unlink touches it, XML and JSON over HTTPS.

What is documented it does as documented; what is not known it does in every way that a switch of `Behaviour` names;
what goes wrong in real networks it does on demand (`Fault`). Use it

- in process, from synchronous and asynchronous tests:
  `with SimulatedEnterpriseManager.start(behaviour=Behaviour(...)) as em: ...`
- as a program: `python -m worker.sandbox.simulated_enterprise_manager --help`, and from other processes through the
  control URL that it prints: `SimulationControl(control_url)`, the same interface.

The path of a request through the modules: `server` (HTTP, faults, records), `routes` and `queries` (what it does),
`state`, `edits` and `model` (jobs, links, sessions, tasks under a clock), `documents` and `rendering` (the answer).
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
