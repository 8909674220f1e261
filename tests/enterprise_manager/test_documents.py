"""The bytes of Enterprise Manager's answers, as documented, as seen in the wild, and as nobody should send them.

More than 400 lines: the readers of all documents, on the documents of this file.
"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.enterprise_manager.documents.reading import html_title, is_html, read_document
from worker.enterprise_manager.documents.records import (
    LinkedBackupRecord,
    LinkRecord,
    Paging,
    ReferenceRecord,
    TaskRecord,
    bare_id,
    read_error,
    read_job,
    read_links,
    read_paging,
    read_references,
    read_session_id,
    read_task,
    read_tasks,
    read_versions,
)
from worker.enterprise_manager.documents.tree import (
    MAX_DEPTH,
    MAX_NODES,
    DocumentError,
    UnexpectedDocumentError,
    UnreadableDocumentError,
)

JOB = "0f5afb99-7468-42c4-a45d-28e98bc6122b"
LINK = "961c9350-dc5a-43d6-8efa-867995e9404e"
REPOSITORY = "da49abfc-838a-40a1-90a3-40acd2bc7000"
BACKUP = "58c917c7-7b7a-41ff-8676-226656c35c05"
HREF = f"https://em01.tech.local:9398/api/jobs/{JOB}/linkedBackupRepositories/{LINK}"

TASK_XML = b"""<Task xmlns="http://www.veeam.com/ent/v1.0" Type="Task" Href="https://localhost:9398/api/tasks/task-1">
 <Links>
   <Link Rel="Delete" Type="Task" Href="https://localhost:9398/api/tasks/task-1" />
 </Links>
 <TaskId>task-1</TaskId>
 <State>Finished</State>
 <Operation>UpdateJob</Operation>
 <Result Success="true">
   <Message>Ok</Message>
 </Result>
</Task>"""

TASK_JSON = {
    "Links": [{"Rel": "Delete", "Type": "Task", "Href": "https://localhost:9398/api/tasks/task-1"}],
    "Href": "https://localhost:9398/api/tasks/task-1",
    "Type": "Task",
    "TaskId": "task-1",
    "State": "Finished",
    "Operation": "UpdateJob",
    "Result": {"Success": True, "Message": "Ok"},
}

LINKS_XML = f"""<LinkedBackupRepositoryResourceObjects xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns="http://www.veeam.com/ent/v1.0">
  <LinkedBackupRepository Href="{HREF}" Type="LinkedBackupRepositoryObject">
    <Links>
      <Link Href="https://em01.tech.local:9398/api/jobs/{JOB}?format=Entity" Name="A copy" Type="Job" Rel="Up" />
      <Link Href="{HREF}" Rel="Delete" />
    </Links>
    <ObjectInJobId>{LINK.upper()}</ObjectInJobId>
    <LinkedBackupRepositoryUid>urn:veeam:Repository:{REPOSITORY}</LinkedBackupRepositoryUid>
  </LinkedBackupRepository>
