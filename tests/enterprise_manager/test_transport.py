"""One request, one answer: what may have left, what certainly did not, and which sentence a person reads."""

from __future__ import annotations

import datetime as dt
import socket
import time
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import trustme

from worker.enterprise_manager import transport
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.transport import Answer, BrokenAnswerError, NotConnectedError, Request, Transport
from worker.settings import SettingsInvalidError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
GET = Request("GET", "/api/")
DELETE = Request("DELETE", "/api/jobs/1/linkedBackupRepositories/2", headers={"X-RestSvcSessionId": "tOkEn"})


def _keep_answering(connection: Any) -> None:
    connection.secure()
    while connection.request():
        connection.send(OK)


def _transport(settings: Any) -> Transport:
    return Transport(settings, Remedies("lab", settings))


@pytest.fixture
def delete(serve: Any, settings_for: Any) -> Callable[..., Answer]:
    """Send a DELETE over a fresh connection to a server that follows a script."""

    def send(script: Any, **others: Any) -> Answer:
        return _transport(settings_for(serve(script).port, **others)).exchange_once(DELETE, lambda: None)

    return send


def test_kept_connections_are_used_again_but_not_for_a_delete_after_they_idled(
    serve: Any, settings_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else either every look would cost a handshake, or a DELETE could die on a connection that was dead already."""
    monkeypatch.setattr("worker.enterprise_manager.connections.WARM_SECONDS", 0.0)
    server = serve(_keep_answering)
    way = _transport(settings_for(server.port))
    assert [way.exchange(GET).body for _ in range(3)] == [b"OK"] * 3
    assert server.connections == 1
    assert [way.exchange_once(DELETE, lambda: None).status for _ in range(2)] == [200, 200]
    assert server.connections == 3
    way.close()


@pytest.mark.parametrize("lengths", [b"1\r\nContent-Length: 2", b"1, 2", b"2"])
def test_no_answer_stays_open_that_could_not_be_read(
    serve: Any, settings_for: Any, monkeypatch: pytest.MonkeyPatch, lengths: bytes
) -> None:
    """Else each would hold a descriptor until the garbage collector runs."""
    answers: list[HTTPResponse] = []
    begin = HTTPResponse.begin

    def remember(answer: HTTPResponse) -> None:
        answers.append(answer)
        begin(answer)

    monkeypatch.setattr(HTTPResponse, "begin", remember)

    def script(connection: Any) -> None:
        connection.secure()
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + lengths + b"\r\n\r\n1")

    way = _transport(settings_for(serve(script).port))
    with pytest.raises(BrokenAnswerError) as caught:  # which keeps alive whatever the error refers to
        way.exchange(GET)
    assert [answer.isclosed() for answer in answers] == [True], caught
    way.close()


def test_a_cookie_of_the_server_is_not_sent_back(serve: Any, settings_for: Any) -> None:
    """Else a stale session cookie would beat the header of the new session."""

    def script(connection: Any) -> None:
        connection.secure()
        while connection.request():
            connection.send(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: X-RestSvcSessionId=old; Path=/api;\r\n\r\n"))

    server = serve(script)
    way = _transport(settings_for(server.port))
    way.exchange(GET)
    way.exchange(GET)
    assert b"cookie" not in b"".join(server.requests).lower()
    way.close()


def test_environment_adds_no_proxy_and_no_credentials(
    serve: Any, settings_for: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    """Else a .netrc or a proxy variable of the host would change who is asked, and as whom."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    server = serve(_keep_answering)
    way = _transport(settings_for(server.port))
    assert way.exchange(GET).status == 200
    assert b"authorization" not in server.requests[0].lower()
    way.close()


def test_what_means_something_in_a_url_is_escaped(serve: Any, settings_for: Any) -> None:
    """Else a name could add a parameter to a query, or end it."""
    server = serve(_keep_answering)
    way = _transport(settings_for(server.port, format="json"))
    way.exchange(Request("GET", "/api/query", {"type": "Job", "filter": 'Name=="a b&c=d#e+f%20;,ü"'}))
    line = server.requests[0].split(b"\r\n")[0]
    assert line == (b"GET /api/query?type=Job&filter=Name%3D%3D%22a%20b%26c%3Dd%23e%2Bf%2520%3B%2C%C3%BC%22 HTTP/1.1")
    assert b"Accept: application/json" in server.requests[0]
    way.close()


def test_a_value_with_a_line_break_is_no_header(serve: Any, settings_for: Any) -> None:
    """Else who chooses a value, such as a session's token, could add headers, or a whole request."""
    server = serve(_keep_answering)
    way = _transport(settings_for(server.port))
    with pytest.raises(NotConnectedError):
        way.exchange(Request("GET", "/api/", headers={"X-RestSvcSessionId": "1\r\nX-Other: 2"}))
    assert b"".join(server.requests) == b""
    way.close()


def test_redirects_are_not_followed(serve: Any, settings_for: Any) -> None:
    """Else the session's token would go wherever a redirect points."""
    elsewhere = serve(_keep_answering)

    def script(connection: Any) -> None:
        connection.secure()
        connection.request()
        connection.send(
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: https://127.0.0.1:%d/\r\n\r\n" % elsewhere.port
        )

    way = _transport(settings_for(serve(script).port))
    assert way.exchange(GET).status == 302
    assert elsewhere.connections == 0
    way.close()


# --- certainly not sent ---------------------------------------------------------------------------------------------


def test_nothing_listens(settings_for: Any) -> None:
    """Else a DELETE that never left would be taken for one that may have been carried out."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NotConnectedError, match=r"nothing listens there.*UNLINK_ENTERPRISE_MANAGERS__LAB__URL"):
        _transport(settings_for(port)).exchange_once(DELETE, lambda: None)


def test_unknown_host(settings_for: Any) -> None:
    """As above."""
    settings = settings_for(9398, url="https://em.invalid:9398")
    with pytest.raises(NotConnectedError, match=r"em\.invalid is not known; check .*__LAB__URL"):
        _transport(settings).exchange_once(DELETE, lambda: None)


def test_closed_before_the_handshake(delete: Any) -> None:
    """As above: load balancers without a living server behind them do that."""
    with pytest.raises(NotConnectedError):
        delete(lambda connection: connection.close())


def test_reset_before_the_handshake(delete: Any) -> None:
    """As above."""
    with pytest.raises(NotConnectedError):
        delete(lambda connection: connection.reset())


def test_silent_during_the_handshake(delete: Any) -> None:
    """As above."""
    with pytest.raises(NotConnectedError, match="no answer to the attempt to connect"):
        delete(lambda connection: connection.request(), request_timeout_seconds=0.3)


def test_plain_http_where_tls_is_expected(delete: Any) -> None:
    """Else a person would not see that the port is the plain one."""
    with pytest.raises(NotConnectedError, match=r"did not answer with TLS.*__LAB__URL: 9398 is HTTPS"):
        delete(lambda connection: connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))


# --- perhaps sent ---------------------------------------------------------------------------------------------------


def _after_request(answer: bytes, *, reset: bool = False) -> Callable[[Any], None]:
    def script(connection: Any) -> None:
        connection.secure()
        connection.request()
        connection.send(answer)
        if reset:
            connection.reset()

    return script


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(_after_request(b""), id="closed"),
        pytest.param(_after_request(b"", reset=True), id="reset"),
        pytest.param(_after_request(b"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n<Task"), id="cut in the body"),
        pytest.param(
            _after_request(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<Task\r\n"),
            id="cut chunks",
        ),
        pytest.param(
            _after_request(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nklingon"), id="no chunks"
        ),
        pytest.param(_after_request(b"220 mail.example.com ESMTP\r\n"), id="no HTTP"),
        pytest.param(_after_request(b"HTTP/1.1 202 " + b"A" * 100_000 + b"\r\n\r\n"), id="endless status line"),
        pytest.param(_after_request(b"HTTP/1.1 202 A\r\n" + b"A: b\r\n" * 1000 + b"\r\n"), id="too many headers"),
        pytest.param(
            _after_request(b"HTTP/1.1 202 A\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"),
            id="compressed",
        ),
    ],
)
def test_whatever_happens_after_the_request_may_have_been_carried_out(delete: Any, script: Any) -> None:
    """Else a DELETE that was carried out would be sent once more, and could hit what somebody put back."""
    with pytest.raises(BrokenAnswerError):
        delete(script)


def test_silence_after_the_request(delete: Any) -> None:
    """As above; and the sentence names the time-out."""

    def script(connection: Any) -> None:
        connection.secure()
        connection.request()
        connection.request()

    with pytest.raises(BrokenAnswerError, match=r"within 0\.3 s.*__LAB__REQUEST_TIMEOUT_SECONDS"):
        delete(script, request_timeout_seconds=0.3)


def test_an_answer_that_trickles_ends_at_the_time_out(delete: Any) -> None:
    """Else a slow server could hold a thread for hours, one byte at a time."""

    def script(connection: Any) -> None:
        connection.secure()
        connection.request()
        connection.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            connection.send(b"<")
            time.sleep(0.05)

    started = time.monotonic()
    with pytest.raises(BrokenAnswerError, match="within"):
        delete(script, request_timeout_seconds=0.5)
    assert time.monotonic() - started < 3


def test_an_answer_without_end_is_cut_off(delete: Any, monkeypatch: Any) -> None:
    """Else a hostile or broken server could fill the worker's memory."""
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 200_000)

    def script(connection: Any) -> None:
        connection.secure()
        connection.request()
        connection.send(b"HTTP/1.1 202 Accepted\r\n\r\n")
        while True:
            connection.send(b"<" * 65536)

    with pytest.raises(BrokenAnswerError, match="more than 200000 bytes"):
        delete(script)


