"""The component `console`, on the overlay for several workers."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml
from fastapi.routing import APIRoute

from tests.k8s.manifests import K8S, Rendered, Resource, documented_names, render, rendered
from tests.k8s.test_image import PROJECT
from tests.k8s.test_schemas import VERSIONS
from worker.console.probes import router
from worker.settings import PREFIX, SECRETS_DIR_VARIABLE, ConsoleProgramSettings, ConsoleSettings, load

NAME = "unlink-worker-console"
SECRETS = {
    "UNLINK_BROKER__URL": "amqps://unlink-console:p%40ss@rabbitmq.rabbitmq.svc:5671/",
    "UNLINK_LEDGER__URL": "postgresql://console:p%40ss@postgresql.postgresql.svc:5432/unlink?sslmode=verify-full",
    "users.toml": '[[users]]\nname = "servicenow"\nrole = "submit"\ntoken_sha256 = "' + "0" * 64 + '"\n',
}


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """What would be applied."""
    folder = tmp_path_factory.mktemp("console")
    parts = {name: [os.path.relpath(K8S / path, folder)] for name, path in PARTS.items()}
    (folder / "kustomization.yaml").write_text(json.dumps(parts))
    return render(folder)


PARTS = {"resources": "overlays/production", "components": "components/console"}


@pytest.fixture
def deployment(applied: Rendered) -> Resource:
    """The console's."""
    return applied.named("Deployment", NAME)


@pytest.fixture
def pod(deployment: Resource) -> Resource:
    """The specification of its pods."""
    pod: Resource = deployment["spec"]["template"]["spec"]
    return pod


@pytest.fixture
def container(pod: Resource) -> Resource:
    """Its container, the only one."""
    (container,) = pod["containers"]
    return dict(container)


@pytest.fixture
def environment(applied: Rendered, container: Resource) -> dict[str, str]:
    """Every variable of the container."""
    (source,) = container["envFrom"]
    variables: dict[str, str] = dict(applied.named("ConfigMap", source["configMapRef"]["name"])["data"])
    return variables | {each["name"]: each["value"] for each in container["env"]}


def new_resources(applied: Rendered) -> list[Resource]:
    """What the component adds."""
    return [each for each in applied.resources if each["metadata"]["name"].startswith(NAME)]


@pytest.mark.parametrize("version", VERSIONS)
def test_it_holds_only_fields_that_kubernetes_knows(applied: Rendered, version: str) -> None:
    """A misspelt field would be refused by the cluster, or dropped, and with it a protection that is counted on."""
    new = new_resources(applied)
    assert {each["kind"] for each in new} == {"Deployment", "Service", "NetworkPolicy", "ConfigMap"}
    example = yaml.safe_load((K8S / "components" / "console" / "ingress.example.yaml").read_text())
    for resource in [*new, example]:
        kubernetes_validate.validate(resource, version, strict=True)
    assert {each["metadata"]["namespace"] for each in new} == {"unlink-worker"}


