"""The errors of finding, starting or stopping a private server.

SandboxError
├── MissingPartError      a program is missing and cannot be downloaded; the message says what to install
└── PartFailedError       a program did not start, answer or end; the message ends with its log's last lines
"""


class SandboxError(Exception):
    """The sandbox cannot do what was requested; the message is for the user."""


class MissingPartError(SandboxError):
    """A program that the sandbox needs is missing and cannot be downloaded; the message says what to install.

    Args:
        message: the message for the user.
        part: the name of the missing program, such as `PostgreSQL`.
    """

    def __init__(self, message: str, *, part: str) -> None:
        super().__init__(message)
        self.part = part


class PartFailedError(SandboxError):
    """A private program did not start, answer or end in time; the message ends with its log's last lines."""
