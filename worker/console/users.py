"""The users of the console, from a TOML file.

    [[users]]
    name = "j.doe"
    role = "operate"                  # read, submit or operate
    password_argon2 = "$argon2id$..." # people

    [[users]]
    name = "servicenow"
    role = "submit"
    token_sha256 = "..."              # programs: Authorization: Bearer

`unlink-worker console hash` makes both kinds of line. When the file changes, it is read again. While it is wrong, the
earlier users remain valid.
"""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Self

import structlog
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from contracts.reading import describe
from worker.settings import SettingsInvalidError

log = structlog.get_logger()


class Role(StrEnum):
    """What a user may do."""

    #: See everything.
    READ = "read"
    #: Also order unlinks, and cancel or retry those that they ordered.
    SUBMIT = "submit"
    #: Everything.
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller and their address. `name` is None if there are no users.

    Each form must send `csrf`. It is None for programs: no browser adds their token by itself.
    """

    name: str | None
    role: Role
    address: str
    csrf: str | None = None

    @property
    def sender(self) -> str:
        """Their name in the policy and in events; never the name of a broker user."""
        return f"console:{self.name}"

    @property
    def may_order(self) -> bool:
        """Whether they may order unlinks."""
        return self.role in {Role.SUBMIT, Role.OPERATE}

    @property
    def may_operate(self) -> bool:
        """Whether they may do everything."""
        return self.role is Role.OPERATE

    def may_change(self, user_id: str | None) -> bool:
        """Whether they may cancel or retry an unlink that this sender ordered."""
        return self.may_operate or (self.may_order and user_id == self.sender)


def _argon2(value: str) -> str:
    try:
        extract_parameters(value)
    except InvalidHashError:
        raise ValueError("must be what `unlink-worker console hash` prints") from None
    return value


class User(BaseModel):
    """One user: a person with a password, or a program with a token."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]{1,64}$")]
    role: Role
    password_argon2: Annotated[str, AfterValidator(_argon2)] | None = Field(None, repr=False)
    token_sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(None, repr=False)

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.password_argon2 is None) == (self.token_sha256 is None):
            raise ValueError("exactly one of password_argon2 and token_sha256 is needed")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    users: Annotated[list[User], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        name, count = Counter(user.name for user in self.users).most_common(1)[0]
        if count > 1:
            raise ValueError(f"the name {name!r} is there twice")
        return self


HASHER: Final = PasswordHasher()


@cache
def _of_nobody() -> str:
    """What the password of an unknown user is compared with, so that it takes as long as that of a known one."""
    return HASHER.hash("")


class Users:
    """All users of the file; none without a file.

    Raises:
        SettingsInvalidError: the file cannot be read, or is wrong.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._mark = self._changed()
        self._users = self._read()

    @property
    def from_file(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def named(self, name: str) -> User | None:
        """The user of this name in the current file."""
        return self._current().get(name)

    def with_token(self, token: str) -> User | None:
        """The program that this token belongs to."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for user in self._current().values():
            if user.token_sha256 is not None and hmac.compare_digest(user.token_sha256, digest):
                found = user
        return found

    def with_password(self, name: str, password: str) -> User | None:
        """The person, if the password is right. Takes a fraction of a second for every name, and blocks its thread."""
        user = self.named(name)
        nobody = _of_nobody()  # made at the first sign-in, whoever it is
        expected = nobody if user is None or user.password_argon2 is None else user.password_argon2
        try:
            HASHER.verify(expected, password)
        except Argon2Error:
            return None
        return user if user is not None and user.password_argon2 is not None else None

    def _current(self) -> dict[str, User]:
        mark = self._changed()
        if mark != self._mark:
            self._mark = mark
            try:
                self._users = self._read()
            except SettingsInvalidError as error:
                log.error("console.users_invalid", problem=str(error))  # noqa: TRY400 - the text says it all
            else:
                log.info("console.users_read", users=len(self._users))
        return self._users

    def _changed(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            state = self._file.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino

    def _read(self) -> dict[str, User]:
        if self._file is None:
            return {}
        try:
            file = _File.model_validate(tomllib.loads(self._file.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise SettingsInvalidError(f"UNLINK_CONSOLE__USERS_FILE: {describe(error)}") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsInvalidError(f"UNLINK_CONSOLE__USERS_FILE: no users can be read there: {error}") from None
        return {user.name: user for user in file.users}