# --- TLS ------------------------------------------------------------------------------------------------------------


def _refusal(serve: Any, settings: Any, tls: Any) -> str:
    server = serve(_keep_answering, tls=tls)
    with pytest.raises(NotConnectedError) as refused:
        _transport(settings(server.port)).exchange_once(DELETE, lambda: None)
    assert server.requests == []
    return str(refused.value)


def test_a_certificate_of_another_ca(serve: Any, settings_for: Any, tls_of: Any) -> None:
    """Else the password would go to whoever answers; and a person must learn which file to change."""
    message = _refusal(serve, settings_for, tls_of(trustme.CA().issue_cert("127.0.0.1")))
    assert "is not signed by CA_FILE" in message
    assert "UNLINK_ENTERPRISE_MANAGERS__LAB__CA_FILE" in message


def test_a_certificate_of_an_unknown_ca_without_ca_file(
    serve: Any, settings_for: Any, tls_of: Any, authority: Any
) -> None:
    """As above, where only the system's CAs are trusted."""
    tls = tls_of(authority.issue_cert("127.0.0.1"))
    message = _refusal(serve, lambda port: settings_for(port, ca_file=None), tls)
    assert "not signed by a CA that this system trusts: point UNLINK_ENTERPRISE_MANAGERS__LAB__CA_FILE" in message


