"""Switches for behaviour of Enterprise Manager that is not known, or that differs between servers.

Each field names its source: [doc] documented by the vendor; [seen] in a published recording of a real server; [xsd] in
the published schema; [?] unknown, so that a client must cope with every value. The defaults are documented or probable,
and fast enough for tests.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

#: Possible names of the JSON array of linked repositories [?]. The empty name means that the document is the array.
JSON_LINKS_NAMES = (
    "LinkedBackupRepositories",
    "LinkedBackupRepositorys",
    "LinkedBackupRepository",
    "LinkedBackupRepositoryResourceObjects",
    "LinkedBackupRepositoryObjects",
    "Items",
    "",
)


class UnknownBehaviourError(ValueError):
    """`Behaviour` has no such field, or the field cannot have that value."""


@dataclass(slots=True)
class Behaviour:
    """All switches. They may be changed at any time; an edit keeps the values with which it was started.

    Times are seconds.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    # --- edits of a job ---

    #: How long an edit of a job takes on the backup server.
    edit_seconds: float = 0.02
    #: While true, no edit ends; those that are due end when it is set to false. For tests of running tasks.
    edits_held: bool = False
    #: When the link is removed [?]: with the operation on the backup server, or not before the task is `Finished`.
    link_goes_at: Literal["operation_finished", "finished"] = "operation_finished"
    #: How far the list of links and the job's entity lag behind the truth [seen: up to 10 s; doc: 15 min].
    list_lag_seconds: float = 0
    #: Two edits of one job [?]: one after the other; at once, each writing back all that it read, so that the last one
    #: wins and the other's change is lost; or the second one's task fails.
    edits_of_one_job: Literal["serialised", "overlapping", "second_fails"] = "serialised"
    #: A DELETE of a link that is not there [?].
    absent_link: Literal["404", "task_fails", "task_succeeds"] = "404"
    #: A DELETE of a job's only link [?].
    only_link: Literal["deleted", "400", "task_fails"] = "deleted"
    #: An edit of a job that is running, or open in a user's console [?].
    running_job: Literal["accepted", "400", "task_fails", "waits"] = "accepted"
    #: Whether an edit drops the job's linked backups [doc].
    edit_drops_linked_backups: bool = True
    #: GET of the linked repositories of a job that is no copy job [?].
    links_of_other_jobs: Literal["400", "404", "500", "empty"] = "400"
    #: GET of the linked repositories of a copy job made in 11a or earlier [?]: its entity has no list of them [doc].
    links_of_legacy_copy_jobs: Literal["listed", "empty", "400"] = "listed"
    #: Whether a job's entity contains its linked repositories, besides its linked backups [?]: the documentation
    #: contradicts itself.
    links_in_job_entity: Literal["listed", "left_out"] = "listed"

    # --- tasks ---

    #: How long a task stays `OperationFinished` (done, but Enterprise Manager has not collected it yet) [doc].
    operation_finished_seconds: float = 0
    #: How many reads show a task as `OperationFinished`, even if `operation_finished_seconds` have passed.
    operation_finished_looks: int = 1
    #: A state that no document names, shown between `OperationFinished` and `Finished` [?].
    unknown_state: str | None = None
    #: How many reads show that state.
    unknown_state_looks: int = 1
    #: Whether a task that will fail passes `OperationFinished` with `Success="true"` as the others do [?].
    failing_task_seems_successful: bool = True
    #: The result of a task that runs [xsd: absent; seen: null in JSON].
    running_result: Literal["absent", "null"] = "absent"
    #: The result of a finished task [doc: full; xsd: the rest].
    finished_result: Literal["full", "without_message", "empty_message", "null_message", "absent", "null"] = "full"
    #: What a failed task's result also asks for [xsd].
    failed_result_asks: Literal["nothing", "confirmation", "credentials"] = "nothing"
    #: Messages of successful tasks, in turn [doc: Ok; seen: OK, a sentence].
    success_messages: tuple[str, ...] = ("Ok",)
    #: How long a finished task is kept [?]; None: as long as its session. After that 404 [?].
    finished_task_kept_seconds: float | None = None
    #: DELETE of a task [doc calls it both]: stop its edit and forget it; stop it, so that it ends failed; or only
    #: forget it while its edit goes on.
    task_delete: Literal["stops_and_forgets", "stops_and_fails", "only_forgets"] = "stops_and_forgets"
    #: Which accepted requests carry a `Location` [doc: POST].
    location_header: Literal["post", "always", "never"] = "post"
    #: Whether a 202 has a body [doc: the task].
    accepted_body: Literal["task", "empty"] = "task"

    # --- logon sessions ---

    #: When an idle session ends [doc: 15 minutes].
    session_idle_seconds: float = 900
    #: How many sessions a user may have at once [?].
    session_cap: int | None = None
    #: A logon beyond that [?]: refused, or the oldest session ends.
    beyond_session_cap: Literal["403", "503", "oldest_ends"] = "503"
    #: The account's role [doc]: only a Portal Administrator may edit jobs, a Restore Operator may not even see them.
    role: Literal["Portal Administrator", "Portal User", "Restore Operator"] = "Portal Administrator"

    # --- queries ---

    #: Whether `GET /query` works, or the status with which it is answered [?].
    query: Literal["supported", "400", "501"] = "supported"
    #: The same for queries with `type=Task` only.
    query_tasks: Literal["supported", "400", "501"] = "supported"
    #: The page size of a query without `pageSize`, and the largest possible page size [seen: 100].
    page_size: int = 100
    #: Whether `GET /jobs` and `GET /repositories` answer in pages, too [?: the vendor documents pages of queries only].
    pages_of_collections: bool = False
    #: Whether filters compare values case-sensitively [?].
    names_by_case: bool = False
    #: How a quote is written inside a quoted value of a filter [doc: doubled].
    quote_inside_value: Literal["impossible", "backslash", "doubled"] = "doubled"

    # --- documents ---

    #: Host (and port) in the URLs of documents [seen: Enterprise Manager's own, which may not resolve]; None: those of
    #: the request.
    links_host: str | None = "em01.corp.example:9398"
    #: Case of JSON keys [doc: Pascal; seen on 13.0: camel].
    json_keys: Literal["pascal", "camel"] = "pascal"
    #: A UTF-8 byte-order mark before JSON [seen].
    json_byte_order_mark: bool = False
    #: Name of the JSON array of linked repositories [?]; empty: the document is the array.
    json_links_name: str = "LinkedBackupRepositories"
    #: Name of the JSON array of linked backups in the job's entity [?].
    json_linked_backups_name: str = "LinkedBackups"
    #: An empty list in JSON [?].
    json_empty_list: Literal["array", "null"] = "array"
    #: Lists in a query's JSON [seen: nested]: `{"Refs": {"Refs": []}}` or `{"Refs": []}`.
    json_query_lists: Literal["nested", "flat"] = "nested"

    #: The status for a logon session [seen: 500], a task, a job or a repository that does not exist [doc: 404].
    absent_resource: Literal["404", "500"] = "404"
    #: Whether an answer is compressed, as a proxy in front of it may do, where the request allows it [?].
    compression: bool = False

    # --- load ---

    #: How long every answer takes.
    latency_seconds: float = 0
    #: How many requests are accepted at once [?]; None: any number.
    requests_at_once: int | None = None
    #: The status of the answer to a request beyond that number.
    overload_status: Literal[429, 503] = 503
    #: The `Retry-After` of every 429 and 503, in seconds or as a date [?]; None: without one.
    retry_after: str | None = None

    def change(self, **changes: Any) -> None:
        """Set several fields, or none.

        Raises:
            UnknownBehaviourError: for a field that does not exist or a value that it cannot have.
        """
        wanted = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        try:
            checked = _adapter().validate_python(wanted)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise UnknownBehaviourError(f"{problem['loc'][0]}: {problem['msg']}") from None
        for name in changes:
            setattr(self, name, getattr(checked, name))


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Behaviour]:
    return TypeAdapter(Behaviour)
