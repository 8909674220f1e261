"""The paths of resources. A URL from the server (`href`) is checked first, and only its path is used.

The vendor advises clients to use the server's URLs and not to construct their own. But these URLs contain Enterprise
Manager's own host name, which the worker may not be able to resolve, and a DELETE to a wrong URL deletes the wrong
resource. The path of such a URL is therefore used only if it ends with the documented path of the resource; otherwise
the documented path is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

API = "/api/"
LOGON = "/api/sessionMngr/"
QUERY = "/api/query"
COLLECTIONS = {"Job": "/api/jobs", "Repository": "/api/repositories"}

_JOB = re.compile(r"/jobs/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|$)", re.IGNORECASE)
_PLAIN = re.compile(r"(/[A-Za-z0-9._~%:-]+)+")


def job(job_id: str) -> str:
    """The path of a job."""
    return f"/api/jobs/{_segment(job_id)}"


def links(job_id: str) -> str:
    """The path of the list of a job's linked repositories."""
    return f"{job(job_id)}/linkedBackupRepositories"


def link(job_id: str, object_in_job_id: str, href: str | None = None) -> str:
    """The path of one link: the path of `href` if it belongs to this link, else the documented path."""
    documented = f"{links(job_id)}/{_segment(object_in_job_id)}"
    return _followed(href, documented, same_case=False) or documented


def job_in(href: str) -> str | None:
    """The bare lower-case job ID in the path of a URL; None if the path has none."""
    try:
        named = _JOB.search(unquote(urlsplit(href).path))
    except ValueError:
        return None
    return named[1].lower() if named is not None else None


def task(task_id: str, hrefs: Iterable[str] = ()) -> str:
    """The path of a task: the path of the first of `hrefs` that belongs to it, else the documented path."""
    documented = f"/api/tasks/{_segment(task_id)}"
    followed = (_followed(href, documented, same_case=True) for href in hrefs)
    return next((path for path in followed if path is not None), documented)


def logon_session(session_id: str) -> str:
    """The path of a logon session."""
    return f"/api/logonSessions/{_segment(session_id)}"


def _segment(text: str) -> str:
    # A segment of dots alone would refer to a parent folder, even if it is escaped.
    return quote(text, safe="", errors="replace") if text.strip(".") else "-"


def _followed(href: str | None, documented: str, *, same_case: bool) -> str | None:
    """The path of a URL from `/api/` on, if it ends with the documented path; else None."""
    if href is None:
        return None
    try:
        path = urlsplit(href).path
    except ValueError:
        return None
    found = path.find(API)
    if found < 0 or not _PLAIN.fullmatch(path[found:]) or "/." in unquote(path):
        return None
    meant, followed = unquote(documented.removeprefix("/api")), unquote(path[found:])
    if not same_case:
        meant, followed = meant.lower(), followed.lower()
    return path[found:] if followed.endswith(meant) else None
