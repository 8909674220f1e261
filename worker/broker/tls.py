"""The TLS context of connections to the broker: one for as long as the CA certificates are the same."""

from __future__ import annotations

import ssl
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING

from worker.broker.problems import explain_ca_file
from worker.settings import SettingsInvalidError

if TYPE_CHECKING:
    import os

# A context holds all CA certificates: 0.8 MB with the system's. The objects of an attempt to connect hold each other,
# and are freed by a search for cycles, which may be hours away: each would keep a context of its own until then.
_contexts: dict[Path | None, tuple[Hashable, ssl.SSLContext]] = {}


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """A context that trusts the CA file, or the system's CAs. What was renewed since the last call is read again.

    Raises:
        SettingsInvalidError: the CA file cannot be used.
    """
    try:
        # Before the reading: a file that is renewed meanwhile differs at the next call.
        version = _version(ca_file)
        known = _contexts.get(ca_file)
        if known is not None and known[0] == version:
            return known[1]
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsInvalidError(explain_ca_file(error)) from None
    _contexts[ca_file] = version, context
    return context


def _version(ca_file: Path | None) -> Hashable:
    if ca_file is not None:
        return _state(ca_file.stat())
    # OpenSSL reads a file of CAs at once, and those of a folder when they are needed. None: it does not exist.
    paths = ssl.get_default_verify_paths()
    places: list[str | None] = [paths.cafile, paths.capath]
    return tuple((place, _state(Path(place).stat())) for place in places if place is not None)


def _state(status: os.stat_result) -> Hashable:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