def test_a_certificate_for_another_host(serve: Any, settings_for: Any, tls_of: Any, authority: Any) -> None:
    """As above; the remedy is another name in the URL."""
    message = _refusal(serve, settings_for, tls_of(authority.issue_cert("em.example.com")))
    assert "is not for the host name 127.0.0.1" in message
    assert "UNLINK_ENTERPRISE_MANAGERS__LAB__URL" in message


def test_an_expired_certificate(serve: Any, settings_for: Any, tls_of: Any, authority: Any) -> None:
    """As above; the remedy is on the other side."""
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    message = _refusal(serve, settings_for, tls_of(authority.issue_cert("127.0.0.1", not_after=past)))
    assert "has expired" in message


def test_the_servers_own_certificate_is_a_ca_file(
    serve: Any, settings_for: Any, tls_of: Any, authority: Any, tmp_path: Path
) -> None:
    """Else the certificate that Enterprise Manager's installer makes could not be used, but by switching TLS off."""
    certificate = authority.issue_cert("127.0.0.1")
    own = tmp_path / "own.pem"
    certificate.cert_chain_pems[0].write_to_path(own)
    server = serve(_keep_answering, tls=tls_of(certificate))
    way = _transport(settings_for(server.port, ca_file=own))
    assert way.exchange(GET).status == 200
    way.close()


def test_unverified_tls_works_without_a_warning_each_time(serve: Any, settings_for: Any, tls_of: Any) -> None:
    """Else the log would drown; the one warning at the start is the gateway's."""
    server = serve(_keep_answering, tls=tls_of(trustme.CA().issue_cert("em.example.com")))
    way = _transport(settings_for(server.port, ca_file=None, verify_tls=False))
    assert way.exchange(GET).status == 200
    way.close()


def test_plain_http_works(serve: Any, settings_for: Any) -> None:
    """Else the obsolete port could not be used at all."""
    server = serve(_keep_answering, tls=None)
    way = _transport(settings_for(server.port, url=f"http://127.0.0.1:{server.port}"))
    assert way.exchange(GET).status == 200
    assert way.exchange_once(DELETE, lambda: None).status == 200
    way.close()


def test_a_ca_file_without_a_certificate_is_a_wrong_setting(settings_for: Any, tmp_path: Path) -> None:
    """Else the worker would start, and say at the first request what it could have said at once."""
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificate")
    with pytest.raises(SettingsInvalidError, match="UNLINK_ENTERPRISE_MANAGERS__LAB__CA_FILE"):
        _transport(settings_for(9398, ca_file=empty))


def test_requests_and_answers_show_no_secrets(serve: Any, settings_for: Any) -> None:
    """Else a token or a password could end in a log."""
    server = serve(_keep_answering)
    way = _transport(settings_for(server.port))
    answer = way.exchange(DELETE)
    assert "tOkEn" not in repr(DELETE)
    assert "Content-Length" not in repr(answer)
    way.close()
