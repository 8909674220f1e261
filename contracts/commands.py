"""The commands that the worker takes, version 1: JSON, UTF-8, snake_case, unknown fields refused.

The `title`, `description` and `examples` of a field go into the published schemas (`contracts.published`). So does
`json_schema_extra`, which holds the rules that a Python validator checks.

More than 400 lines: the commands and their parts are read together, as the published schemas are.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

#: The largest message that is read, in bytes. Intermediaries must forward this size (CloudEvents 1.0, "Size Limits").
MAX_MESSAGE_BYTES = 64 * 1024

#: The longest `correlation_id`, in characters.
MAX_CORRELATION_ID = 200


def _bare_uuid(value: str) -> str:
    """Drop the `urn:veeam:<Type>:` prefix, so that both spellings of one ID are equal; lower-case."""
    return value.rpartition(":")[2].lower()


def _no_control_characters(value: str) -> str:
    if any(ord(character) < ord(" ") or character == "\x7f" for character in value):
        raise ValueError("control characters are not allowed")
    return value


def _written_out(value: Any) -> Any:
    """Refuse numbers, also in text: pydantic would take them for seconds or milliseconds since 1970."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and value[4:5] == "-"):
        raise ValueError("a time with its offset (RFC 3339) is needed, such as 2027-01-31T18:00:00+01:00")
    return value


IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/-]{1,200}$")]
EnterpriseManagerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
#: The Enterprise Manager's name in the answer to a command whose routing key is no valid name. No Enterprise Manager
#: may be configured under this name.
UNKNOWN_NAME = "_unknown"
JobId = Annotated[str, StringConstraints(pattern=rf"^(urn:veeam:Job:)?{_UUID}$"), AfterValidator(_bare_uuid)]
RepositoryUid = Annotated[
    str, StringConstraints(pattern=rf"^(urn:veeam:Repository:)?{_UUID}$"), AfterValidator(_bare_uuid)
]
Time = Annotated[AwareDatetime, Strict(strict=False), BeforeValidator(_written_out)]
LinkId = Annotated[str, StringConstraints(pattern=rf"^{_UUID}$"), AfterValidator(_bare_uuid)]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255),
    AfterValidator(_no_control_characters),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "not": {"type": "string", "pattern": r"[\u0000-\u001F\u007F]"},
        },
    ),
]


def _text(longest: int) -> StringConstraints:
    return StringConstraints(max_length=longest)


_CAPITALS = {"id": "ID", "uid": "UID", "url": "URL"}


def _field_title(name: str, _field: object) -> str:
    """What tools show as the field's name: `Link ID` for `link_id`."""
    words = [_CAPITALS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


class Message(BaseModel):
    """A part of a message: unknown fields refused, no type coerced, immutable."""

    # Validators are built at first use: most modules that import the models use few of them.
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, field_title_generator=_field_title, defer_build=True
    )


def _exactly_one_of(alternatives: dict[str, str], narrowing: str) -> dict[str, Any]:
    """The JSON Schema of the rule that a reference has exactly one of these fields.

    `alternatives` maps each field to the title of that choice. The field `narrowing` goes with `name` only.
    """
    return {
        "oneOf": [
            {
                "title": title,
                "required": [chosen],
                "properties": {
                    chosen: {"type": "string"},
                    **{other: {"type": "null"} for other in alternatives if other != chosen},
                    **({narrowing: {"type": "null"}} if chosen != "name" else {}),
                },
            }
            for chosen, title in alternatives.items()
        ]
    }