def test_it_changes_the_workers_by_one_setting(applied: Rendered) -> None:
    """A worker would be rolled out with another program or setting, because somebody wants to look at pages."""
    before = rendered("production")
    workers = applied.named("Deployment", "unlink-worker")
    (source,) = workers["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    settings = applied.named("ConfigMap", source["configMapRef"]["name"])["data"]
    users = re.findall(r"^user (unlink-console) ", _recipe("permissions.sh"), flags=re.MULTILINE)
    own = {name: value for name, value in before.environment.items() if name != SECRETS_DIR_VARIABLE}
    assert settings == own | {"UNLINK_FORWARDERS": users[0]}
    for resource in before.resources:
        if resource["kind"] not in {"ConfigMap", "Deployment"}:
            assert resource in applied.resources


def test_the_program_takes_its_settings(
    environment: dict[str, str], container: Resource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that the program does not know, or a file that is elsewhere, ends it at the start."""
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    mounts = {each["mountPath"]: tmp_path / each["name"] for each in container["volumeMounts"]}
    for folder in mounts.values():
        folder.mkdir()
    for name, content in SECRETS.items():
        (mounts[environment[SECRETS_DIR_VARIABLE]] / name).write_text(content)
    (mounts["/etc/unlink/trust"] / "broker-ca.pem").touch()
    for name, value in environment.items():
        folder = next((each for each in mounts if value.startswith(each)), None)
        monkeypatch.setenv(name, value if folder is None else value.replace(folder, str(mounts[folder])))
    settings = load(ConsoleProgramSettings)
    assert settings.console.has_users
    assert settings.broker is not None
    assert settings.console.public_url == "https://unlinks.example.com"
    assert settings.console.port == ConsoleSettings().port
    assert [(each["name"], each["containerPort"]) for each in container["ports"]] == [("http", settings.console.port)]


def test_the_pod_can_do_no_more_than_a_worker_s(pod: Resource, container: Resource) -> None:
    """What is broken into here holds the passwords of users."""
    worker = rendered("production")
    assert pod["securityContext"] == worker.pod["securityContext"]
    assert container["securityContext"] == worker.container["securityContext"]
    for field in ("automountServiceAccountToken", "enableServiceLinks", "serviceAccountName"):
        assert pod[field] == worker.pod[field]
    assert all(each["readOnly"] for each in container["volumeMounts"])
    assert all("valueFrom" not in each for each in container["env"])
    (volume,) = (each for each in pod["volumes"] if each["name"] == "secrets")
    workers = {each["secret"]["secretName"] for each in worker.pod["volumes"] if "secret" in each}
    assert volume["secret"]["secretName"] not in workers
    assert volume["secret"]["defaultMode"] == 0o440
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"].keys() == {"memory"}


def test_the_probes_ask_for_paths_that_are_served_without_a_login(container: Resource) -> None:
    """A probe that the console redirects to the login would restart a healthy console for ever."""
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: each["path"] for name, each in asked.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        # Not /readyz: all pods would leave the Service while the ledger is away, and with them the pages that say so.
        "readiness": "/livez",
    }
    assert {each["path"] for each in asked.values()} <= {
        each.path for each in router.routes if isinstance(each, APIRoute)
    }
    assert {each["port"] for each in asked.values()} == {"http"}


def test_the_image_is_of_this_version(container: Resource) -> None:
    """An upgrade would roll out the old pages on the new ledger."""
    assert container["image"] == f"{NAME}:{PROJECT['project']['version']}"
    assert container["args"] == ["console"]


def test_each_selector_finds_its_own_pods_alone(applied: Rendered, deployment: Resource) -> None:
    """The service would send people to a worker, or the budget and the policies count the console as one."""
    console = deployment["spec"]["template"]["metadata"]["labels"]
    worker = applied.named("Deployment", "unlink-worker")["spec"]["template"]["metadata"]["labels"]
    service, policy = applied.named("Service", NAME), applied.named("NetworkPolicy", NAME)
    for selector in (
        service["spec"]["selector"],
        policy["spec"]["podSelector"]["matchLabels"],
        deployment["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= console.items()
        assert not selector.items() <= worker.items()
    for kind, name in (("PodDisruptionBudget", "selector"), ("PodMonitor", "selector")):
        (resource,) = applied.of_kind(kind)
        assert not resource["spec"][name]["matchLabels"].items() <= console.items()
    workers = applied.named("NetworkPolicy", "unlink-worker")["spec"]["podSelector"]["matchLabels"]
    assert not workers.items() <= console.items()
    example = yaml.safe_load((K8S / "components" / "console" / "ingress.example.yaml").read_text())
    (path,) = example["spec"]["rules"][0]["http"]["paths"]
    (port,) = service["spec"]["ports"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    assert port["targetPort"] == "http"


def test_the_policy_opens_one_port_and_leads_to_ledger_and_broker_alone(applied: Rendered) -> None:
    """Whoever takes the console over would reach Enterprise Manager, or anything else."""
    spec = applied.named("NetworkPolicy", NAME)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["from"] and rule["ports"] == [{"port": "http"}] for rule in spec["ingress"])
    workers = applied.named("NetworkPolicy", "unlink-worker")["spec"]["egress"]
    assert spec["egress"] == [rule for rule in workers if not any("ipBlock" in peer for peer in rule["to"])]


def test_what_has_to_be_there_before_is_in_the_documentation(pod: Resource) -> None:
    """Who deploys makes these by hand: a name that is nowhere written down cannot be made."""
    needed = {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each} | SECRETS.keys()
    needed |= {each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each}
    assert needed <= documented_names()


def test_the_ingress_is_told_to_the_console() -> None:
    """All people would be one client: somebody's wrong passwords would slow everybody's login down."""
    example = (K8S / "components" / "console" / "ingress.example.yaml").read_text()
    (literal,) = re.findall(r"- UNLINK_CONSOLE__TRUSTED_PROXIES=(\S+)", example)
    assert ConsoleSettings(trusted_proxies=literal).trusted_proxies == literal
    assert "UNLINK_CONSOLE__TRUSTED_PROXIES" in documented_names()


def _recipe(name: str) -> str:
    return (K8S.parent / "contracts" / "recipes" / name).read_text()
