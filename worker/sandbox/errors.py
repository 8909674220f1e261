"""What can go wrong while a private part is had, started or stopped.

SandboxError
├── MissingPartError      a program is not there and cannot be had; the message says what to install
└── PartFailedError       a program did not start, answer or end; the message ends with its log's last lines
"""


class SandboxError(Exception):
    """The sandbox cannot do what was asked; the message is for the person at the keyboard."""


class MissingPartError(SandboxError):
    """A program that the sandbox needs is not there and cannot be had; the message says what to install.

    Args:
        message: for the person at the keyboard.
        part: the name of what is missing, such as `PostgreSQL`.
    """

    def __init__(self, message: str, *, part: str) -> None:
        super().__init__(message)
        self.part = part


class PartFailedError(SandboxError):
    """A private program did not start, answer or end in time; the message ends with its log's last lines."""
