"""What happens to the broker: its nodes are killed."""

from __future__ import annotations

import time
from random import Random

from tests.chaos.strikes.strike import Scene, Strike


def _kill_node(scene: Scene, rng: Random) -> None:
    node = rng.choice(scene.arena.cluster.nodes)
    node.kill()
    time.sleep(rng.uniform(2, 8))
    node.start()


STRIKES = (Strike("a node of the broker is killed and restarted", _kill_node, vital=True),)
