"""The commands that the worker takes, version 1: JSON, UTF-8, snake_case, unknown fields refused."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

#: The largest message that is read, in bytes: what intermediaries must carry (CloudEvents 1.0, "Size Limits").
MAX_MESSAGE_BYTES = 64 * 1024


def _bare_uuid(value: str) -> str:
    """Drop the `urn:veeam:<Type>:` prefix, so that both spellings of one ID are equal; lower-case."""
    return value.rpartition(":")[2].lower()


def _no_control_characters(value: str) -> str:
    if any(ord(character) < ord(" ") or character == "\x7f" for character in value):
        raise ValueError("control characters are not allowed")
    return value


IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{1,200}$")]
EnterpriseManagerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
JobId = Annotated[str, StringConstraints(pattern=rf"^(urn:veeam:Job:)?{_UUID}$"), AfterValidator(_bare_uuid)]
RepositoryUid = Annotated[
    str, StringConstraints(pattern=rf"^(urn:veeam:Repository:)?{_UUID}$"), AfterValidator(_bare_uuid)
]
LinkId = Annotated[str, StringConstraints(pattern=rf"^{_UUID}$"), AfterValidator(_bare_uuid)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_no_control_characters)]


def _text(longest: int) -> StringConstraints:
    return StringConstraints(max_length=longest)


class Message(BaseModel):
    """A part of a message: unknown fields refused, no type coerced, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class JobReference(Message):
    """The backup copy job, by exactly one of `id` and `name`."""

    id: JobId | None = Field(None, description="The job's UUID, bare or as `urn:veeam:Job:<uuid>`.")
    name: Name | None = Field(None, description="The job's name; must be unique, if need be with `backup_server`.")
    backup_server: Name | None = Field(None, description="Narrows `name` to the jobs of one backup server.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        _require_one({"id": self.id, "name": self.name})
        _require_name_for_server(self.name, self.backup_server)
        return self


class RepositoryReference(Message):
    """The repository whose link is removed, by exactly one of `link_id`, `uid` and `name`."""

    link_id: LinkId | None = Field(
        None, description="The link's `ObjectInJobId`: the second ID of the vendor's DELETE."
    )
    uid: RepositoryUid | None = Field(
        None, description="The repository's UUID, bare or as `urn:veeam:Repository:<uuid>`."
    )
    name: Name | None = Field(
        None, description="The repository's name; must be unique, if need be with `backup_server`."
    )
    backup_server: Name | None = Field(None, description="Narrows `name` to the repositories of one backup server.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        _require_one({"link_id": self.link_id, "uid": self.uid, "name": self.name})
        _require_name_for_server(self.name, self.backup_server)
        return self


def _require_one(alternatives: dict[str, str | None]) -> None:
    given = [name for name, value in alternatives.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(alternatives)
        raise ValueError(f"exactly one of {names} is needed, not {' and '.join(given) or 'none'}")


def _require_name_for_server(name: str | None, backup_server: str | None) -> None:
    if backup_server is not None and name is None:
        raise ValueError("backup_server narrows a name; with an ID it has no meaning")


class Ticket(Message):
    """The record in the publisher's own system that this command belongs to; repeated in every event."""

    system: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    url: Annotated[str, StringConstraints(max_length=2000)] | None = None


LabelName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
LabelValue = Annotated[str, StringConstraints(max_length=200)]


class UnlinkCommand(Message):
    """Remove the link between a backup copy job and a repository (`unlink.v1`)."""

    command: Literal["unlink.v1"]
    idempotency_key: IdempotencyKey = Field(description="One key, one unlink, however often the message arrives.")
    enterprise_manager: EnterpriseManagerName = Field(
        "default", description="The configured name of the Enterprise Manager."
    )
    job: JobReference
    repository: RepositoryReference
    dry_run: bool = Field(default=False, description="Look and plan, change nothing.")
    allow_linked_backups_removal: bool = Field(
        default=False, description="Consent to what any edit of a copy job does: it drops the job's linked backups."
    )
    if_absent: Literal["succeed", "fail"] = Field("succeed", description="What a link that is not there means.")
    timeout_seconds: int = Field(600, ge=10, le=1500, description="Seconds from the DELETE to the end.")
    not_after: AwareDatetime | None = Field(None, description="RFC 3339; past it, the command is not started.")
    requested_by: Annotated[str, _text(200)] | None = None
    reason: Annotated[str, _text(1000)] | None = None
    ticket: Ticket | None = None
    labels: dict[LabelName, LabelValue] = Field(default_factory=dict, max_length=20)
    correlation_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content, hexadecimal: equal for two spellings of one command, different for two commands.

        `dry_run` is no part of it: a dry run leaves no trace, and the same key is then used for the real command.
        """
        content = self.model_dump(mode="json", exclude={"dry_run"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