</LinkedBackupRepositoryResourceObjects>""".encode()

ONE_LINK_JSON = {
    "Links": [{"Rel": "Delete", "Href": HREF}],
    "ObjectInJobId": LINK,
    "LinkedBackupRepositoryUid": f"urn:veeam:Repository:{REPOSITORY}",
}
THE_LINK = (LinkRecord(LINK, REPOSITORY, None, HREF, (HREF,)),)


def _job_xml(info: str, job_type: str = "ImmediateBackupCopy") -> bytes:
    return f"""<Job xmlns="http://www.veeam.com/ent/v1.0" Type="Job" Name="A copy" UID="urn:veeam:Job:{JOB}"
      Href="https://em01.tech.local:9398/api/jobs/{JOB}?format=Entity">
      <Links><Link Rel="Up" Type="BackupServerReference" Name="vbr01" Href="https://em01/api/backupServers/1"/></Links>
      <JobType>{job_type}</JobType><Platform>CustomPlatform</Platform><JobInfo>{info}</JobInfo></Job>""".encode()


def _job_json(info: object) -> bytes:
    job = {"UID": f"urn:veeam:Job:{JOB}", "Name": "A copy", "JobType": "ImmediateBackupCopy", "JobInfo": info}
    return json.dumps(job).encode()


def _camel(content: object) -> object:
    """The same with camelCase keys."""
    if isinstance(content, dict):
        return {key[0].lower() + key[1:]: _camel(value) for key, value in content.items()}
    return [_camel(value) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(TASK_XML, id="xml"),
        pytest.param(b"\xef\xbb\xbf" + TASK_XML, id="xml behind a byte-order mark"),
        pytest.param(json.dumps(TASK_JSON).encode(), id="json"),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(TASK_JSON).encode(), id="json behind a byte-order mark"),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(_camel(TASK_JSON)).encode(), id="camelCase behind a byte-order mark"),
    ],
)
def test_a_finished_task_reads_the_same_in_every_spelling(body: bytes) -> None:
    """Else a server of another version would leave every unlink without an end."""
    href = "https://localhost:9398/api/tasks/task-1"
    assert read_task(read_document(body)) == TaskRecord("task-1", "Finished", "UpdateJob", True, "Ok", (href, href))


@pytest.mark.parametrize(
    ("result", "success", "message"),
    [
        ({}, None, None),
        ({"Result": None}, None, None),
        ({"Result": {}}, None, None),
        ({"Result": {"Success": True}}, True, None),
        ({"Result": {"Success": "true", "Message": None}}, True, None),
        ({"Result": {"Success": "1", "Message": ""}}, True, None),
        ({"Result": {"Success": False, "Message": "Job is\r\n locked\x00"}}, False, "Job is locked"),
        ({"Result": {"Success": "perhaps", "CredentialsNeeded": {}}}, None, None),
    ],
)
def test_a_task_with_half_a_result_is_read_without_guessing(
    result: dict[str, object], success: object, message: object
) -> None:
    """Else a running task, or one that says nothing, would be reported as having succeeded or failed."""
    task = read_task(read_document(json.dumps({"TaskId": "task-7", "State": "Finished", **result}).encode()))
    assert (task.success, task.message) == (success, message)


@pytest.mark.parametrize("state", ["Running", "OperationFinished", "Cancelling", "", None, 3, "Finished soon"])
def test_only_finished_is_the_end(state: object) -> None:
    """Else an unlink would be reported as done while Enterprise Manager is still at it."""
    body = {"TaskId": "task-7", "State": state, "Result": {"Success": True, "Message": "OperationFinished"}}
    assert not read_task(read_document(json.dumps(body).encode())).finished


def test_a_body_that_names_no_task_is_no_task() -> None:
    """Else an unlink would follow a task that does not exist."""
    with pytest.raises(UnexpectedDocumentError, match="names no task"):
        read_task(read_document(b'{"State": "Running"}'))


def test_linked_repositories_are_read_from_xml_as_documented() -> None:
    """Else no link would be found on a real server."""
    up = f"https://em01.tech.local:9398/api/jobs/{JOB}?format=Entity"
    assert read_links(read_document(LINKS_XML)) == (LinkRecord(LINK, REPOSITORY, None, HREF, (up, HREF, HREF)),)


@pytest.mark.parametrize(
    "name",
    ["LinkedBackupRepositories", "LinkedBackupRepository", "LinkedBackupRepositoryResourceObjects", "Items", "items"],
)
@pytest.mark.parametrize("spelling", [lambda body: body, _camel], ids=["Pascal", "camel"])
def test_linked_repositories_are_found_whatever_their_json_array_is_called(name: str, spelling: object) -> None:
    """Else JSON could not be used: the name is documented nowhere."""
    assert callable(spelling)
    assert read_links(read_document(json.dumps(spelling({name: [ONE_LINK_JSON]})).encode())) == THE_LINK
    assert read_links(read_document(json.dumps(spelling({"Links": [], name: []})).encode())) == ()


def test_linked_repositories_are_found_in_a_bare_or_wrapped_array() -> None:
    """As above: the document may be the array, or hold it one level deeper."""
    assert read_links(read_document(json.dumps([ONE_LINK_JSON]).encode())) == THE_LINK
    wrapped = {"LinkedBackupRepositoryResourceObjects": {"LinkedBackupRepository": [ONE_LINK_JSON]}}
    assert read_links(read_document(json.dumps(wrapped).encode())) == THE_LINK
    assert read_links(read_document(b"[]")) == ()
    assert read_links(read_document(b'{"LinkedBackupRepositories": null}')) == ()
    assert read_links(read_document(b"<LinkedBackupRepositoryResourceObjects/>")) == ()


def test_what_a_list_says_of_itself_is_none_of_its_members() -> None:
    """Else a server that adds its own links, or a field without a value, to the list could not be used."""
    said = {"Links": [{"Rel": "Up", "Href": HREF}], "PagingInfo": {"Pages": [1]}, "Note": None}
    assert read_links(read_document(json.dumps(said | {"Items": [ONE_LINK_JSON]}).encode())) == THE_LINK


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"Links": []}',
        b'{"Message": "down for maintenance", "StatusCode": 503}',
        b'{"Message": "no", "LinkedBackupRepositories": null}',
        b'{"errors": []}',
        b'{"data": [], "error_code": 0}',
        b'{"title": "Forbidden", "details": [], "items": []}',
        b"<Error Message='no' StatusCode='404'/>",
        b"<QueryResult/>",
        b'{"LinkedBackupRepositories": [{"LinkedBackupRepositoryUid": "urn:veeam:Repository:1"}]}',
        b'{"LinkedBackupRepositories": ["' + LINK.encode() + b'"]}',
        b'{"LinkedBackupRepositories": [{"ObjectInJobId": "1", "LinkedBackupRepositoryUid": "2"}]}',
        b"<LinkedBackupRepositoryResourceObjects><LinkedBackupRepository/></LinkedBackupRepositoryResourceObjects>",
        json.dumps({"Items": [ONE_LINK_JSON, {"ObjectInJobId": None}]}).encode(),
    ],
)
def test_what_is_not_understood_is_never_an_empty_list_of_links(body: bytes) -> None:
    """Else a link that is still there would be reported as gone."""
    with pytest.raises(UnexpectedDocumentError):
        read_links(read_document(body))


@pytest.mark.parametrize("element", ["ImmediateBackupCopyJobInfo", "BackupCopyJobInfo"])
def test_linked_backups_are_read_from_both_kinds_of_copy_job(element: str) -> None:
    """Else the guard would let linked backups of older jobs be dropped."""
    one = f"<ObjectInJobId>{LINK}</ObjectInJobId><LinkedBackupUid>urn:veeam:Backup:{BACKUP}</LinkedBackupUid>"
    info = f"<LinkedBackupIncludes><LinkedBackup>{one}</LinkedBackup></LinkedBackupIncludes>"
    job = read_job(read_document(_job_xml(f"<{element}><LinkedJobIncludes/>{info}</{element}>")))
    assert job.linked_backups == (LinkedBackupRecord(LINK, BACKUP, None),)
    assert (job.id, job.name, job.job_type, job.backup_server) == (JOB, "A copy", "ImmediateBackupCopy", "vbr01")

    backup = {"ObjectInJobId": LINK, "LinkedBackupUid": f"urn:veeam:Backup:{BACKUP}"}
    others = {"BackupJobInfo": None, "ReplicaJobInfo": None}
    for includes in ({"LinkedBackups": [backup]}, [backup], {"LinkedBackup": backup}):
        body = _job_json({**others, element: {"LinkedBackupIncludes": includes}})
        assert read_job(read_document(body)).linked_backups == (LinkedBackupRecord(LINK, BACKUP, None),)


@pytest.mark.parametrize(
    "info",
    [
        {"ImmediateBackupCopyJobInfo": {}},
        {"ImmediateBackupCopyJobInfo": {"LinkedBackupIncludes": None}},
        {"ImmediateBackupCopyJobInfo": {"LinkedBackupIncludes": {}}},
        {"ImmediateBackupCopyJobInfo": {"LinkedBackupIncludes": []}},
        {"ImmediateBackupCopyJobInfo": {"LinkedBackupIncludes": {"LinkedBackups": []}}},
        {"BackupCopyJobInfo": {"LinkedBackupIncludes": {"LinkedBackups": None}}},
    ],
)
def test_a_copy_job_that_lists_no_linked_backups_has_none(info: object) -> None:
    """Else unlinks of ordinary jobs would be refused for nothing."""
    assert read_job(read_document(_job_json(info))).linked_backups == ()


@pytest.mark.parametrize("info", [None, {}, {"BackupJobInfo": {}}, {"ImmediateBackupCopyJobInfo": None}, "", []])
def test_an_entity_that_says_nothing_of_linked_backups_does_not_say_there_are_none(info: object) -> None:
    """Else linked backups could be dropped because a document had another shape."""
    assert read_job(read_document(_job_json(info))).linked_backups is None


@pytest.mark.parametrize("includes", [{"X": [{"LinkedBackupUid": "1"}]}, [{}], ["a"], "two", {"X": ["b"]}])
def test_linked_backups_that_are_not_understood_are_not_overlooked(includes: object) -> None:
    """As above."""
    with pytest.raises(UnexpectedDocumentError):
        read_job(read_document(_job_json({"ImmediateBackupCopyJobInfo": {"LinkedBackupIncludes": includes}})))


def test_references_are_read_with_their_backup_server() -> None:
    """Else names could not be narrowed to one backup server."""
    reference = f"""<Ref Type="JobReference" Name="A &quot;copy&quot;" UID="urn:veeam:Job:{JOB}" Href="https://x/api/1">
      <Links><Link Rel="Up" Type="BackupServerReference" Href="https://x/api/2" Name="vbr01"/></Links></Ref>"""
    other = f'<Ref Type="BackupReference" Name="A" UID="urn:veeam:Backup:{BACKUP}"/>'
    body = f'<QueryResult><Refs>{reference}{other}</Refs><PagingInfo PagesCount="3" PageNum="1"/></QueryResult>'
    document = read_document(body.encode())
    assert read_references(document, "Job") == (ReferenceRecord(JOB, 'A "copy"', "vbr01"),)
    assert read_paging(document) == Paging(1, 3)


@pytest.mark.parametrize("nested", [True, False])
def test_references_are_read_from_json_flat_or_nested(*, nested: bool) -> None:
    """Both were seen."""
    links = [{"Rel": "Up", "Type": "BackupServerReference", "Name": "vbr01", "Href": "x"}]
    refs: object = [{"UID": f"urn:veeam:Job:{JOB}", "Name": "A copy", "Links": links}]
    body = {"Refs": {"Refs": refs} if nested else refs, "PagingInfo": {"PagesCount": 1}}
    assert read_references(read_document(json.dumps(_camel(body)).encode()), "Job") == (
        ReferenceRecord(JOB, "A copy", "vbr01"),
    )
    assert read_references(read_document(b'{"Refs": null}'), "Job") == ()
    with pytest.raises(UnexpectedDocumentError):
        read_references(read_document(b'{"Message": "no"}'), "Job")


def test_errors_are_read_in_both_formats_and_cut() -> None:
    """Else a person would not learn what the server complained of, or would get a page of it."""
    xml = b'<Error xmlns="http://www.veeam.com/ent/v1.0" Message="Cannot find job [1]" StatusCode="404"/>'
    assert read_error(read_document(xml)) == "Cannot find job [1]"
    error = {"FirstChanceExceptionMessage": None, "Message": "x" * 5000, "StackTrace": None, "StatusCode": 404}
    assert read_error(read_document(json.dumps(error).encode())) == "x" * 999 + "…"
    assert read_error(read_document(b'{"Message": "\\ud800 half a character"}')) == "half a character"


def test_api_description_and_logon_session_are_read() -> None:
    """Else there would be no probe and no log-off."""
    api = b"""<EnterpriseManager><Links/><SupportedVersions><SupportedVersion Name="v1_6"/>
      <SupportedVersion Name="v1_7"/></SupportedVersions></EnterpriseManager>"""
    assert read_versions(read_document(api)) == ("v1_6", "v1_7")
    with pytest.raises(UnexpectedDocumentError):
        read_versions(read_document(b"<Other/>"))
    session = b"<LogonSession><UserName>a</UserName><SessionId>96cff3b1</SessionId></LogonSession>"
    assert read_session_id(read_document(session)) == "96cff3b1"


@pytest.mark.parametrize("text", [JOB, JOB.upper(), f"urn:veeam:Job:{JOB}", f" urn:veeam:Job:{JOB.upper()} "])
def test_ids_become_bare_and_lower_case(text: str) -> None:
    """Else two spellings of one ID would be two things."""
    assert bare_id(text) == JOB


@pytest.mark.parametrize("text", ["", None, "1", f"{JOB}/..", f"{JOB}\n{JOB}", "../../logonSessions/1"])
def test_what_is_no_uuid_is_no_id(text: str | None) -> None:
    """Else a strange ID could become the path of a DELETE."""
    with pytest.raises(UnexpectedDocumentError):
        bare_id(text)


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html><head><title>502 Bad\n Gateway</title>",
        b"\n<HTML lang='en'><title>502 Bad Gateway</title>",
        b"\xef\xbb\xbf\r\n<?xml version='1.0'?><!-- a --><!-- b -->\n<!DOCTYPE HTML><title>502 Bad Gateway</title>",
        b"<html/><title>502 Bad Gateway</title>",
        b"<head><title>502 Bad Gateway</title></head>",
        b"<body class='x'><title>502 Bad Gateway</title>",
    ],
)
def test_html_is_recognised_and_only_its_title_repeated(page: bytes) -> None:
    """Else a proxy's page would be taken for an answer, or printed into a ticket."""
    assert is_html(page)
    assert html_title(page) == "502 Bad Gateway"
    with pytest.raises(UnreadableDocumentError, match="HTML"):
        read_document(page)


