"""Passwords of private servers."""

import secrets


def new_secret() -> str:
    """A password or a cookie, of letters that need no quoting in a URL, a configuration file or a shell."""
    return secrets.token_hex(16)
