"""The settings: environment variables with the prefix `UNLINK_`, nested by `__`, or files in `UNLINK_SECRETS_DIR`.

More than 400 lines: an operator's variables are all defined in one place.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from contracts.commands import UNKNOWN_NAME, EnterpriseManagerName

PREFIX = "UNLINK_"
SECRETS_DIR_VARIABLE = "UNLINK_SECRETS_DIR"

Seconds = Annotated[float, Field(gt=0)]


def _not_reserved(name: str) -> str:
    if name == UNKNOWN_NAME:
        raise ValueError(f"no Enterprise Manager may be called {UNKNOWN_NAME!r}: events of unknown ones have that name")
    return name


#: The name of an Enterprise Manager that can be configured.
ConfiguredName = Annotated[EnterpriseManagerName, AfterValidator(_not_reserved)]


def _readable(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        path = validate(value)
        with path.open("rb"):
            return path
    except OSError as error:  # without search permission for the folder, also from the validation itself
        raise ValueError(f"the file cannot be read: {error.strerror}") from None


ReadableFile = Annotated[FilePath, WrapValidator(_readable)]

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_FINGERPRINT = re.compile("[0-9a-f]{64}")


class SettingsInvalidError(Exception):
    """The settings are wrong. The message names each variable, one a line, and never repeats a value."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class BrokerSettings(_Section):
    """RabbitMQ."""

    url: SecretStr = Field(description="`amqp://` or `amqps://`, with user and password.")
    ca_file: ReadableFile | None = Field(
        None, description="For `amqps://`: the CA to verify the broker's certificate against."
    )
    hold_seconds: Seconds = Field(1500, description="The longest that a delivery is kept unacknowledged.")
    management_url: SecretStr | None = Field(
        None, description="Its management API, used by `doctor` only: `https://user:password@host:15671`."
    )
    topology: Literal["declare", "verify"] = Field(
        "declare", description="Declare exchanges and queues, or only check them."
    )
    heartbeat_seconds: int = Field(30, ge=5)
    blocked_seconds: Seconds = Field(
        300, description="After this long in a memory or disk alarm the connection is opened anew."
    )
    confirm_seconds: Seconds = Field(
        30, description="How long a publish may wait for its confirm before it is repeated."
    )

    @field_validator("management_url")
    @classmethod
    def _management(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else _require_scheme(value, ("http", "https"))

    @field_validator("url")
    @classmethod
    def _amqp(cls, value: SecretStr) -> SecretStr:
        return _require_scheme(value, ("amqp", "amqps"))


class LedgerSettings(_Section):
    """The database of idempotency keys."""

    url: SecretStr = Field(description="`sqlite:///path` or `postgresql://user:password@host/database`.")
    lease_seconds: Seconds = Field(11, description="How long a worker keeps its unlinks without renewing its leases.")
    retention_days: Seconds = Field(90, description="How long settled keys are kept.")

    @field_validator("url")
    @classmethod
    def _database(cls, value: SecretStr) -> SecretStr:
        return _require_scheme(value, ("sqlite", "postgresql"))


class EnterpriseManagerSettings(_Section):
    """One Veeam Backup Enterprise Manager."""

    url: str = Field(description="Such as `https://em.example.com:9398`.")
    username: str = Field(min_length=1)
    password: SecretStr
    ca_file: ReadableFile | None = Field(None, description="The CA (or the self-signed certificate) to verify against.")
    cert_sha256: str | None = Field(
        None, description="The SHA-256 fingerprint of its certificate, in hexadecimal; colons do not matter."
    )
    verify_tls: bool = True
    format: Literal["xml", "json"] = "xml"
    max_in_flight: int = Field(64, ge=1, le=10_000, description="Unlinks at once; the prefetch of its queue.")
    max_requests: int = Field(16, ge=1, le=256, description="Requests at once.")
    # Looks come at most twelve intervals apart, so that the logon session does not expire (15 idle minutes).
    poll_interval_seconds: float = Field(2, gt=0, le=60)
    keep_finished_tasks: int | None = Field(
        None, ge=100, description="How many finished tasks a logon session keeps; older ones are deleted. None: all."
    )
    request_timeout_seconds: Seconds = 30
    verify_seconds: float = Field(60, ge=0, description="How long a list may lag behind a finished task.")
    settling_seconds: float = Field(
        120, ge=0, description="After a DELETE with an unknown result: how long its task may still be running."
    )

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be https://host:port (or http:// for the obsolete plain port)")
        if parts.username or parts.password:
            raise ValueError("must not hold a user or password: they have variables of their own")
        return value.rstrip("/").removesuffix("/api")

    @property
    def basic_credentials(self) -> str:
        """User and password as HTTP Basic sends them (RFC 7617)."""
        return base64.b64encode(f"{self.username}:{self.password.get_secret_value()}".encode()).decode()

    @field_validator("cert_sha256")
    @classmethod
    def _fingerprint(cls, value: str | None) -> str | None:
        bare = (value or "").replace(":", "").replace(" ", "").lower()
        if value is not None and not _FINGERPRINT.fullmatch(bare):
            raise ValueError("must be a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons")
        return bare or None

    @model_validator(mode="after")
    def _verified_or_not(self) -> EnterpriseManagerSettings:
        if self.ca_file is not None and not self.verify_tls:
            raise ValueError("ca_file and verify_tls=false contradict each other; leave one of them out")
        if self.cert_sha256 is not None and not self.verify_tls:
            raise ValueError("cert_sha256 and verify_tls=false contradict each other; leave one of them out")
        if self.cert_sha256 is not None and not self.url.startswith("https:"):
            raise ValueError("cert_sha256 needs an https:// URL: over plain HTTP there is no certificate")
        return self


class HttpSettings(_Section):
    """Where `/livez`, `/readyz` and `/metrics` are served."""

    host: str = "0.0.0.0"  # noqa: S104 - probes and scrapers come from outside the pod
    port: int = Field(9464, ge=0, le=65535)


class LogSettings(_Section):
    """The log."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class TracesSettings(_Section):
    """Where spans are sent. Without an endpoint, none are recorded; the command's trace context is passed on anyway."""

    endpoint: str | None = Field(
        None, description="A collector's OTLP/HTTP address for traces, such as `http://collector:4318/v1/traces`."
    )
    sample_ratio: float = Field(1, ge=0, le=1, description="The share of the traces that begin here which is recorded.")

    @field_validator("endpoint")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be http:// or https://, with the path, such as http://collector:4318/v1/traces")
        if parts.username or parts.password:
            raise ValueError("must not hold a user or password")
        return value


class OidcSettings(_Section):
    """The provider by which people sign in to the console (OpenID Connect)."""

    issuer: str = Field(description="Such as `https://login.example.com/realms/ops`; exactly as its tokens name it.")
    client_id: str = Field(min_length=1)
    client_secret: SecretStr = Field(min_length=1)
    roles_claim: str = Field(min_length=1, description="The claim with `read`, `submit` or `operate`.")
    name_claim: str = Field("sub", min_length=1, description="The claim with the user's name.")

    @field_validator("issuer")
    @classmethod
    def _https(cls, value: str) -> str:
        parts = urlsplit(value)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if (parts.scheme != "https" and not local) or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be https:// (http:// on localhost alone), without a query")
        return value


class ConsoleSettings(_Section):
    """Where the console is served, and to whom."""

    host: str = "127.0.0.1"
    port: int = Field(9465, ge=0, le=65535)
    users_file: ReadableFile | None = Field(
        None, description="Its users, in TOML (`worker.console.users`); without it, it is read-only on this host alone."
    )
    public_url: str | None = Field(
        None, description="The address in its users' browsers, such as `https://unlinks.example.com`."
    )
    trusted_proxies: str = Field(
        "", description="Addresses and networks of the proxies whose X-Forwarded-For is trusted, with commas."
    )
    oidc: OidcSettings | None = Field(None, description="Users by OpenID Connect, beside those of the file.")

    @property
    def has_users(self) -> bool:
        """Whether there are users who can sign in."""
        return self.users_file is not None or self.oidc is not None

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
            raise ValueError("must be https://host or https://host:port, without a path")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must be no more than https://host or https://host:port")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("must be https:// (http:// on localhost alone): passwords are sent there")
        # As browsers name an origin: without the port of the scheme.
        return f"{parts.scheme}://" + parts.netloc.lower().removesuffix(":443" if parts.scheme == "https" else ":80")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for each in value.split(","):
            if each.strip():
                ipaddress.ip_network(each.strip())
        return value


class _FromEnvironment(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True, defer_build=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the hook's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """A file in the secrets folder has the name of a variable. If the variable is set too, the variable is used."""
        del dotenv_settings
        folder = os.environ.get(SECRETS_DIR_VARIABLE)
        if not folder:
            return init_settings, env_settings
        files = NestedSecretsSettingsSource(
            file_secret_settings, secrets_dir=folder, secrets_dir_missing="error", secrets_nested_delimiter="__"
        )
        return init_settings, env_settings, files


class ClientSettings(_FromEnvironment):
    """The settings of commands that use only the broker: `submit`, `watch`, `cancel`, `dead`."""

    broker: BrokerSettings


class LedgerClientSettings(_FromEnvironment):
    """The settings of commands that use only the ledger: `status`, `list`, `ledger`."""

    ledger: LedgerSettings


class EnterpriseManagerClientSettings(_FromEnvironment):
    """The settings of commands that use only Enterprise Manager: `links`."""

    enterprise_managers: dict[ConfiguredName, EnterpriseManagerSettings] = Field(min_length=1)


class ConsoleProgramSettings(_FromEnvironment):
    """The settings of `console`. Orders need the broker; lists of links need the Enterprise Managers given here."""

    ledger: LedgerSettings
    broker: BrokerSettings | None = None
    enterprise_managers: dict[ConfiguredName, EnterpriseManagerSettings] = {}
    console: ConsoleSettings = ConsoleSettings()
    log: LogSettings = LogSettings()
    policy_file: ReadableFile | None = None

    @field_validator("log")
    @classmethod
    def _with_audit_lines(cls, value: LogSettings) -> LogSettings:
        """At least `info`: the audit lines, and the only record of a discarded dead letter, are written in any case."""
        return value if value.level == "debug" else value.model_copy(update={"level": "info"})


class Settings(_FromEnvironment):
    """The settings of the worker: all of them."""

    broker: BrokerSettings
    ledger: LedgerSettings
    enterprise_managers: dict[ConfiguredName, EnterpriseManagerSettings] = Field(min_length=1)
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    traces: TracesSettings = TracesSettings()
    reply_to: str = Field("amq.rabbitmq.reply-to.*,reply.*", description="Patterns of queues that may be replied to.")
    drain_seconds: Seconds = Field(
        30, description="On SIGTERM: how long unlinks may continue before they are left to redelivery."
    )
    policy_file: ReadableFile | None = Field(
        None,
        description="Who may send which command, in TOML (`worker.unlinks.policy`); by default all is allowed.",
    )
    forwarders: str = Field(
        "", description="Broker users, with commas, whose statement about a message's sender is trusted: the console's."
    )
    max_attempts: int = Field(10, ge=1, description="How often a command that fails in an unforeseen way is tried.")


#: Variables that Kubernetes adds to a pod for every service (its "service links"); they are not settings.
_SERVICE_LINK = re.compile(
    r"^UNLINK_[A-Z0-9_]*?(_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|_PORT(_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)$"
)

AnySettings = TypeVar("AnySettings", bound=_FromEnvironment)


def load(kind: type[AnySettings]) -> AnySettings:
    """Read the settings from the environment and the secrets folder.

    Raises:
        SettingsInvalidError: with one line for each variable that is missing, wrong or unknown.
    """
    problems = _unknown_variables()
    try:
        settings = kind()
    except SettingsError as error:
        # A nested variable given as a whole must be JSON; or the secrets folder cannot be read.
        problems.append(f"{SECRETS_DIR_VARIABLE} or a variable given as JSON: {error}")
    except (OSError, UnicodeDecodeError) as error:
        problem = error if isinstance(error, OSError) else "it is not UTF-8"
        problems.append(f"{SECRETS_DIR_VARIABLE}: a file cannot be read: {problem}")
    except ValidationError as error:
        problems += [
            f"{_variable(problem['loc'])}: {_advice(problem)}" for problem in error.errors(include_input=False)
        ]
    else:
        if not problems:
            return settings
    raise SettingsInvalidError("\n".join(problems))


def _unknown_variables() -> list[str]:
    # All programs may share one environment.
    known = {name.upper() for kind in (Settings, ConsoleProgramSettings) for name in kind.model_fields}
    return [
        f"{variable}: there is no such setting"
        for variable in sorted(os.environ)
        if variable.upper().startswith(PREFIX)
        and variable.upper() != SECRETS_DIR_VARIABLE
        and variable.upper().removeprefix(PREFIX).partition("__")[0] not in known
        and not _SERVICE_LINK.match(variable.upper())
    ]


#: The first setting to name if a whole section is missing.
_FIRST_VARIABLE: dict[tuple[int | str, ...], tuple[str, ...]] = {
    ("broker",): ("broker", "url"),
    ("ledger",): ("ledger", "url"),
    ("enterprise_managers",): ("enterprise_managers", "default", "url"),
}


def _variable(location: tuple[int | str, ...]) -> str:
    location = _FIRST_VARIABLE.get(location, location)
    return PREFIX + "__".join(str(part) for part in location if part != "[key]").upper()


def _advice(problem: Any) -> str:
    if problem["type"] == "missing":
        return "is needed and not set"
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    return str(problem["msg"]).removeprefix("Value error, ")


def _require_scheme(value: SecretStr, schemes: tuple[str, ...]) -> SecretStr:
    if urlsplit(value.get_secret_value()).scheme not in schemes:
        raise ValueError("must start with " + " or ".join(f"{scheme}://" for scheme in schemes))
    return value


def secrets_of(settings: BaseModel) -> set[str]:
    """Every secret in the settings, and the password in each URL. None of them may appear in a log line."""
    secrets: set[str] = set()
    for value in (getattr(settings, name) for name in type(settings).model_fields):
        if isinstance(value, SecretStr):
            secrets |= _secret_parts(value.get_secret_value())
        for part in value.values() if isinstance(value, dict) else [value]:
            if isinstance(part, BaseModel):
                secrets |= secrets_of(part)
    return secrets


def _secret_parts(secret: str) -> set[str]:
    if "://" not in secret:
        return {secret}
    password = urlsplit(secret).password
    return {password, unquote(password)} if password else set()
