"""The alert rules, as Prometheus itself judges them; and what they tell whoever is woken."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import programs
from tests.private_servers.prometheus import prometheus_program

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "k8s" / "components" / "monitoring" / "rules.yaml"
SCENARIOS = Path(__file__).parent / "alerts.yaml"


def groups() -> dict[str, Any]:
    """The rules, without what the Prometheus Operator wraps them in."""
    spec: dict[str, Any] = yaml.safe_load(RULES.read_text())["spec"]
    return spec


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in groups()["groups"] for rule in group["rules"]]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on the web: lower case, spaces to hyphens, other signs left out."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def promtool(arguments: Sequence[str | Path], folder: Path) -> str:
    """What promtool prints; it must have nothing against it."""
    done = programs.run([prometheus_program("promtool"), *arguments], cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_can_read_the_rules(tmp_path: Path) -> None:
    """A rule that Prometheus refuses would leave all of them out."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups()))
    assert f"{len(alerts())} rules found" in promtool(["check", "rules", "--lint-fatal", "rules.yaml"], tmp_path)


def test_each_alert_rings_when_it_should_and_not_before(tmp_path: Path) -> None:
    """Somebody is woken for what needs somebody, and for nothing else."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups()))
    shutil.copy(SCENARIOS, tmp_path)
    promtool(["test", "rules", SCENARIOS.name], tmp_path)


def test_each_alert_is_seen_silent_and_ringing() -> None:
    """No alert is left out of the scenarios, in neither of its states."""
    seen = {
        (expected["alertname"], bool(expected.get("exp_alerts")))
        for scenario in yaml.safe_load(SCENARIOS.read_text())["tests"]
        for expected in scenario["alert_rule_test"]
    }
    assert {(alert["alert"], rings) for alert in alerts() for rings in (False, True)} <= seen


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_each_alert_names_a_section_of_the_runbook(alert: dict[str, Any]) -> None:
    """Whoever is woken at night is told where to read on, and there is something to read."""
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / page)


def test_the_metrics_in_the_rules_are_the_workers() -> None:
    """A rule about a metric that nobody has never rings."""
    from worker.telemetry.metrics import Metrics  # noqa: PLC0415 - beside what it is compared with

    known = {
        name
        for family in Metrics(["default"]).registry.collect()
        for name in {family.name, f"{family.name}_total", f"{family.name}_bucket"}
    } | {"unlink_broker_up", "unlink_ledger_up", "unlink_enterprise_manager_up"}  # of the parts, looked at
    for alert in alerts():
        assert set(re.findall(r"unlink_\w+", alert["expr"])) <= known
