"""What would be applied is what Kubernetes and the operators understand, without a cluster to ask."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.k8s import crds
from tests.k8s.manifests import K8S, OVERLAYS, Rendered, label, render, rendered

#: The oldest Kubernetes that the manifests are for, and the newest whose schemas are there.
VERSIONS = ("1.32", kubernetes_validate.latest_version())


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Rendered:
    """Each overlay."""
    return rendered(request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_built_in_kinds_hold_only_fields_that_kubernetes_knows(overlay: Rendered, version: str) -> None:
    """A misspelt field would be refused by the cluster, or dropped, and with it a protection that is counted on."""
    for resource in overlay.resources:
        if not crds.is_custom(resource):
            kubernetes_validate.validate(resource, version, strict=True)


def test_a_misspelt_field_of_a_built_in_kind_is_found() -> None:
    """A check that lets everything pass would look just like one that found nothing."""
    wrong = copy.deepcopy(rendered("small").deployment)
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 80
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_custom_resources_hold_only_fields_that_their_operators_know(overlay: Rendered) -> None:
    """An operator ignores a misspelt field: queues would be deleted, or pods ended at work, on a quiet day."""
    found = {label(each): crds.problems(each) for each in overlay.resources if crds.is_custom(each)}
    assert {name: problems for name, problems in found.items() if problems} == {}


@pytest.mark.parametrize("kind", ["ScaledObject", "TriggerAuthentication", "PodMonitor", "Queue", "ExternalSecret"])
def test_a_misspelt_field_of_a_custom_resource_is_found(kind: str) -> None:
    """A check that lets everything pass would look just like one that found nothing."""
    wrong = copy.deepcopy(rendered("production").of_kind(kind)[0])
    wrong["spec"]["deletionPolcy"] = "retain"
    assert any("deletionPolcy" in problem for problem in crds.problems(wrong))


def test_every_kind_is_checked_by_one_of_the_two() -> None:
    """A kind that neither check knows would go to the cluster unseen."""
    kinds = {each["kind"] for each in rendered("production").resources if crds.is_custom(each)}
    assert kinds == {
        *("Exchange", "Queue", "Binding", "Policy", "Permission", "User"),
        *("ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule", "ExternalSecret"),
    }


def test_no_two_resources_have_one_name(overlay: Rendered) -> None:
    """The second would overwrite the first."""
    names = Counter((each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in overlay.resources)
    assert [name for name, count in names.items() if count > 1] == []


def test_everything_goes_into_the_namespace_that_is_restricted(overlay: Rendered) -> None:
    """A resource elsewhere would miss the pod security standard, the network policies and the secrets."""
    (namespace,) = overlay.of_kind("Namespace")
    others = [each for each in overlay.resources if each is not namespace]
    assert {each["metadata"].get("namespace") for each in others} == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("component", sorted(each.name for each in (K8S / "components").iterdir()))
def test_each_component_can_be_taken_alone(component: str, tmp_path: Path) -> None:
    """Who has no KEDA, or other secrets, leaves that component out, and must not lose the others with it."""
    folders = {name: os.path.relpath(K8S / name, tmp_path) for name in ("base", f"components/{component}")}
    kustomization = {"resources": [folders.pop("base")], "components": list(folders.values())}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization))
    assert len(render(tmp_path).resources) >= len(render(K8S / "base").resources)
