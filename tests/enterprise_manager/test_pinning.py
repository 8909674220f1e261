"""A server known by its certificate's fingerprint."""

from __future__ import annotations

import datetime as dt
import gc
import hashlib
import select
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from pydantic import SecretStr, ValidationError

from tests.enterprise_manager.ids import JOB
from worker.enterprise_manager import Gateway
from worker.enterprise_manager.pinning import PinnedContext, with_colons
from worker.enterprise_manager.remedies import Remedies
from worker.enterprise_manager.transport import NotConnectedError, Request, Transport
from worker.sandbox.simulated_enterprise_manager import SimulatedEnterpriseManager
from worker.settings import EnterpriseManagerSettings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
LOGON = Request("POST", "/api/sessionMngr/", headers={"Authorization": "Basic c2VjcmV0"})


def _keep_answering(connection: Any) -> None:
    connection.secure()
    while connection.request():
        connection.send(OK)


def _fingerprint(certificate: trustme.LeafCert) -> str:
    pem = certificate.cert_chain_pems[0].bytes().decode()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _transport(settings: EnterpriseManagerSettings) -> Transport:
    return Transport(settings, Remedies("lab", settings))


@pytest.mark.parametrize("spelt", [str, str.upper, with_colons, lambda text: f" {with_colons(text).lower()} "])
def test_a_pinned_certificate_needs_no_ca_and_no_name(
    serve: Any, settings_for: Any, tls_of: Any, spelt: Callable[[str], str]
) -> None:
    """Else a self-signed certificate, for whatever name, could only be used by not looking at it at all."""
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = trustme.CA().issue_cert("another.example.com", not_after=past)
    server = serve(_keep_answering, tls=tls_of(certificate))
    way = _transport(settings_for(server.port, ca_file=None, cert_sha256=spelt(_fingerprint(certificate))))
    assert way.exchange(LOGON).status == 200
    assert way.exchange_once(LOGON, lambda: None).status == 200
    way.close()


@pytest.mark.parametrize("once", [False, True])
def test_another_certificate_is_sent_nothing_and_is_reported(
    serve: Any, settings_for: Any, tls_of: Any, once: bool
) -> None:
    """Else whoever is on the way would be given the password before anybody looked."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    server = serve(_keep_answering, tls=tls_of(certificate))
    way = _transport(settings_for(server.port, ca_file=None, cert_sha256="ab" * 32))
    with pytest.raises(NotConnectedError) as refused:
        way.exchange_once(LOGON, lambda: None) if once else way.exchange(LOGON)
    message = str(refused.value)
    assert with_colons(_fingerprint(certificate)) in message
    assert "UNLINK_ENTERPRISE_MANAGERS__LAB__CERT_SHA256" in message
    assert "\n" not in message
    assert server.requests == []
    way.close()


def test_with_a_ca_file_both_must_hold(serve: Any, settings_for: Any, tls_of: Any, authority: trustme.CA) -> None:
    """Else who sets both would get less than either."""
    good, strange = authority.issue_cert("127.0.0.1"), trustme.CA().issue_cert("127.0.0.1")
    for certificate, pin, message in (
        (good, _fingerprint(good), None),
        (good, "00" * 32, "is not the one in"),
        (strange, _fingerprint(strange), "is not signed by CA_FILE"),
    ):
        way = _transport(settings_for(serve(_keep_answering, tls=tls_of(certificate)).port, cert_sha256=pin))
        if message is None:
            assert way.exchange(LOGON).status == 200
        else:
            with pytest.raises(NotConnectedError, match=message):
                way.exchange(LOGON)
        way.close()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"cert_sha256": "ab" * 20}, "64 hexadecimal digits"),
        ({"cert_sha256": ""}, "64 hexadecimal digits"),
        ({"cert_sha256": "ab" * 32, "verify_tls": False}, "contradict"),
        ({"cert_sha256": "ab" * 32, "url": "http://em:9399"}, "https"),
    ],
)
def test_a_pin_that_cannot_be_meant_is_a_wrong_setting(others: dict[str, Any], message: str) -> None:
    """Else a pin that is cut off, or has no effect, would be believed to protect."""
    given = {"url": "https://em:9398", "username": "svc", "password": SecretStr("s")} | others
    with pytest.raises(ValidationError, match=message):
        EnterpriseManagerSettings(**given)


async def test_an_unlinks_road_with_nothing_but_the_pin(
    em: SimulatedEnterpriseManager, gateway_with: Callable[..., Gateway]
) -> None:
    """Else the pin would work for one request, and not for the pool of them."""
    host, port = em.url.removeprefix("https://").split(":")
    seen = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))).hexdigest()
    gateway = gateway_with(ca_file=None, cert_sha256=seen)
    assert len(await gateway.links(JOB)) == 2


def test_a_connection_that_was_reset_before_its_handshake_is_closed(serve: Any) -> None:
    """Else each attempt to connect to a load balancer without a server may leave a socket open for a while."""
    connected = threading.Event()

    def reset(connection: Any) -> None:
        connected.wait(10)  # a reset that comes earlier may end the connect call itself
        connection.reset()

    server = serve(reset)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            connected.set()
            assert select.select([raw], [], [], 10)[0], "the reset has not come"
            with pytest.raises(ConnectionResetError):
                PinnedContext.of(None).wrap_socket(raw, server_hostname="localhost")
        gc.collect()
    assert [str(warning.message) for warning in warned] == []
