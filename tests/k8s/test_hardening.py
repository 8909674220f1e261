"""The hardening that the manifests promise, asked of what would be applied."""

from __future__ import annotations

import pytest

from tests.k8s.manifests import OVERLAYS, Rendered, Resource, rendered
from worker.broker import broker, connection, intake
from worker.enterprise_manager import logon
from worker.settings import EnterpriseManagerSettings
from worker.unlinks import dispatcher


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Rendered:
    """Each overlay."""
    return rendered(request.param)


@pytest.fixture
def production() -> Rendered:
    """The overlay for several workers."""
    return rendered("production")


def test_the_namespace_enforces_the_restricted_standard(overlay: Rendered) -> None:
    """Without the label nothing would stop a privileged pod beside the secrets."""
    (namespace,) = overlay.of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pod_meets_the_restricted_standard(overlay: Rendered) -> None:
    """The namespace refuses a pod that does not: no worker would start.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    pod, container = overlay.pod, overlay.container
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"secret", "configMap", "persistentVolumeClaim"}


def test_the_worker_is_an_unprivileged_user_that_can_write_nowhere_but_on_its_volume(overlay: Rendered) -> None:
    """What breaks into the worker must find nothing to write to."""
    security = overlay.pod["securityContext"]
    assert min(security["runAsUser"], security["runAsGroup"], security["fsGroup"]) > 10_000
    assert overlay.container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {each["name"] for each in overlay.container["volumeMounts"] if not each.get("readOnly")}
    assert writable == ({"ledger"} if overlay.overlay == "small" else set())


def test_the_worker_has_no_way_to_kubernetes(overlay: Rendered) -> None:
    """A token that the worker never needs is one that can be stolen."""
    (account,) = overlay.of_kind("ServiceAccount")
    assert overlay.pod["serviceAccountName"] == account["metadata"]["name"]
    assert overlay.pod["automountServiceAccountToken"] is False
    assert account["automountServiceAccountToken"] is False
    assert overlay.pod["enableServiceLinks"] is False
    assert overlay.of_kind("Role") == overlay.of_kind("ClusterRole") == []


def test_secrets_are_files_and_never_variables(overlay: Rendered) -> None:
    """A variable shows in `kubectl describe`, in crash dumps and to every child process; a file can be renewed."""
    assert all("valueFrom" not in each for each in overlay.container["env"])
    assert all("secretRef" not in each for each in overlay.container["envFrom"])
    (volume,) = (each for each in overlay.pod["volumes"] if each["name"] == "secrets")
    assert volume["secret"]["defaultMode"] == 0o440
    assert not [each for each in overlay.of_kind("Secret") if each.get("data") or each.get("stringData")]
    assert not [name for name in overlay.environment if "PASSWORD" in name or name == "UNLINK_BROKER__URL"]


def test_the_probes_distinguish_a_stuck_worker_from_one_that_waits(overlay: Rendered) -> None:
    """With readiness as liveness, an outage of the broker would restart every worker again and again."""
    asked = {name: overlay.container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/livez", "port": "http"},
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }


def test_resources_are_requested_and_memory_is_bounded(overlay: Rendered) -> None:
    """Without requests the scheduler packs blindly; without a bound one worker takes its node's memory."""
    resources = overlay.container["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert "memory" in resources["limits"]
    assert "cpu" not in resources["limits"], "throttling delays heartbeats and lease renewals"


def test_the_grace_period_outlasts_the_drain(overlay: Rendered) -> None:
    """A worker killed while it drains leaves sessions open, and its commands wait for their leases to run out."""
    drain = float(overlay.environment["UNLINK_DRAIN_SECONDS"])
    assert overlay.pod["terminationGracePeriodSeconds"] == 2 * drain + 40
    closing = (
        dispatcher.CANCEL_SECONDS
        + broker.FLUSH_SECONDS
        + intake.CLOSE_SECONDS
        + connection.CLOSE_SECONDS
        + logon.LOG_OFF_SECONDS
    )
    assert closing + 10 <= 40, "with 10 s for the ledger to give back its leases"


def test_one_pod_alone_owns_a_ledger_that_is_a_file() -> None:
    """Two pods with one SQLite file, on two hosts, would do things twice."""
    small = rendered("small")
    assert small.deployment["spec"]["replicas"] == 1
    assert small.deployment["spec"]["strategy"] == {"type": "Recreate"}
    (claim,) = small.of_kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (volume,) = (each for each in small.pod["volumes"] if each["name"] == "ledger")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_number_of_pods_is_keda_s_alone(production: Rendered) -> None:
    """With `replicas` in the manifest, each deployment would set the number back and end workers under load."""
    assert "replicas" not in production.deployment["spec"]
    (scaled,) = production.of_kind("ScaledObject")
    assert scaled["spec"]["scaleTargetRef"] == {"name": production.deployment["metadata"]["name"]}
    assert scaled["spec"]["minReplicaCount"] >= 2


def test_keda_counts_commands_that_are_under_way(production: Rendered) -> None:
    """Counting only waiting commands, KEDA would end the pod that works on the last of them."""
    ((trigger,),) = (each["spec"]["triggers"] for each in production.of_kind("ScaledObject"))
    metadata = trigger["metadata"]
    assert metadata["protocol"] == "http"
    assert "excludeUnacknowledged" not in metadata
    assert "@" not in metadata["host"], "user and password belong into the TriggerAuthentication"
    assert float(metadata["value"]) <= EnterpriseManagerSettings.model_fields["max_in_flight"].default
    authentication = production.named("TriggerAuthentication", trigger["authenticationRef"]["name"])
    assert {each["parameter"] for each in authentication["spec"]["secretTargetRef"]} == {"username", "password"}


def test_a_node_can_be_drained_and_never_takes_all_workers(production: Rendered) -> None:
    """Without a budget an upgrade of the nodes may take every worker; with too strict a one it would hang."""
    (budget,) = production.of_kind("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert _selects(budget["spec"]["selector"], production)
    spread = production.pod["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(_selects(each["labelSelector"], production) for each in spread)
    assert production.deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_prometheus_finds_the_pods(production: Rendered) -> None:
    """A selector or port that fits nothing is no error anywhere: the alerts would just never fire."""
    (monitor,) = production.of_kind("PodMonitor")
    assert _selects(monitor["spec"]["selector"], production)
    assert [(each["port"], each["path"]) for each in monitor["spec"]["podMetricsEndpoints"]] == [("http", "/metrics")]


def test_nothing_reaches_the_pods_or_leaves_them_unless_it_is_listed(production: Rendered) -> None:
    """A worker holds the right to edit backup jobs: what it may talk to is a short list."""
    everything = production.named("NetworkPolicy", "deny-all")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    allowed = production.named("NetworkPolicy", "unlink-worker")["spec"]
    assert _selects(allowed["podSelector"], production)
    assert all(rule["from"] and rule["ports"] for rule in allowed["ingress"])
    assert all(rule["to"] and rule["ports"] for rule in allowed["egress"])
    assert [port["port"] for rule in allowed["ingress"] for port in rule["ports"]] == ["http"]
    leaving = {(port["port"], port.get("protocol", "TCP")) for rule in allowed["egress"] for port in rule["ports"]}
    dns = {(53, "UDP"), (53, "TCP")}
    assert leaving == dns | {(5671, "TCP"), (5672, "TCP"), (5432, "TCP"), (9398, "TCP")}
    blocks = [peer["ipBlock"]["cidr"] for rule in allowed["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert blocks
    assert not [block for block in blocks if block.endswith("/0")], "an open block allows the whole network"


def _selects(selector: Resource, overlay: Rendered) -> bool:
    labels = overlay.deployment["spec"]["template"]["metadata"]["labels"]
    return bool(selector["matchLabels"]) and selector["matchLabels"].items() <= labels.items()
