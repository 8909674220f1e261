"""`GET /query`: jobs, repositories, the session's tasks and further resources, filtered, sorted and in pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar
from urllib.parse import urlencode

from worker.sandbox.simulated_enterprise_manager.documents import Paging
from worker.sandbox.simulated_enterprise_manager.filters import FilterInvalidError, filter_of
from worker.sandbox.simulated_enterprise_manager.further_documents import FurtherDocuments
from worker.sandbox.simulated_enterprise_manager.inventory import PROPERTIES, TYPES, resources
from worker.sandbox.simulated_enterprise_manager.model import Job, Repository, Session
from worker.sandbox.simulated_enterprise_manager.rendering import Element
from worker.sandbox.simulated_enterprise_manager.state import State

#: The properties by which results can be filtered and sorted [doc].
_OF_JOBS = frozenset({"uid", "name", "jobtype", "platform", "backupservername"})
_OF_REPOSITORIES = frozenset({"uid", "name", "kind", "backupservername"})
_OF_TASKS = frozenset({"taskid", "state", "operation"})

_Found = TypeVar("_Found")


class QueryInvalidError(ValueError):
    """The query is not valid."""


def answer_query(state: State, documents: FurtherDocuments, session: Session, query: Mapping[str, str]) -> Element:
    """One page of the query's results.

    Raises:
        QueryInvalidError: the type is unknown, the filter cannot be parsed, or the page is no number.
    """
    match query.get("type", "").lower():
        case "task":
            return _tasks(state, documents, session, query)
        case "job":
            return _jobs(state, documents, query)
        case "repository":
            return _repositories(state, documents, query)
        case wanted if found := [kind for kind in TYPES.values() if kind.lower() == wanted]:
            return _resources(state, documents, found[0], query)
    raise QueryInvalidError(f"There is no type {query.get('type', '')} to query.")


def _tasks(state: State, documents: FurtherDocuments, session: Session, query: Mapping[str, str]) -> Element:
    now = state.now()
    looks = [(task, task.look(now)) for task in state.tasks_of(session)]
    rows = [({"taskid": task.id, "state": shown, "operation": task.operation}, (task, shown)) for task, shown in looks]
    chosen, paging = _choose(state, rows, _OF_TASKS, query)
    tasks = [documents.task(task, shown) for task, shown in chosen]
    return documents.query_result(documents.found("Resources", "Tasks", tasks), paging)


def _jobs(state: State, documents: FurtherDocuments, query: Mapping[str, str]) -> Element:
    chosen, paging = _choose(state, [(_job(job), job) for job in state.jobs.values()], _OF_JOBS, query)
    if _wants_entities(query):
        entities = [documents.job(job, state.listed(job)) for job in chosen]
        return documents.query_result(documents.found("Entities", "Jobs", entities), paging)
    return documents.query_result(documents.found_references(chosen), paging)


def _repositories(state: State, documents: FurtherDocuments, query: Mapping[str, str]) -> Element:
    rows = [(_repository(repository), repository) for repository in state.repositories.values()]
    chosen, paging = _choose(state, rows, _OF_REPOSITORIES, query)
    if _wants_entities(query):
        entities = [documents.repository(repository) for repository in chosen]
        return documents.query_result(documents.found("Entities", "Repositories", entities), paging)
    return documents.query_result(documents.found_references(chosen), paging)


def _resources(state: State, documents: FurtherDocuments, kind: str, query: Mapping[str, str]) -> Element:
    rows = [(resource.properties, resource) for resource in resources(kind, state)]
    known = {"uid", "name", "backupservername"} | PROPERTIES[kind]
    chosen, paging = _choose(state, rows, known, query)
    found = documents.found_resources(kind, chosen, entities=_wants_entities(query))
    return documents.query_result(found, paging)


def _job(job: Job) -> dict[str, str]:
    return {
        "uid": f"urn:veeam:Job:{job.id}",
        "name": job.name,
        "jobtype": job.job_type,
        "platform": job.platform,
        "backupservername": job.backup_server,
    }


def _repository(repository: Repository) -> dict[str, str]:
    return {
        "uid": f"urn:veeam:Repository:{repository.uid}",
        "name": repository.name,
        "kind": "WindowsLocal",
        "backupservername": repository.backup_server,
    }


def _wants_entities(query: Mapping[str, str]) -> bool:
    return query.get("format", "").lower() in {"entity", "entities"}


def _choose(
    state: State, rows: list[tuple[dict[str, str], _Found]], known: AbstractSet[str], query: Mapping[str, str]
) -> tuple[list[_Found], Paging]:
    try:
        matches = filter_of(query.get("filter", ""), known, state.behaviour)
    except FilterInvalidError as problem:
        raise QueryInvalidError(str(problem)) from problem
    chosen = _sorted([row for row in rows if matches(row[0])], known, query)
    return page_of([found for _, found in chosen], query, state.behaviour.page_size)


def page_of(found: Sequence[_Found], query: Mapping[str, str], most: int) -> tuple[list[_Found], Paging]:
    """The page that a query string asks for, of `most` at most.

    Raises:
        QueryInvalidError: the page is no number.
    """
    size = min(_number(query, "pagesize", most), most)
    pages, number = max(1, -(-len(found) // size)), _number(query, "page", 1)
    without_page = {name: value for name, value in query.items() if name not in {"pagesize", "page"}}
    return list(found[(number - 1) * size : number * size]), Paging(number, size, pages, urlencode(without_page))


def _sorted(
    rows: list[tuple[dict[str, str], _Found]], known: AbstractSet[str], query: Mapping[str, str]
) -> list[tuple[dict[str, str], _Found]]:
    for parameter, backwards in (("sortasc", False), ("sortdesc", True)):
        if wanted := query.get(parameter, "").lower():
            if wanted not in known:
                raise QueryInvalidError(f"There is no parameter {wanted} to sort by.")
            rows = sorted(rows, key=lambda row: row[0][wanted].casefold(), reverse=backwards)
    return rows


def _number(query: Mapping[str, str], name: str, otherwise: int) -> int:
    text = query.get(name, "")
    if not text:
        return otherwise
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise QueryInvalidError(f"{name} must be a number from 1.")
    return int(text)
