"""Passwords of private servers."""

import secrets


def new_secret() -> str:
    """A new password or cookie. Its characters need no quoting in a URL, a configuration file or a shell."""
    return secrets.token_hex(16)