class JobReference(Message):
    """The backup copy job, by exactly one of `id` and `name`."""

    model_config = ConfigDict(
        title="Backup copy job",
        json_schema_extra=_exactly_one_of({"id": "job by ID", "name": "job by name"}, narrowing="backup_server"),
    )

    id: JobId | None = Field(
        None,
        description="The job's UUID, bare or as `urn:veeam:Job:<uuid>`.",
        examples=["d1b85018-2769-45be-89bc-03f66b60e6cb", "urn:veeam:Job:d1b85018-2769-45be-89bc-03f66b60e6cb"],
    )
    name: Name | None = Field(
        None,
        description="The job's name; must be unique, if need be with `backup_server`.",
        examples=["Copy to Frankfurt"],
    )
    backup_server: Name | None = Field(
        None,
        description="Narrows `name` to the jobs of one backup server; only with `name`.",
        examples=["vbr01.example.com"],
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        _require_one({"id": self.id, "name": self.name})
        _require_name_for_server(self.name, self.backup_server)
        return self


class RepositoryReference(Message):
    """The repository whose link is removed, by exactly one of `link_id`, `uid` and `name`."""

    model_config = ConfigDict(
        title="Linked repository",
        json_schema_extra=_exactly_one_of(
            {
                "link_id": "repository by its link's ID",
                "uid": "repository by UID",
                "name": "repository by name",
            },
            narrowing="backup_server",
        ),
    )

    link_id: LinkId | None = Field(
        None,
        description="The link's `ObjectInJobId`: the second ID of the vendor's DELETE. Not the repository's own ID.",
        examples=["27a1d57f-7c15-43c6-9162-d05aff1c9bb9"],
    )
    uid: RepositoryUid | None = Field(
        None,
        description="The repository's UUID, bare or as `urn:veeam:Repository:<uuid>`.",
        examples=["urn:veeam:Repository:88788f9e-d8f5-4eb4-bc4f-9b3f5403bcec"],
    )
    name: Name | None = Field(
        None,
        description="The repository's name; must be unique, if need be with `backup_server`.",
        examples=["Scale-out 3"],
    )
    backup_server: Name | None = Field(
        None,
        description="Narrows `name` to the repositories of one backup server; only with `name`.",
        examples=["vbr01.example.com"],
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        _require_one({"link_id": self.link_id, "uid": self.uid, "name": self.name})
        _require_name_for_server(self.name, self.backup_server)
        return self


def _require_one(alternatives: dict[str, str | None]) -> None:
    given = [name for name, value in alternatives.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(alternatives)
        raise ValueError(f"exactly one of {names} is needed; given: {', '.join(given) or 'none'}")


def _require_name_for_server(name: str | None, backup_server: str | None) -> None:
    if backup_server is not None and name is None:
        raise ValueError("backup_server narrows a name; with an ID it has no meaning")


class Ticket(Message):
    """The record in the publisher's own system that this command belongs to; repeated in every event."""

    model_config = ConfigDict(title="Ticket")

    system: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        description="The system's name, as its consumers will recognise it.", examples=["jira", "servicenow"]
    )
    id: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="The record's number or ID there.", examples=["OPS-4711", "CHG0030192"]
    )
    url: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        None, description="Where a person finds it.", examples=["https://jira.example.com/browse/OPS-4711"]
    )


LabelName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
LabelValue = Annotated[str, StringConstraints(max_length=200)]


#: The most commands of one batch.
MAX_BATCH = 10_000


class Batch(Message):
    """Commands that belong together, of one sender and one Enterprise Manager; one event says that all have ended."""

    model_config = ConfigDict(title="Batch")

    id: IdempotencyKey = Field(
        description="Names the batch among those of the same sender and Enterprise Manager: 1 to 200 of "
        "`A-Z a-z 0-9 . _ : / -`.",
        examples=["jira:OPS-4711"],
    )
    size: Annotated[int, Field(ge=1, le=MAX_BATCH)] = Field(
        description="How many commands it has, with different keys. The first size holds.", examples=[2]
    )


#: The number of a run of a key. The ledger counts no further.
Run = Annotated[int, Field(ge=1, le=1_000_000)]

RequestedBy = Annotated[str, _text(200)]
WhyAsked = Annotated[str, _text(1000)]

_KEY = "One key, one unlink, however often the message arrives: 1 to 200 of `A-Z a-z 0-9 . _ : / -`."
_ENTERPRISE_MANAGER = "The configured name of the Enterprise Manager; the same as the routing key."
_REQUESTED_BY = "Who asks, in your own words; repeated in every event."


def _require_order(not_before: datetime | None, not_after: datetime | None) -> None:
    if not_before is not None and not_after is not None and not_before >= not_after:
        raise ValueError("not_before has to be before not_after")


#: The fields that decide what an unlink does.
CONTENT = {"enterprise_manager", "job", "repository", "if_absent", "allow_linked_backups_removal"}


