"""The dashboard: every query of it, asked of a real Prometheus that scrapes a real worker under load."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.world import World, vendor_command
from tests.k8s.manifests import rendered
from tests.private_servers.prometheus import PrivatePrometheus
from tests.telemetry.observed import LOOPBACK, TIMEOUT_SECONDS, Observed
from worker.sandbox.processes.supervisor import wait_until
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import Fault

DASHBOARD = Path(__file__).resolve().parents[2] / "k8s" / "components" / "monitoring" / "dashboard.json"
REPOSITORY = "88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"

#: What Grafana puts in for its own names, with the short times of a test.
GRAFANA = {
    "$__rate_interval": "8s",
    "$__range": "60s",
    "$enterprise_manager": ".+",
}


def panels() -> list[dict[str, Any]]:
    """Every panel with queries."""
    found: list[dict[str, Any]] = [
        panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"
    ]
    return found


def queries() -> dict[str, str]:
    """Every query by its panel's title, as Grafana would send it."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in GRAFANA.items():
                expression = expression.replace(name, value)
            assert "$" not in expression, target["expr"]
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = expression
    return found


class Load:
    """Commands of every kind, some at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent = 0

    def add(self) -> None:
        """One that succeeds, one that fails, one that is refused, one that cannot be read, and a repeat."""
        world = self._world
        self._sent += 1
        for kind in ("succeeds", "fails"):
            key = f"{kind}-{self._sent}"
            job = world.enterprise_manager.add_job(name=key, links=[REPOSITORY])
            link = world.enterprise_manager.links(job)[0].object_in_job_id
            if kind == "fails":
                world.enterprise_manager.inject(Fault(kind="task_fails", method="DELETE", path=link))
            command = vendor_command(key, job={"id": job}, repository={"link_id": link})
            world.send(command)
            world.send(command)
        world.send(vendor_command(f"refused-{self._sent}", job={"name": "none"}))
        world.send(b"junk")
        while (event := world.client.next_event(0.05)) is not None:
            world.received.append(event)


def has_values(result: list[dict[str, Any]]) -> bool:
    """Whether there is anything to draw."""
    return any(not math.isnan(float(series["value"][1])) for series in result)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_query_of_the_dashboard_returns_data(world: World, broker: LocalBroker) -> None:
    """Whoever opens the dashboard in an hour of need finds no empty panel for a misspelt name."""
    worker = Observed(world.serve(LOOPBACK))
    load = Load(world)
    virtual_host = urlsplit(world.environment["UNLINK_BROKER__URL"]).path.strip("/")
    of_queues = {"family": "queue_coarse_metrics", "vhost": virtual_host}
    jobs = {
        "unlink-worker": (worker.address, "/metrics", {}),
        "rabbitmq": (broker.metrics_address, "/metrics/detailed", of_queues),
    }
    empty = queries()
    with PrivatePrometheus(jobs) as prometheus:

        def all_drawn() -> bool:
            load.add()
            for title, expression in list(empty.items()):
                if has_values(prometheus.query(expression)):
                    del empty[title]
            return not empty

        assert wait_until(all_drawn, seconds=TIMEOUT_SECONDS), f"no data for {empty}"


def test_each_panel_says_what_it_shows() -> None:
    """A number without a unit or a meaning is worse than none."""
    for panel in panels():
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]


def test_panels_do_not_cover_each_other() -> None:
    """Nothing on the screen hides something else."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_grafana_finds_the_dashboard() -> None:
    """It is deployed with the label that Grafana's sidecar looks for, and is the very file that is tested here."""
    folder = rendered("production").named("ConfigMap", "unlink-worker-dashboard")
    assert folder["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(folder["data"]["unlink-worker.json"]) == json.loads(DASHBOARD.read_text())


@pytest.mark.slow
def test_every_metric_of_the_worker_is_drawn(world: World) -> None:
    """What is worth counting is worth seeing."""
    worker = Observed(world.start_worker(LOOPBACK))
    names = {
        line.split()[2].removesuffix("_total")
        for line in worker.get("/metrics").text.splitlines()
        if line.startswith("# TYPE unlink_")
    }
    drawn = " ".join(queries().values())
    assert {name for name in names if name not in drawn} == set()