@pytest.mark.parametrize(
    "body",
    [
        b'{"Message": "The proxy answered <html><head><title>502</title></head></html>"}',
        b'{"Name": "<!DOCTYPE html><html>"}',
        b"<Error><Message><![CDATA[<html lang='en'>]]></Message></Error>",
        b"<!-- <html> --><Error><!-- <!doctype html> --></Error>",
        b"<Error><html>1</html></Error>",
        b"<HtmlReport/>",
    ],
)
def test_a_document_that_quotes_html_is_no_page(body: bytes) -> None:
    """Else a job's name or a message would take a whole Enterprise Manager down."""
    assert not is_html(body)
    read_document(body)


@pytest.mark.parametrize("end", [b"s3cret</title>", b"s3&#99;ret</title>", b" " * 60 + b"s3cret</title>"])
def test_a_secret_in_a_title_is_taken_out_before_it_is_cut(end: bytes) -> None:
    """Else a part of it would be shown."""
    title = html_title(b"<html><title>It is\n" + end, lambda text: text.replace("s3cret", "***"))
    assert title == "It is ***"
    assert html_title(b"<html><title>It is s3cret") is None


def test_whether_it_is_a_page_is_known_soon() -> None:
    """Else a hostile answer could stop the event loop."""
    started = time.process_time()
    for piece in (b"<!--a-->", b"<!--", b"<?a?>", b"\n", b"<?", b"<!--a--> "):
        assert not is_html(piece * 2000)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xef\xbb\xbf  ", id="only a byte-order mark"),
        pytest.param(TASK_XML[: len(TASK_XML) // 2], id="truncated XML"),
        pytest.param(json.dumps(TASK_JSON).encode()[:-9], id="truncated JSON"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"1" * 100_000, id="a long number"),
        pytest.param(b'{"a": ' * 100_000, id="deep JSON"),
        pytest.param(b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), id="JSON one level too deep"),
        pytest.param(b"<a>" * 100_000, id="deep XML"),
        pytest.param(b"[" + b"[]," * (MAX_NODES + 1) + b"[]]", id="wide JSON"),
        pytest.param(b"<a>" + b"<b/>" * (MAX_NODES + 1) + b"</a>", id="wide XML"),
        pytest.param(b'<?xml version="1.0" encoding="klingon"?><a/>', id="unknown encoding"),
        pytest.param(b'<?xml version="1.0" encoding="shift_jis"?><a/>', id="multi-byte encoding"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', id="entity"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', id="external entity"),
        pytest.param(b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><a/>', id="external document type"),
        pytest.param(
            b'<!DOCTYPE a [<!ENTITY b0 "b">'
            + b"".join(b'<!ENTITY b%d "%s">' % (n, b"&b%d;" % (n - 1) * 10) for n in range(1, 12))
            + b"]><a>&b11;</a>",
            id="entity bomb",
        ),
    ],
)
def test_junk_is_given_up_quickly(body: bytes) -> None:
    """Else a broken or hostile server could stop the worker, or have it read files."""
    started = time.thread_time()
    with pytest.raises(UnreadableDocumentError):
        read_document(body)
    assert time.thread_time() - started < 5