class UnlinkCommand(Message):
    """Remove the link between a backup copy job and a repository."""

    model_config = ConfigDict(title="unlink.v1")

    command: Literal["unlink.v1"] = Field(description="What is to be done, and the version of this contract.")
    idempotency_key: IdempotencyKey = Field(description=_KEY, examples=["jira:OPS-4711/unlink-1"])
    enterprise_manager: EnterpriseManagerName = Field("default", description=_ENTERPRISE_MANAGER)
    job: JobReference
    repository: RepositoryReference
    dry_run: bool = Field(
        default=False,
        description="Look and plan, change nothing. Leaves no trace: the same key can be used for the real command.",
    )
    allow_linked_backups_removal: bool = Field(
        default=False,
        description="Consent to what any edit of a copy job does: it drops the job's linked backups. Without it, a job "
        "that has any is left alone, and the command ends `failed`, `linked_backups_at_risk`.",
    )
    if_absent: Literal["succeed", "fail"] = Field("succeed", description="What a link that is not there means.")
    timeout_seconds: int = Field(
        600, ge=10, le=1500, description="Seconds from the DELETE to the end; after them the outcome is `timed_out`."
    )
    not_after: Time | None = Field(
        None,
        description="A time with its offset (RFC 3339); past it, the command is not started.",
        examples=["2027-01-31T18:00:00+01:00"],
    )
    not_before: Time | None = Field(
        None,
        description="A time with its offset (RFC 3339), before `not_after` and at most 90 days ahead; until then, the "
        "command waits, and can be cancelled. A dry run does not wait.",
        examples=["2027-01-31T02:00:00+01:00"],
    )
    requested_by: RequestedBy | None = Field(None, description=_REQUESTED_BY, examples=["j.doe@example.com"])
    reason: WhyAsked | None = Field(
        None, description="Why it is asked for; kept with the command.", examples=["Repository is decommissioned"]
    )
    ticket: Ticket | None = Field(None, description="The record that this command belongs to.")
    labels: dict[LabelName, LabelValue] = Field(
        default_factory=dict,
        max_length=20,
        description="Short texts by name, repeated in every event.",
        examples=[{"cost-centre": "4200"}],
    )
    batch: Batch | None = Field(
        None,
        description="The batch that this command is one of; repeated in every event. A dry run belongs to none.",
    )
    correlation_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_CORRELATION_ID)] | None = Field(
        None,
        description="Repeated in every event, in its body and as its AMQP property. Without it the command's AMQP "
        "property of that name, and without that the idempotency key.",
        examples=["change-2027-0131"],
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _require_order(self.not_before, self.not_after)
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content, hexadecimal: equal for two spellings of one request, different for two requests.

        The content is what decides the action. Who asks, why, for which ticket, with which texts and deadlines is no
        part of it: the same request sent again by another person, or by a pipeline that runs again, is the same
        command.
        """
        content = self.model_dump(mode="json", include=CONTENT)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def known_by(self) -> dict[str, str]:
        """What people know it by: `job` and `repository`, each by name or else by ID, and `ticket`, if there is one."""
        repository = self.repository
        return {
            "job": self.job.name or str(self.job.id),
            "repository": repository.name or repository.uid or str(repository.link_id),
            **({"ticket": self.ticket.id} if self.ticket is not None else {}),
        }


class CancelCommand(Message):
    """Stop an unlink. If its DELETE was not sent, it is never sent. Otherwise the worker asks to stop the task.

    Enterprise Manager may finish the task all the same: whether the link is gone decides between `cancelled` and
    `succeeded`. A cancel that comes first makes the later unlink `cancelled`.
    """

    model_config = ConfigDict(title="cancel.v1")

    command: Literal["cancel.v1"] = Field(description="What is to be done, and the version of this contract.")
    idempotency_key: IdempotencyKey = Field(
        description="The key of the unlink that is to be stopped.", examples=["jira:OPS-4711/unlink-1"]
    )
    enterprise_manager: EnterpriseManagerName = Field("default", description=_ENTERPRISE_MANAGER)
    run: Run | None = Field(
        None,
        description="The run that is meant; without it, the one that is under way, or is to come. A cancel of an "
        "earlier run, or of the one after a success, changes nothing, and is answered with the latest event. A run "
        "that cannot be the next one is rejected, `run_not_found`.",
    )
    requested_by: RequestedBy | None = Field(None, description="Who asks for it to be stopped.")
    reason: WhyAsked | None = Field(None, description="Why.", examples=["Wrong repository"])


class RetryCommand(Message):
    """Run an unlink again that ended `failed`, `timed_out` or `cancelled`: the command as it was first accepted.

    It starts the next run if `run` is the last one and did not succeed. However often it arrives, it starts one run. If
    a later run is under way, the end of that run is the answer. If a later run has ended, or the run succeeded, the
    latest event is the answer.
    """

    model_config = ConfigDict(title="retry.v1")

    command: Literal["retry.v1"] = Field(description="What is to be done, and the version of this contract.")
    idempotency_key: IdempotencyKey = Field(
        description="The key of the unlink that is to be run again.", examples=["jira:OPS-4711/unlink-1"]
    )
    enterprise_manager: EnterpriseManagerName = Field("default", description=_ENTERPRISE_MANAGER)
    run: Run = Field(description="The run that ended, as its event says.", examples=[1])
    not_after: Time | None = Field(
        None,
        description="A time with its offset (RFC 3339), in the place of the command's own; past it, the run is not "
        "started. Without it, the command's own holds.",
        examples=["2027-01-31T18:00:00+01:00"],
    )
    not_before: Time | None = Field(
        None,
        description="A time with its offset (RFC 3339), in the place of the command's own; before `not_after` and at "
        "most 90 days ahead; until then, the run waits.",
        examples=["2027-01-31T02:00:00+01:00"],
    )
    requested_by: RequestedBy | None = Field(None, description="Who asks for it to be run again.")
    reason: WhyAsked | None = Field(None, description="Why.", examples=["The job is no longer being edited"])

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _require_order(self.not_before, self.not_after)
        return self


#: What a message on the commands exchange may be.
Command = UnlinkCommand | CancelCommand | RetryCommand
