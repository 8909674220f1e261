"""Who may send which command: an optional policy, by the sender that the broker verified.

Without a policy every command is allowed. With one, a command is allowed only if one rule allows all of it: the sender,
the Enterprise Manager, the job and, if the command consents to it, the loss of linked backups.

It is written in TOML:

    forwarders = ["operator"]           # besides the worker's own user: whose statement about the sender is trusted

    [[rules]]
    users = ["servicenow", "jira-*"]    # AMQP `user_id`
    enterprise_managers = ["default"]   # left out: all
    jobs = ["Copy to *", "d1b85018-2769-45be-89bc-03f66b60e6cb"]   # names or IDs; left out: all
    linked_backups_removal = true       # left out: false
    cancels = true                      # left out: false

Patterns are those of `fnmatch` (`*`, `?`, `[...]`) and case-sensitive.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from contracts.commands import UnlinkCommand
from contracts.reading import describe
from worker.unlinks.ports.enterprise_manager import Job

_JOB_ID = re.compile(r"(?:urn:veeam:Job:)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)

#: The largest policy that is read, in characters: a wrong workflow may lead to anything.
LONGEST = 1024 * 1024


class PolicyInvalidError(Exception):
    """The text is not a policy. The message is one line, for a person."""


class DeniedError(Exception):
    """No rule allows it. The message is one line for the sender, and reveals nothing of other users' permissions.

    `stored` is the stored command that a denied retry is about, if the same user had sent that command: only then does
    the answer name its ticket, job and repository.
    """

    stored: UnlinkCommand | None = None


def _bare_id(entry: str) -> str:
    """A job's ID in one spelling; a pattern as it is."""
    job_id = _JOB_ID.fullmatch(entry)
    return job_id[1].lower() if job_id else entry


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=255)]
JobPattern = Annotated[Pattern, AfterValidator(_bare_id)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Rule(_Part):
    """A rule: what its senders may do.

    `unnamed`: the rule also applies to messages without a `user_id`, which any user who may publish can send.
    """

    users: list[Pattern] = Field(default_factory=list)
    unnamed: bool = False
    enterprise_managers: Annotated[list[Pattern], Field(min_length=1)] = ["*"]
    jobs: Annotated[list[JobPattern], Field(min_length=1)] = ["*"]
    linked_backups_removal: bool = False
    cancels: bool = False

    @model_validator(mode="after")
    def _names_senders(self) -> Rule:
        if not self.users and not self.unnamed:
            raise ValueError("a rule needs users, or unnamed = true")
        return self

    def holds_for(self, user_id: str | None, enterprise_manager: str) -> bool:
        """Whether it applies to this sender on this Enterprise Manager."""
        sender = self.unnamed if user_id is None else _any_match(user_id, self.users)
        return sender and _any_match(enterprise_manager, self.enterprise_managers)

    def allows_job(self, job_id: str | None, name: str | None) -> bool:
        """Whether it allows a job with these known properties."""
        by_id = job_id is not None and job_id in self.jobs
        return by_id or "*" in self.jobs or (name is not None and _any_match(name, self._patterns))

    def may_allow(self, command: UnlinkCommand) -> bool:
        """Whether the rule could allow the command once more is known about the job than the command says."""
        return bool(self._patterns) if command.job.id is not None else len(self._patterns) < len(self.jobs)

    @property
    def _patterns(self) -> list[str]:
        return [entry for entry in self.jobs if not _JOB_ID.fullmatch(entry)]


class Policy(_Part):
    """All rules. A command that none of them allows is denied."""

    forwarders: list[Pattern] = Field(default_factory=list)
    rules: list[Rule]

    def require_cancel(self, user_id: str | None, enterprise_manager: str) -> None:
        """Authorize a cancel. It names only a key, so rules for the Enterprise Manager decide, not those for jobs.

        Raises:
            DeniedError: no rule allows it.
        """
        if not any(rule.cancels for rule in self._rules_for(user_id, enterprise_manager)):
            raise DeniedError(f"the policy does not let {_called(user_id)} cancel on {enterprise_manager!r}")

    def is_decided(self, user_id: str | None, command: UnlinkCommand) -> bool:
        """Authorize a command by its own fields. False if the decision needs the job as Enterprise Manager knows it.

        Raises:
            DeniedError: no rule allows it, whatever the job turns out to be.
        """
        rules = self._rules_with_consent(user_id, command)
        if any(rule.allows_job(command.job.id, command.job.name) for rule in rules):
            return True
        if not any(rule.may_allow(command) for rule in rules):
            raise self._denied_for_the_job(user_id, command)
        return False

    def require_job(self, user_id: str | None, command: UnlinkCommand, job: Job) -> None:
        """Authorize a command for the job that it means.

        Raises:
            DeniedError: no rule allows it.
        """
        if not any(rule.allows_job(job.id, job.name) for rule in self._rules_with_consent(user_id, command)):
            raise self._denied_for_the_job(user_id, command)

    def _rules_with_consent(self, user_id: str | None, command: UnlinkCommand) -> list[Rule]:
        rules = self._rules_for(user_id, command.enterprise_manager)
        if not rules:
            where = command.enterprise_manager
            raise DeniedError(f"the policy takes no commands of {_called(user_id)} for {where!r}")
        if not command.allow_linked_backups_removal:
            return rules
        consenting = [rule for rule in rules if rule.linked_backups_removal]
        if not consenting:
            raise DeniedError(f"the policy does not let {_called(user_id)} set allow_linked_backups_removal")
        return consenting

    def _rules_for(self, user_id: str | None, enterprise_manager: str) -> list[Rule]:
        return [rule for rule in self.rules if rule.holds_for(user_id, enterprise_manager)]

    def _denied_for_the_job(self, user_id: str | None, command: UnlinkCommand) -> DeniedError:
        consenting = " with allow_linked_backups_removal" if command.allow_linked_backups_removal else ""
        return DeniedError(f"the policy takes no commands of {_called(user_id)}{consenting} for this job")


def read_policy(text: str) -> Policy:
    """Read a policy.

    Raises:
        PolicyInvalidError: it is not TOML, or it has unknown fields or invalid values.
    """
    if len(text) > LONGEST:
        raise PolicyInvalidError(f"it is longer than {LONGEST} characters")
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PolicyInvalidError(f"it is not TOML: {error}") from error
    except ValidationError as error:
        raise PolicyInvalidError(describe(error)) from error


def _any_match(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _called(user_id: str | None) -> str:
    return "senders without user_id" if user_id is None else f"user {user_id!r}"
