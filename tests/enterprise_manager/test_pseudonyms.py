"""What a recording replaces: whatever could identify an installation, wherever a server may put it."""

from __future__ import annotations

import json
import re
from xml.sax.saxutils import escape, quoteattr

import defusedxml.ElementTree
import pytest

from worker.doctor.pseudonyms import NOBODY, Pseudonyms

NETLOC = "em.corp.example:9398"
UID = "7d6c1f0e-5b0a-4c1e-9a57-2b5a6f3d9c11"

#: Names and addresses. Each of them is put into every place below.
SECRETS = [
    "Payroll",
    "Zahlungsläufe",
    "給与",
    "Müller",
    "Job",
    "CORP\\svc-unlink",
    "svc@corp.example",
    "em.corp.example",
    "10.20.30.40",
    "2001:db8::17",
    "\\\\nas01\\backups\\Payroll",
    "/mnt/backups/Payroll",
    "SELECT name FROM [Payroll] WHERE id = 17",
    "a > Payroll < b & c",
    'Pay"roll',
    UID,
]

#: Places in documents of both formats, and in pages of proxies.
PLACES = [
    "<Error Message={attribute} StatusCode='500'/>",
    '<Error StatusCode="500"><FirstChanceExceptionMessage>{text}</FirstChanceExceptionMessage></Error>',
    "<Task><Result Success='false'><Message>Cannot find {text}</Message></Result></Task>",
    "<Task><State>Running</State> {text} <Operation>UpdateJob</Operation></Task>",
    "<Task><State>{text} is running</State></Task>",
    "<Task><Operation>Update {text}</Operation></Task>",
    "<Link Rel='Up' Name={attribute} Href='https://em.corp.example:9398/api/jobs'/>",
    "<Unheard Of={attribute}>{text}</Unheard>",
    "<!-- {text} --><Job/>",
    "<Job><![CDATA[{raw}]]></Job>",
    "<?server {text}?><Job/>",
    "<!DOCTYPE Job [<!ENTITY name '{text}'>]><Job/>",
    "<!DOCTYPE html><html><body><a href={raw}>x</a><p class={attribute}>{text}</p></body></html>",
    "<html><script>var host = '{raw}';</script></html>",
    "<Job Name={attribute}",
    "<Job><Description>{text}",
    '{{"Message": {json}}}',
    '{{"Result": {{"Message": {json}}}}}',
    '{{"Task": {{"State": {json}}}, "Names": [{json}, [{json}]]}}',
    '{{"Names": {{{json}: 1}}}}',
    '{{"Operation": {json}}}',
    '{{"Href": {json}, "Version": {json}}}',
    "{raw}",
    "[{json}",
]

#: Where a URL may hold a name.
URLS = [
    "https://em.corp.example:9398/api/jobs/{part}",
    "https://em.corp.example:9398/api/{part}/linkedBackupRepositories",
    "https://other.example/{part}?name={part}",
    "https://em.corp.example:9398/api/query?type=Job&filter=Name%3D%3D{part}&pageSize=15",
    "https://em.corp.example:9398/api/query?filter=Name=={part};BackupServerName==%22{part}%22",
    "https://em.corp.example:9398/api/jobs#{part}",
    "https://{part}:secret@em.corp.example:9398/api/jobs",
    "https://{part}.corp.example/api",
    "HTTPS://{part}/api",
    "//{part}/api",
    "/api/jobs/{part}",
    "http://{part}/?x=//www.w3.org/",
    "https://{part}.veeam.com/ent/v1.0",
    "https://[{part}/api",
    "ftp://{part}/x",
]


