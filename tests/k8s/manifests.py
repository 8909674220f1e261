"""What `kubectl kustomize` renders, and the parts of it that the tests ask about."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests import programs

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"

#: The client that the development dependencies bring.
KUBECTL = Path(sys.executable).parent / "kubectl"

OVERLAYS = ("small", "production")

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One overlay, rendered."""

    overlay: str
    resources: tuple[Resource, ...]

    def of_kind(self, kind: str) -> list[Resource]:
        """All resources of one kind."""
        return [resource for resource in self.resources if resource["kind"] == kind]

    def named(self, kind: str, name: str) -> Resource:
        """The one resource of that kind and name."""
        (found,) = (each for each in self.of_kind(kind) if each["metadata"]["name"] == name)
        return found

    @property
    def deployment(self) -> Resource:
        """The worker's Deployment."""
        (deployment,) = self.of_kind("Deployment")
        return deployment

    @property
    def pod(self) -> Resource:
        """The specification of the worker's pods."""
        pod: Resource = self.deployment["spec"]["template"]["spec"]
        return pod

    @property
    def container(self) -> Resource:
        """The worker's container, the only one."""
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def environment(self) -> dict[str, str]:
        """Every variable of the container."""
        variables: dict[str, str] = {}
        for source in self.container["envFrom"]:
            variables |= self.named("ConfigMap", source["configMapRef"]["name"])["data"]
        return variables | {each["name"]: each["value"] for each in self.container["env"]}

    def mount_path(self, volume: str) -> str:
        """Where a volume is in the container."""
        (path,) = (each["mountPath"] for each in self.container["volumeMounts"] if each["name"] == volume)
        return str(path)


@cache
def rendered(overlay: str) -> Rendered:
    """An overlay as it would be applied."""
    return render(K8S / "overlays" / overlay)


def render(folder: Path) -> Rendered:
    """A folder with a kustomization as it would be applied."""
    done = programs.run([KUBECTL, "kustomize", folder])
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return Rendered(folder.name, tuple(yaml.safe_load_all(done.stdout)))


def label(resource: Resource) -> str:
    """A resource's kind and name, for a message."""
    return f"{resource['kind']} {resource['metadata']['name']}"


def documented_names() -> set[str]:
    """Every name in code spans of k8s/README.md."""
    return set(re.findall(r"`([^`\s]+)`", (K8S / "README.md").read_text()))
