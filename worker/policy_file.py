"""Reads the policy that `UNLINK_POLICY_FILE` names, for the worker and for the console: both apply it."""

from __future__ import annotations

from pathlib import Path

import structlog

from worker.settings import SettingsInvalidError
from worker.unlinks.policy import Policy, PolicyInvalidError, read_policy

log = structlog.get_logger()


def policy_in(file: Path | None) -> Policy | None:
    """The policy; None without a file.

    Raises:
        SettingsInvalidError: it cannot be read.
    """
    if file is None:
        return None
    try:
        policy = read_policy(file.read_text(encoding="utf-8"))
    except (PolicyInvalidError, OSError, UnicodeDecodeError) as error:
        raise SettingsInvalidError(f"UNLINK_POLICY_FILE: no policy can be read there: {error}") from error
    log.info("policy.read", rules=len(policy.rules), forwarders=sorted(policy.forwarders))
    return policy