def quoted(text: str) -> str:
    """Percent-encoded, every byte of it: `%50` is a letter, too."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


def has(written: str, secret: str) -> bool:
    """Whether the secret is in what was written, in any encoding."""
    plain = [written, json.dumps(written)]
    if secret == "Job":
        return re.search(r"\bJob\b", re.sub(r"</?Job\b|urn:veeam:Job|\"Job\"\s*:", "", written)) is not None
    shown = [secret, escape(secret), quoteattr(secret)[1:-1], json.dumps(secret)[1:-1], quoted(secret)]
    return any(each.casefold() in text.casefold() for each in shown for text in plain)


#: The places of words of the API. A single word is kept there: an unknown state is what a recording is made for.
WORDS = [
    '{{"Task": {{"State": {json}}}, "Names": [{json}, [{json}]]}}',
    '{{"Names": {{{json}: 1}}}}',
    '{{"Operation": {json}}}',
]


@pytest.mark.parametrize(
    ("place", "secret"),
    [
        (place, secret)
        for place in PLACES
        for secret in SECRETS
        if place not in WORDS or secret not in {"Payroll", "Job"}
    ],
)
def test_no_name_is_left_in_any_place_of_a_document(place: str, secret: str) -> None:
    """Else a recording that is attached to an issue would tell the names of an installation."""
    body = place.format(text=escape(secret), attribute=quoteattr(secret), json=json.dumps(secret), raw=secret)
    written = Pseudonyms(NETLOC).body(body.encode())
    assert not has(written, secret), written


@pytest.mark.parametrize("part", ["Payroll", quoted("Payroll"), quoted(quoted("Payroll")), quoted("Müller")])
@pytest.mark.parametrize("url", URLS)
def test_no_name_is_left_in_any_part_of_a_url(url: str, part: str) -> None:
    """Else the paths and filters of links would tell the names of jobs and hosts."""
    for name in ("Href", "Location", "Anything"):
        written = Pseudonyms(NETLOC).value(name, url.format(part=part))
        for secret in ("Payroll", part, "ller", quoted("Payroll"), "corp.example", "secret"):
            assert secret.casefold() not in written.casefold(), written
    attribute = Pseudonyms(NETLOC).body(f'<Link Href="{escape(url.format(part=part))}"/>'.encode())
    assert part not in attribute


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe<\x00P\x00a\x00y\x00r\x00o\x00l\x00l\x00>\x00",
        b"[" * 100_000 + b'"Payroll"' + b"]" * 100_000,
        b'{"Name": "Payroll\\ud800"}',
        b"<Payroll" * 1000,
        b'{"Href": "https://[Payroll"}',
        b'<Link Href="https://em\xe2\x84\x80.example/Payroll"/>',
        b'{"Href": "https://em.corp.example:99999999/Payroll"}',
    ],
)
def test_an_odd_document_neither_leaks_nor_ends_the_recording(body: bytes) -> None:
    """Else the one odd answer that a user wants to show would cost the whole recording."""
    written = Pseudonyms(NETLOC).body(body)
    assert "Payroll" not in written.replace("<Payroll", "")
    assert "Payroll" not in json.dumps(written).replace("<Payroll", "")


def test_the_same_name_has_the_same_pseudonym_wherever_it_is() -> None:
    """Else a recording could not be replayed: its client asks with the names of its documents."""
    pseudonyms = Pseudonyms(NETLOC)
    document = pseudonyms.body(f'<Ref UID="urn:veeam:Job:{UID}" Name="Pay &amp; &quot;Roll&quot;"/>'.encode())
    name = defusedxml.ElementTree.fromstring(document).get("Name")
    filtered = pseudonyms.query({"type": "Job", "filter": 'Name=="Pay & ""Roll""";BackupServerName=="vbr"'})
    assert filtered["type"] == "Job"
    assert filtered["filter"].startswith("Name==" + json.dumps(name).replace('\\"', '""') + ";BackupServerName==")
    bare = re.search(r"urn:veeam:Job:([0-9a-f-]+)", document)
    assert bare is not None
    assert pseudonyms.path(f"/api/jobs/{UID}/linkedBackupRepositories") == (
        f"/api/jobs/{bare[1]}/linkedBackupRepositories"
    )
    assert pseudonyms.value("Href", f"https://{NETLOC}/api/jobs/{UID.upper()}?format=Entity").endswith(
        f"/api/jobs/{bare[1]}?format=Entity"
    )


def test_a_name_of_digits_is_a_name() -> None:
    """Else the job "2024" would be shown as such, because numbers are kept."""
    written = Pseudonyms(NETLOC).body(b'<Ref Name="2024" Pages="17"><Description>2024</Description></Ref>')
    assert "2024" not in written
    assert "17" in written


def test_what_the_worker_reads_is_kept() -> None:
    """Else a recording would show nothing."""
    body = (
        '<?xml version="1.0" encoding="utf-8"?><Task xmlns="http://www.veeam.com/ent/v1.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" Type="Task" '
        f'Href="https://{NETLOC}/api/tasks/task-1"><Links /><TaskId>task-1</TaskId><State>Finished</State>'
        '<Operation>UpdateJob</Operation><Result Success="true"><Message>Ok</Message></Result>'
        '<StackTrace xsi:nil="true" /><PageSize>100</PageSize></Task>'
    )
    assert Pseudonyms(NETLOC).body(body.encode()) == body.replace(NETLOC, "asked.example")
    assert NOBODY in Pseudonyms(NETLOC).path(f"/api/jobs/{NOBODY}")
    assert Pseudonyms(NETLOC).path("/api/tasks/task-999999999") == "/api/tasks/task-999999999"
    page = Pseudonyms(NETLOC).body(b"<html><head><title>503 at Payroll</title></head></html>")
    assert page.startswith("<html>")


@pytest.mark.parametrize("keep_names", [True, False])
def test_a_session_is_no_name_that_could_be_kept(keep_names: bool) -> None:
    """Else `--keep-names` would publish a session ID, of which a token may be made."""
    pseudonyms = Pseudonyms(NETLOC, keep_names=keep_names, secrets=["dG9rZW4=", "s3cr3t"])
    body = (
        f'<LogonSession Href="https://{NETLOC}/api/logonSessions/{UID}"><SessionId>{UID}</SessionId>'
        "<Token>dG9rZW4=</Token><UserName>Anna</UserName><Note>the password is s3cr3t</Note></LogonSession>"
    )
    written = pseudonyms.body(body.encode()) + pseudonyms.path(f"/api/logonSessions/{UID}")
    for secret in (UID, "dG9rZW4=", "s3cr3t"):
        assert secret not in written
    assert ("Anna" in written) is keep_names


def test_a_short_password_does_not_empty_the_recording() -> None:
    """Else a laboratory's password of a letter would replace every word that holds it."""
    written = Pseudonyms(NETLOC, keep_names=True, secrets=["e"]).body(b"<Task><State>Finished</State><Of>e</Of></Task>")
    assert "<State>Finished</State>" in written
    assert "<Of>e</Of>" not in written
