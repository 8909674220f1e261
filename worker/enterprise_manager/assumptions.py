"""The expectations of Enterprise Manager, each under the name that the log and `doctor --assumptions` show."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Assumption(StrEnum):
    """One expectation: its name, and in `belief` what is expected.

    The vendor documents those that are marked as documented. On the others its documentation says nothing or
    contradicts itself; if one of these does not hold, the worker adapts.
    """

    belief: str

    def __new__(cls, name: str, belief: str) -> Self:
        """Create a member from its name and its `belief`."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.belief = belief
        return member

    # --- can be checked by reading ---

    FRONT_PAGE = "front_page", "GET /api/ needs no session and names the supported versions (documented)"
    LOGON = "logon", "a logon is answered with the token in a header and the session's ID (documented)"
    LOGON_REFUSED = "logon_refused_401", "a logon without credentials is answered with 401 (documented)"
    LOG_OFF = "log_off_ends_session", "DELETE of the worker's own logon session ends it (documented)"
    UNKNOWN_SESSION = "unknown_session_401", "without a session that exists the answer is 401 (documented)"
    ROLE = "account_sees_jobs", "the account may list jobs (documented of its role)"
    ABSENT_RESOURCE = "absent_resource_404", "a job or a task that does not exist is answered with 404 (documented)"
    ERROR_DOCUMENT = "error_document", "an error is answered with a document that names its status code (seen)"
    REQUESTS_AT_ONCE = "requests_at_once", "as many requests at once as MAX_REQUESTS allows are answered"
    UNCOMPRESSED = "uncompressed_answers", "an answer is not compressed, even where the request would allow it"
    LINK_HOSTS = "links_carry_its_own_host", "URLs in a document have Enterprise Manager's own host, not the request's"
    PASCAL_CASE = "pascal_case_keys", "the keys of JSON documents are in Pascal case (documented)"
    NO_BYTE_ORDER_MARK = "no_byte_order_mark", "a JSON document begins with its first bracket (RFC 8259)"
    JSON_QUERY_LISTS = "json_query_lists", 'a query\'s list in JSON is {"Refs": {"Refs": [...]}} (seen)'
    JSON_EMPTY_LIST = "json_empty_list", "an empty list in JSON is an empty array, not null"
    JSON_LINKS_NAME = "json_links_name", "linked repositories are the JSON array LinkedBackupRepositories"
    JSON_LINKED_BACKUPS_NAME = "json_linked_backups_name", "linked backups are the JSON array LinkedBackups"
    QUERY = "query", "GET /query finds jobs by their names (documented)"
    QUERY_REPOSITORIES = "query_repositories", "GET /query finds repositories by their names (documented)"
    QUERY_TASKS = "query_tasks", "GET /query finds the session's tasks (documented)"
    QUERY_TASKS_BY_ID = "query_tasks_by_id", "GET /query finds tasks by their IDs (documented)"
    QUERY_PAGES = "query_pages", "page=2 of a query holds what follows page 1 (documented)"
    PAGE_OF_100 = "page_of_100", "a page of a query holds 100 entries where that many are asked for (seen)"
    NAMES_IGNORE_CASE = "names_ignore_case", "a filter on a name ignores upper and lower case"
    QUOTES_DOUBLED = "quotes_doubled", "a quote inside a filter's value is written twice (documented)"
    BACKUP_SERVER = "backup_server_named", "a reference names its backup server, and a filter finds it (documented)"
    ALL_LISTED = "all_jobs_listed", "GET /jobs lists all jobs at once"
    JOB_TYPE = "job_type_named", "the entity of a job names its type (documented)"
    JOB_ENTITY = "linked_backups_in_job_entity", "the entity of a copy job lists its linked backups (documented)"
    LINKS_IN_JOB_ENTITY = "links_in_job_entity", "the entity lists linked repositories too (documents contradict)"
    LINK_LIST = "links_listed", "each link names its ObjectInJobId, its repository and its Delete link (documented)"
    LINKS_OF_LEGACY = "links_of_legacy_copy_jobs", "links of a copy job made in version 11a or earlier are listed"
    LINKS_OF_OTHERS = "links_of_other_jobs", "the links of a job that is no copy job are answered with 400"

    # --- can be checked only by a change ---

    TASK_STATES = "task_states", "a task is Running, OperationFinished or Finished (documented)"
    DELETE_ACCEPTED = "delete_answers_task", "a DELETE of a link is answered with 202 and a task (documented)"
    LOCATION = "location_of_post_only", "the answer to a POST has a Location, that to a DELETE has none (documented)"
    RUNNING_RESULT = "running_task_without_result", "a running task has no result (published schema; null was seen)"
    FINISHED_RESULT = "finished_task_with_result", "a finished task has a result with a message (documented)"
    SUCCESS_MESSAGE = "message_of_success", "the message of a task that succeeded is Ok (documented; others were seen)"
    LINK_GOES = "link_goes_with_the_operation", "the link is gone once its task is OperationFinished"
    LIST_IN_TIME = "list_in_time", "the list of links does not lag behind a finished task (seen: by up to 10 s)"
    TASK_KEPT = "finished_task_kept", "a finished task stays known for as long as its session"
    TASK_APART = "tasks_of_the_session_only", "another session does not see the task (documented)"
    TASK_DELETE = "task_delete_forgets", "DELETE of a task removes it from the list of tasks (documented)"
    TASK_DELETE_STOPS = "task_delete_stops", "DELETE of a running task stops its operation (documents contradict)"
    FAILED_RESULT = "failed_task_says_why", "a failed task has Success=false and a message (published schema)"
    FAILING_SEEMS_SUCCESSFUL = (
        "failing_task_seems_successful",
        "a task that fails is OperationFinished with Success=true before: only Finished is final",
    )
    ABSENT_LINK = "absent_link_404", "a DELETE of a link that is not there is answered with 404"
    ONLY_LINK = "only_link_deleted", "a job's only link can be deleted"
    RUNNING_JOB = "running_job_edited", "a job that is running can be edited"
    EDITS_OF_ONE_JOB = "edits_serialised", "two edits of one job are made one after the other"
    DROPS_BACKUPS = "edit_drops_linked_backups", "an edit drops the linked backups of its job (documented)"
    SESSIONS = "several_sessions", "an account may have several sessions at once"
    SESSION_IDLE = "idle_session_kept", "a session that is idle for 14 minutes is still known (documented: 15)"
