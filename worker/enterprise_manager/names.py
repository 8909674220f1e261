"""Finds the ID of a job or a repository by its name, with a query.

In a query's filter, quotes, semicolons and commas have a meaning: names are quoted, and quotes in them are doubled
(vendor, "Optional Query Parameters"). A server may not follow this documentation. Each name in the result is therefore
compared with the requested name, exactly; if none is equal, all names are read and compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from contracts.events import ReasonCode
from worker.enterprise_manager import paths
from worker.enterprise_manager.calls import Calls, ListTooLongError
from worker.enterprise_manager.documents.records import MAX_NAME, ReferenceRecord, read_references
from worker.enterprise_manager.documents.tree import cleaned
from worker.unlinks.ports.enterprise_manager import Refused

#: The requested page size.
PAGE_SIZE = 200

_MOST_NAMED = 5

#: The largest number of names that are searched for a similar one. The search blocks the event loop.
_MOST_COMPARED = 1000


class NameNotFound(Exception):  # noqa: N818 - it reads as what happened
    """Nothing has that name; the text says so, and lists similar names."""


class NameAmbiguous(Exception):  # noqa: N818 - it reads as what happened
    """Several have that name; the text lists them."""


def name_filter(name: str, backup_server: str | None = None) -> str:
    """The filter for one name, and for one backup server if it is given. Both are quoted safely."""
    expression = f"Name=={_quoted(name)}"
    return expression if backup_server is None else f"{expression};BackupServerName=={_quoted(backup_server)}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


async def find(calls: Calls, resource: str, name: str, backup_server: str | None) -> ReferenceRecord:
    """The one `Job` or `Repository` of that name.

    Raises:
        NameNotFound: nothing has that name.
        NameAmbiguous: several have that name.
        UnexpectedDocumentError: the response is no query result, or has too many pages.
        NotFound, Refused, Unavailable: as for any GET.
    """
    filtered = await _filtered(calls, resource, name, backup_server)
    matches = _exactly(filtered or (), name, backup_server)
    known: Sequence[ReferenceRecord] = ()
    if not matches:
        try:
            known = await everything(calls, resource)
        except ListTooLongError:
            if filtered is None:
                raise
        matches = _exactly(known, name, backup_server)
    if not matches:
        raise NameNotFound(_not_found(resource, name, backup_server, known))
    if len(matches) > 1:
        raise NameAmbiguous(f"{len(matches)} {_plural(resource)} are named {_shown(name)}: {_listed(matches)}")
    return matches[0]


async def everything(calls: Calls, resource: str) -> list[ReferenceRecord]:
    """All jobs (`Job`) or all repositories (`Repository`).

    Raises:
        UnexpectedDocumentError: the response is no list of them, or has too many pages.
        NotFound, Refused, Unavailable: as for any GET.
    """
    return await _references(calls, resource, paths.COLLECTIONS[resource], {})


async def _filtered(calls: Calls, resource: str, name: str, backup_server: str | None) -> list[ReferenceRecord] | None:
    query = {"type": resource, "filter": name_filter(name, backup_server)}
    try:
        return await _references(calls, resource, paths.QUERY, query)
    except Refused as error:
        if error.code is not ReasonCode.ENTERPRISE_MANAGER_ERROR:
            raise
        # The server does not support this filter, or no queries at all. The list of all names is still available.
        return None


async def _references(calls: Calls, resource: str, path: str, query: dict[str, str]) -> list[ReferenceRecord]:
    query = query | {"pageSize": str(PAGE_SIZE)}
    return await calls.get_list(path, query, lambda root: read_references(root, resource))


def _exactly(references: Iterable[ReferenceRecord], name: str, backup_server: str | None) -> list[ReferenceRecord]:
    return [
        reference
        for reference in references
        if reference.name == name and (backup_server is None or _is_server(reference, backup_server))
    ]


def _is_server(reference: ReferenceRecord, backup_server: str) -> bool:
    # Host names are case-insensitive (RFC 4343); job names are not.
    return reference.backup_server is not None and reference.backup_server.casefold() == backup_server.casefold()


def _not_found(resource: str, name: str, backup_server: str | None, everything: Sequence[ReferenceRecord]) -> str:
    where = f" on the backup server {_shown(backup_server)}" if backup_server is not None else ""
    alike = [reference for reference in everything if reference.name.casefold() == name.casefold()]
    if not alike:
        names = {reference.name for reference in everything[:_MOST_COMPARED]}
        close = difflib.get_close_matches(name, names, n=_MOST_NAMED)
        alike = [reference for reference in everything if reference.name in close]
    hint = f"; there is {_listed(alike)}" if alike else ""
    return f"no {_plural(resource, 1)} is named {_shown(name)}{where}{hint}"


def _listed(references: Sequence[ReferenceRecord]) -> str:
    named = [
        f"{_shown(reference.name)} on {_shown(reference.backup_server or 'an unnamed backup server')} ({reference.id})"
        for reference in references[:_MOST_NAMED]
    ]
    more = len(references) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _plural(resource: str, count: int = 2) -> str:
    one, many = {"Job": ("job", "jobs"), "Repository": ("repository", "repositories")}[resource]
    return one if count == 1 else many


def _shown(text: str) -> str:
    return f'"{cleaned(text, MAX_NAME)}"'
