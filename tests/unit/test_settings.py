"""What an operator who mistypes a setting is told."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import contracts
from tests.rights import without_the_rights_of_root
from worker.settings import (
    ClientSettings,
    ConsoleProgramSettings,
    ConsoleSettings,
    Settings,
    SettingsInvalidError,
    load,
    secrets_of,
)

VALID = {
    "UNLINK_BROKER__URL": "amqp://worker:s3cret%2Fpart@rabbit/",
    "UNLINK_LEDGER__URL": "sqlite:///ledger.sqlite",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__URL": "https://em:9398/api/",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__USERNAME": "svc",
    "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD": "hunter2",
}

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test from settings that are right."""
    for name, value in VALID.items():
        monkeypatch.setenv(name, value)


def problems() -> list[str]:
    """What is said of the settings as they are."""
    with pytest.raises(SettingsInvalidError) as caught:
        load(Settings)
    return str(caught.value).splitlines()


def test_right_settings_are_read_with_their_defaults() -> None:
    """The documented minimum is enough."""
    settings = load(Settings)
    manager = settings.enterprise_managers["default"]
    assert manager.url == "https://em:9398"
    assert (manager.format, manager.verify_tls, manager.max_in_flight) == ("xml", True, 64)
    assert settings.broker.hold_seconds == 1500


def test_several_enterprise_managers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name in the variables is one Enterprise Manager, in lower case."""
    for part in ("URL", "USERNAME", "PASSWORD"):
        name = f"UNLINK_ENTERPRISE_MANAGERS__FRANKFURT__{part}"
        monkeypatch.setenv(name, VALID[name.replace("FRANKFURT", "DEFAULT")])
    assert set(load(Settings).enterprise_managers) == {"default", "frankfurt"}


def test_no_enterprise_manager_is_called_as_the_unknown_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events would be mistaken for those of commands that name no Enterprise Manager."""
    for part in ("URL", "USERNAME", "PASSWORD"):
        value = VALID[f"UNLINK_ENTERPRISE_MANAGERS__DEFAULT__{part}"]
        monkeypatch.setenv(f"UNLINK_ENTERPRISE_MANAGERS___UNKNOWN__{part}", value)
    (problem,) = problems()
    assert problem.startswith("UNLINK_ENTERPRISE_MANAGERS___UNKNOWN: no Enterprise Manager may be called '_unknown'")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("UNLINK_BROKER__URL", None, "is needed and not set"),
        ("UNLINK_BROKER__URL", "http://rabbit", "must start with amqp:// or amqps://"),
        ("UNLINK_LEDGER__URL", "mysql://x", "must start with sqlite:// or postgresql://"),
        ("UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD", None, "is needed and not set"),
        ("UNLINK_ENTERPRISE_MANAGERS__DEFAULT__URL", "em:9398", "must be https://"),
        ("UNLINK_ENTERPRISE_MANAGERS__DEFAULT__URL", "https://a:b@em", "must not hold a user or password"),
        ("UNLINK_ENTERPRISE_MANAGERS__DEFAULT__CA_FILE", "/nowhere/ca.pem", "does not point to a file"),
        ("UNLINK_ENTERPRISE_MANAGERS__DEFAULT__FORMAT", "yaml", "'xml' or 'json'"),
        ("UNLINK_ENTERPRISE_MANAGERS__DEFAULT__MAX_IN_FLIGHT", "many", "valid integer"),
        ("UNLINK_BROKER__UPL", "x", "there is no such setting"),
        ("UNLINK_BROKRE__URL", "x", "there is no such setting"),
        ("UNLINK_LOG__LEVEL", "loud", "'debug', 'info'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, said: str
) -> None:
    """The message names the variable as it is written, and what is wrong with it."""
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    assert len(problems()) == 1
    assert problems()[0].startswith(f"{variable}: ")
    assert said in problems()[0]


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three mistakes take one restart to find, not three."""
    for name in VALID:
        monkeypatch.delenv(name)
    assert [line.partition(":")[0] for line in problems()] == [
        "UNLINK_BROKER__URL",
        "UNLINK_LEDGER__URL",
        "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__URL",
    ]


def test_wrong_values_are_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in the wrong variable does not reach the console."""
    monkeypatch.setenv("UNLINK_BROKER__URL", "ampq://worker:hunter2@rabbit")
    monkeypatch.setenv("UNLINK_HTTP__PORT", "hunter2")
    assert "hunter2" not in "\n".join(problems())


def test_what_kubernetes_adds_for_a_service_is_no_setting_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service named unlink-worker beside the pod does not keep the worker from starting."""
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_METRICS", "PORT", "PORT_9464_TCP", "PORT_9464_TCP_ADDR"):
        monkeypatch.setenv(f"UNLINK_WORKER_{name}", "tcp://10.0.0.1:9464")
    load(Settings)


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mounted Kubernetes secret, with its links and hidden folders, is read like variables."""
    monkeypatch.delenv("UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD")
    hidden = tmp_path / "..2027_01_31"
    hidden.mkdir()
    (hidden / "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD").write_text("from-file\n")
    (tmp_path / "..data").symlink_to(hidden)
    (tmp_path / "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD").symlink_to(
        "..data/UNLINK_ENTERPRISE_MANAGERS__DEFAULT__PASSWORD"
    )
    monkeypatch.setenv("UNLINK_SECRETS_DIR", str(tmp_path))
    assert load(Settings).enterprise_managers["default"].password.get_secret_value() == "from-file"


