"""Every variable, port, path and secret's name in the manifests is one that the program knows."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest

from tests.k8s.manifests import OVERLAYS, Rendered, documented_names, rendered
from worker.broker.topology import DEAD, MISROUTED, UNROUTED, command_queue, delay_exchange
from worker.settings import PREFIX, SECRETS_DIR_VARIABLE, HttpSettings, Settings, SettingsInvalidError, load

#: What a user puts into the secrets: the forms that k8s/README.md gives.
SECRETS = {
    "UNLINK_BROKER__URL": "amqps://unlink-worker:p%40ss@rabbitmq.rabbitmq.svc:5671/",
    "UNLINK_LEDGER__URL": (
        "postgresql://unlink:p%40ss@postgresql.postgresql.svc:5432/unlink"
        "?sslmode=verify-full&sslrootcert=/etc/unlink/trust/ledger-ca.pem"
    ),
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__USERNAME": "EXAMPLE\\svc-unlink",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD": "p@ss",
}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Rendered:
    """Each overlay."""
    return rendered(request.param)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests."""
    for variable in list(os.environ):
        if variable.startswith(PREFIX):
            monkeypatch.delenv(variable)


@pytest.fixture
def environment(
    overlay: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: None
) -> dict[str, str]:
    """The container's variables, set, with what is mounted into it below a temporary folder."""
    del clean_environment
    for volume in ("secrets", "trust"):
        _below(tmp_path, overlay.mount_path(volume)).mkdir(parents=True)
    for authority in _trusted(overlay):
        (_below(tmp_path, overlay.mount_path("trust")) / authority).write_text("-----BEGIN CERTIFICATE-----\n")
    variables = {
        name: str(_below(tmp_path, value)) if value.startswith("/") else value
        for name, value in overlay.environment.items()
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def test_the_program_takes_the_settings_of_the_container(
    overlay: Rendered, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that the program does not know ends it at the start, in every pod, on the day of the deployment."""
    # As variables too, since a file of an unknown name is no error.
    for name, value in _secrets(overlay).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(SECRETS_DIR_VARIABLE)
    load(Settings)
    assert environment


def test_an_unknown_variable_would_be_found(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that lets everything pass would look just like one that found nothing."""
    _lay_out(SECRETS, environment[SECRETS_DIR_VARIABLE])
    monkeypatch.setenv("UNLINK_BROKER__TOPOLOGIE", "verify")
    with pytest.raises(SettingsInvalidError, match=r"^UNLINK_BROKER__TOPOLOGIE: there is no such setting$"):
        load(Settings)


def test_the_program_reads_secrets_as_the_kubelet_lays_them_out(overlay: Rendered, environment: dict[str, str]) -> None:
    """The kubelet makes links into a hidden folder; a program that stumbles over it would miss its passwords."""
    _lay_out(_secrets(overlay), environment[SECRETS_DIR_VARIABLE])
    settings = load(Settings)
    assert settings.broker.url.get_secret_value() == SECRETS["UNLINK_BROKER__URL"]
    (enterprise_manager,) = settings.enterprise_managers.values()
    assert enterprise_manager.password.get_secret_value() == "p@ss"
    ledger = "sqlite" if overlay.overlay == "small" else "postgresql"
    assert urlsplit(settings.ledger.url.get_secret_value()).scheme == ledger


def test_the_secrets_folder_is_the_one_that_is_mounted(overlay: Rendered) -> None:
    """The worker would look for its passwords where there is nothing."""
    assert overlay.environment[SECRETS_DIR_VARIABLE] == overlay.mount_path("secrets")


def test_every_path_in_the_settings_is_on_a_volume(overlay: Rendered) -> None:
    """The root file system is read-only and holds no certificates of yours."""
    mounts = {each["mountPath"]: each.get("readOnly", False) for each in overlay.container["volumeMounts"]}
    settings = overlay.environment | _secrets(overlay)
    for name, value in settings.items():
        for path in re.findall(r"(?:^|sqlite:///|sslrootcert=)(/[\w./-]+)", value):
            folder = path if name == SECRETS_DIR_VARIABLE else str(PurePosixPath(path).parent)
            assert folder in mounts, f"{name} names {path}, which is on no volume"
            assert mounts[folder] is not value.startswith("sqlite:"), f"{name}: {path}"


def test_the_port_has_one_number_and_one_name(overlay: Rendered) -> None:
    """Probes, scrapes and the network policy go by the port's name: it must be where the program listens."""
    assert [(each["name"], each["containerPort"]) for each in overlay.container["ports"]] == [
        ("http", int(overlay.environment["UNLINK_HTTP__PORT"]))
    ]
    assert int(overlay.environment["UNLINK_HTTP__PORT"]) == HttpSettings().port


def test_the_paths_that_are_asked_are_paths_that_the_program_serves(overlay: Rendered) -> None:
    """A probe of a path that is not there restarts a healthy worker for ever."""
    served = set(re.findall(r"`(/\w+)`", HttpSettings.__doc__ or ""))
    probed = {overlay.container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    scraped = {
        endpoint["path"]
        for monitor in overlay.of_kind("PodMonitor")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    }
    assert probed | scraped <= served


def test_the_network_policy_lets_through_what_the_settings_name() -> None:
    """A port that the policy forgets is an outage that looks like the other side's."""
    production = rendered("production")
    policy = production.named("NetworkPolicy", "unlink-worker")
    open_ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    urls = [value for value in (production.environment | _secrets(production)).values() if "://" in value]
    assert {urlsplit(url).port for url in urls} <= open_ports
    assert len(urls) == 3


def test_every_secret_that_something_needs_is_made_with_the_keys_that_it_reads() -> None:
    """A missing Secret or key leaves the pods waiting at their creation, or KEDA and the operator without a user."""
    production = rendered("production")
    made = {
        each["spec"]["target"]["name"]: {entry["secretKey"] for entry in each["spec"]["data"]}
        for each in production.of_kind("ExternalSecret")
    }
    (volume,) = (each for each in production.pod["volumes"] if each["name"] == "secrets")
    assert made[volume["secret"]["secretName"]] == SECRETS.keys()
    for authentication in production.of_kind("TriggerAuthentication"):
        for needed in authentication["spec"]["secretTargetRef"]:
            assert needed["key"] in made[needed["name"]]
    for user in production.of_kind("User"):
        assert made[user["spec"]["importCredentialsSecret"]["name"]] == {"username", "password"}


def test_the_secrets_of_the_broker_s_users_carry_the_label_that_the_operator_looks_for() -> None:
    """Since 1.20 the topology operator reads no Secret without its label: the users would never be made."""
    production = rendered("production")
    secrets = {each["spec"]["target"]["name"]: each["spec"]["target"] for each in production.of_kind("ExternalSecret")}
    for user in production.of_kind("User"):
        target = secrets[user["spec"]["importCredentialsSecret"]["name"]]
        assert target["template"]["metadata"]["labels"]["rabbitmq.com/topology-operator"] == "true"


def test_there_is_a_queue_for_each_enterprise_manager_and_keda_counts_them_all() -> None:
    """An Enterprise Manager without a queue stops the worker; one that KEDA does not count is never scaled for."""
    production = rendered("production")
    names = {
        match[1].lower()
        for variable in production.environment
        if (match := re.fullmatch(r"UNLINK_ENTERPRISE_MANAGERS__(\w+?)__URL", variable))
    }
    queues = {each["spec"]["name"] for each in production.of_kind("Queue")}
    assert {command_queue(name) for name in names} <= queues
    ((trigger,),) = (each["spec"]["triggers"] for each in production.of_kind("ScaledObject"))
    counted = {queue for queue in queues if re.search(trigger["metadata"]["queueName"], queue)}
    assert counted == {command_queue(name) for name in names} | {MISROUTED}
    assert not counted & {DEAD, UNROUTED, delay_exchange(5)}


def test_the_worker_only_checks_what_the_operator_makes() -> None:
    """The worker declares limits as arguments, the operator makes them policies: the broker would refuse the worker."""
    production = rendered("production")
    assert production.of_kind("Queue")
    assert production.environment["UNLINK_BROKER__TOPOLOGY"] == "verify"


def test_what_has_to_be_there_before_is_in_the_documentation(overlay: Rendered) -> None:
    """Who deploys makes these by hand: a name that is nowhere written down cannot be made."""
    needed = set(_trusted(overlay)) | _secrets(overlay).keys()
    for volume in overlay.pod["volumes"]:
        needed |= {volume["secret"]["secretName"]} if "secret" in volume else set()
        needed |= {volume["configMap"]["name"]} if "configMap" in volume else set()
    assert needed <= documented_names()


def _below(folder: Path, path: str) -> Path:
    return folder / path.removeprefix("/")


def _trusted(overlay: Rendered) -> list[str]:
    """The files of certificate authorities that the settings name."""
    folder = overlay.mount_path("trust")
    settings = " ".join((overlay.environment | _secrets(overlay)).values())
    return sorted(set(re.findall(rf"{folder}/([\w.-]+)", settings)))


def _secrets(overlay: Rendered) -> dict[str, str]:
    """The secrets that are not already settings."""
    return {name: value for name, value in SECRETS.items() if name not in overlay.environment}


def _lay_out(secrets: dict[str, str], folder: str) -> None:
    """As the kubelet does: a folder with a time in its name, a link to it, and a link for each key."""
    version = Path(folder, "..2026_01_02_03_04_05.678")
    version.mkdir()
    Path(folder, "..data").symlink_to(version.name)
    for name, value in secrets.items():
        (version / name).write_text(value)
        Path(folder, name).symlink_to(Path("..data", name))