_KEYS = [
    "Links",
    "Rel",
    "Href",
    "UID",
    "Name",
    "TaskId",
    "State",
    "Result",
    "Success",
    "Message",
    "Refs",
    "ObjectInJobId",
    "JobInfo",
    "JobType",
    "PagingInfo",
    "SessionId",
    "LinkedBackupRepositoryUid",
    "ImmediateBackupCopyJobInfo",
    "LinkedBackupIncludes",
    "PagesCount",
    "SupportedVersions",
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from([JOB, "Finished"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(_KEYS) | st.text(max_size=3),
            children,
            max_size=5,
        )
    ),
    max_leaves=20,
)
_READERS = (
    read_task,
    read_tasks,
    read_links,
    read_job,
    lambda root: read_references(root, "Job"),
    read_versions,
    read_session_id,
    read_error,
)


def _read_every_way(body: bytes) -> None:
    for reader in _READERS:
        try:
            reader(read_document(body))
        except DocumentError as error:
            str(error).encode()


@given(_json)
def test_any_json_is_read_or_refused(content: object) -> None:
    """Else one odd answer would end in an unforeseen exception instead of an outcome."""
    _read_every_way(json.dumps(content).encode())


@given(st.binary(max_size=200) | st.text(alphabet='<>/="&;#x! []aTask\n', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """As above."""
    _read_every_way(body)
    _read_every_way(b"<" + body)


@given(st.data(), st.sampled_from([TASK_XML, LINKS_XML, json.dumps(TASK_JSON).encode()]))
def test_any_damaged_document_is_read_or_refused(data: st.DataObject, body: bytes) -> None:
    """As above."""
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    _read_every_way(body[:start] + data.draw(st.binary(max_size=5)) + body[end:])