def test_a_secrets_folder_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong mount is not mistaken for missing settings."""
    monkeypatch.setenv("UNLINK_SECRETS_DIR", "/nowhere")
    assert "UNLINK_SECRETS_DIR" in problems()[0]


def test_a_secret_file_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without the right to read it ends with its reason, not with a stack trace of 70 lines."""
    load(Settings)  # what it imports may not be read without the rights of root
    with TemporaryDirectory() as folder:
        secret = Path(folder, "UNLINK_BROKER__URL")
        secret.write_text("amqp://elsewhere")
        secret.chmod(0)
        Path(folder).chmod(0o755)
        monkeypatch.setenv("UNLINK_SECRETS_DIR", folder)
        with without_the_rights_of_root():
            reason = f"[Errno 13] Permission denied: '{secret}'"
            assert problems() == [f"UNLINK_SECRETS_DIR: a file cannot be read: {reason}"]


@pytest.mark.parametrize("of_folder", [True, False])
@pytest.mark.parametrize(
    "variable", ["UNLINK_BROKER__CA_FILE", "UNLINK_ENTERPRISE_MANAGERS__DEFAULT__CA_FILE", "UNLINK_POLICY_FILE"]
)
def test_a_file_that_may_not_be_read_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, variable: str, of_folder: bool
) -> None:
    """A file in a folder without search permission was said to be one of the secrets folder."""
    load(Settings)  # as above
    with TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.touch(0o644 if of_folder else 0)
        Path(folder).chmod(0o600 if of_folder else 0o755)
        monkeypatch.setenv(variable, str(file))
        with without_the_rights_of_root():
            assert problems() == [f"{variable}: the file cannot be read: Permission denied"]


def test_a_secret_file_that_is_not_utf_8_is_said_without_its_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As above; and no byte of a secret is printed."""
    (tmp_path / "UNLINK_BROKER__URL").write_bytes(b"\xff")
    monkeypatch.setenv("UNLINK_SECRETS_DIR", str(tmp_path))
    assert problems() == ["UNLINK_SECRETS_DIR: a file cannot be read: it is not UTF-8"]


def test_the_command_line_needs_only_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher submits without knowing the database or any password of an Enterprise Manager."""
    for name in VALID:
        if "BROKER" not in name:
            monkeypatch.delenv(name)
    load(ClientSettings)


def test_secrets_are_known_for_redaction() -> None:
    """What must not reach a log is known: passwords, also those inside URLs, as written and as decoded."""
    assert secrets_of(load(Settings)) == {"hunter2", "s3cret%2Fpart", "s3cret/part"}


def test_settings_do_not_print_their_secrets() -> None:
    """Settings in a traceback or a debug line show no password."""
    printed = repr(load(Settings))
    assert "hunter2" not in printed
    assert "s3cret" not in printed


#: What users read: names of variables in it are set as they are written.
_READ_BY_USERS = (
    *sorted(path for path in (Path(contracts.__file__).parent / "recipes").iterdir() if path.is_file()),
    *(_ROOT / name for name in ("README.md", "contracts/README.md", "compose.yaml", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted((_ROOT / "docs").rglob("*.md")),
    *sorted((_ROOT / "k8s").rglob("*.md")),
)


@pytest.mark.parametrize("document", _READ_BY_USERS, ids=lambda path: str(path.relative_to(_ROOT)))
def test_no_document_tells_a_user_to_set_what_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, document: Path
) -> None:
    """A pipeline exports its variables to its jobs: the program would refuse such a one, and do nothing."""
    wrong = []
    for name in sorted(set(re.findall(r"\bUNLINK_[A-Z0-9]+(?:_+[A-Z0-9]+)*(?![A-Z0-9_])", document.read_text()))):
        with monkeypatch.context() as environment:
            environment.setenv(name, str(tmp_path))
            wrong += [name for kind in (Settings, ConsoleProgramSettings) if _is_no_setting(name, kind)]
    assert wrong == []


def _is_no_setting(name: str, kind: type[Settings | ConsoleProgramSettings]) -> bool:
    try:
        load(kind)
    except SettingsInvalidError as error:
        # Of a section that is given as a whole, no line names the variable.
        return f"{name}: there is no such setting" in str(error) or "a variable given as JSON" in str(error)
    return False


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://unlinks.example.com:443/", "https://unlinks.example.com"),
        ("HTTPS://Unlinks.Example.com", "https://unlinks.example.com"),
        ("https://unlinks.example.com:8443", "https://unlinks.example.com:8443"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:9465", "http://[::1]:9465"),
    ],
)
def test_the_consoles_address_is_spelt_as_browsers_spell_an_origin(given: str, origin: str) -> None:
    """Every login would be refused as one that no page of the console has sent."""
    assert ConsoleSettings.model_validate({"public_url": given}).public_url == origin
