"""An administrator who puts back links that commands have removed, and a publisher that repeats those commands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from random import Random
from typing import Self

from tests.chaos.plan import Unlink
from worker.sandbox.simulated_enterprise_manager import SimulationControl

#: How often removed links are looked for, in seconds: more often than the worker polls the list of links.
_TICK = 0.2

#: The share of the removed links that are put back.
_PUT_BACK = 0.2


class Administrator:
    """Puts links back as soon as they have gone, under IDs of their own; then the old command comes again.

    Only where no other command is about the job: an edit that has read the job before would undo this one, and no
    worker could know. A context manager.

    Args:
        enterprise_manager: where the links are put back.
        unlinks: the commands, of which some are undone.
        rng: decides which.
        again: publishes the command of a key once more.
    """

    def __init__(
        self,
        enterprise_manager: SimulationControl,
        unlinks: Iterable[Unlink],
        rng: Random,
        again: Callable[[str], None],
    ) -> None:
        self._enterprise_manager = enterprise_manager
        self._unlinks = {
            unlink.link.object_in_job_id: unlink for unlink in unlinks if unlink.alone and rng.random() < _PUT_BACK
        }
        self._again = again
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="administrator", daemon=True)
        #: The new links by their IDs, each with the key of the command that removed the one before.
        self.put_back: dict[str, str] = {}

    def _watch(self) -> None:
        seen_until = 0.0
        while not self._stopping.wait(_TICK):
            gone = self._enterprise_manager.departures_since(seen_until)
            seen_until = max((at for at in gone.values()), default=seen_until)
            for link_id in self._unlinks.keys() & gone.keys():
                unlink = self._unlinks.pop(link_id)
                link = self._enterprise_manager.add_link(unlink.job_id, unlink.link.repository_uid)
                self.put_back[link] = unlink.key
                self._again(unlink.key)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
