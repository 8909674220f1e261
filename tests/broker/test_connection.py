"""Connecting: what a person is told when it does not work, and that it goes on trying."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from tests.broker.conftest import Site
from tests.garbage import alive, without_search
from tests.private_servers.proxy import Network
from tests.rabbitmq import own_node
from tests.waiting import until
from worker.broker import connection
from worker.broker.problems import ConnectError
from worker.broker.visit import visit
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.settings import BrokerSettings, SettingsInvalidError


@pytest.fixture
def problem_with(site: Site) -> Callable[..., Any]:
    """What a worker with these settings says is wrong."""

    async def problem(url: str, **settings: Any) -> str:
        worker = site.make_worker(BrokerSettings(url=SecretStr(url), **settings))
        start = asyncio.create_task(worker.broker.start())
        await until(lambda: worker.problem)
        assert not worker.broker.up
        assert not start.done()
        start.cancel()
        problems = [entry["problem"] for entry in site.logged("broker.connection_failed")]
        assert worker.problem in problems
        assert "\n" not in worker.problem
        return str(worker.problem)

    return problem


async def test_wrong_password_is_reported_with_its_remedy_and_never_repeated(
    problem_with: Callable[..., Any], broker: LocalBroker, site: Site
) -> None:
    """Somebody who mistyped a password would have to guess, or find it in the log."""
    problem = await problem_with(f"amqp://unlink:wr0ng-secret@127.0.0.1:{broker.port}/")
    assert "refuses the user name or the password (403)" in problem
    assert "UNLINK_BROKER__URL" in problem
    assert "wr0ng-secret" not in str(site.logs)


async def test_missing_virtual_host_is_reported(problem_with: Callable[..., Any], broker: LocalBroker) -> None:
    """A forgotten virtual host would look like a broken network."""
    problem = await problem_with(f"{broker.url}not-there")
    assert "has no virtual host 'not-there'" in problem


async def test_user_without_permissions_in_the_virtual_host_is_reported(
    problem_with: Callable[..., Any], broker: LocalBroker, site: Site
) -> None:
    """A forgotten permission would look like a wrong password."""
    url = site.new_user().rpartition("/")[0] + "/"
    assert broker.port
    assert "set_permissions" in await problem_with(url)


async def test_user_who_may_not_declare_is_reported_with_what_could_not_be_declared(
    problem_with: Callable[..., Any], site: Site
) -> None:
    """Where the broker's owner declares the topology, the worker's refusal would be a riddle."""
    problem = await problem_with(site.new_user(configure="^$", write=".*", read=".*"))
    assert "exchange unlink.dead cannot be declared" in problem
    assert "permission" in problem


async def test_unreachable_broker_is_reported(problem_with: Callable[..., Any]) -> None:
    """A wrong port would end in a stack trace."""
    problem = await problem_with("amqp://u:p@127.0.0.1:1/")
    assert "127.0.0.1:1 cannot be reached (Connection refused)" in problem


async def test_unknown_host_is_reported(problem_with: Callable[..., Any]) -> None:
    """A mistyped host name would end in a stack trace."""
    problem = await problem_with("amqp://u:p@broker.invalid/")
    assert "broker.invalid:5672 cannot be resolved" in problem


@pytest.mark.slow
async def test_worker_that_starts_before_its_virtual_host_gets_there(site: Site, broker: LocalBroker) -> None:
    """A worker deployed before its broker was set up would crash, and crash again, or never start."""
    rabbitmqctl = own_node(broker).rabbitmqctl
    worker = site.make_worker(BrokerSettings(url=SecretStr(f"{broker.url}later")))
    start = asyncio.create_task(worker.broker.start())
    await until(lambda: worker.problem)
    await asyncio.to_thread(rabbitmqctl, "add_vhost", "later")
    await asyncio.to_thread(rabbitmqctl, "set_permissions", "-p", "later", "unlink", ".*", ".*", ".*")
    async with asyncio.timeout(30):
        await start
    assert worker.broker.up
    assert worker.broker.last_problem is None
    await worker.broker.close()
    await asyncio.to_thread(rabbitmqctl, "delete_vhost", "later")


async def test_worker_that_can_open_no_socket_for_a_moment_connects_afterwards(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in pika reports this. Without a time-out the worker would never consume or publish again."""
    monkeypatch.setattr(connection, "OPEN_SECONDS", 1.0)
    worker = site.make_worker()
    with monkeypatch.context() as host:
        host.setattr(socket, "socket", _too_many_open_files)
        start = asyncio.create_task(worker.broker.start())
        await until(lambda: worker.problem)
    assert "UNLINK_BROKER__URL" in worker.problem
    async with asyncio.timeout(30):
        await start
    assert worker.broker.up
    await worker.broker.close()


async def test_tool_that_can_open_no_socket_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` and `topology` would wait without a limit, and without a word."""
    monkeypatch.setattr(connection, "OPEN_SECONDS", 1.0)
    monkeypatch.setattr(socket, "socket", _too_many_open_files)
    with pytest.raises(ConnectError, match="UNLINK_BROKER__URL"):
        async with asyncio.timeout(10), visit(site.settings, "test"):
            pass


def _too_many_open_files(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    "url", ["amqp://user:pa/ss-w0rd@host:5672/", "amqp://user:p@host:w0rd/"], ids=["slash in the password", "port"]
)
def test_url_that_cannot_be_read_is_reported_without_a_piece_of_it(site: Site, url: str) -> None:
    """An unescaped password would be printed, piece by piece, in the message about it."""
    with pytest.raises(SettingsInvalidError) as error:
        site.make_worker(BrokerSettings(url=SecretStr(url)))
    assert "UNLINK_BROKER__URL" in str(error.value)
    assert "w0rd" not in str(error.value)
    assert error.value.__cause__ is None


def test_ca_file_that_holds_no_certificate_is_reported(site: Site, tmp_path: Path) -> None:
    """A key given for a certificate would end in a stack trace."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("not a certificate")
    with pytest.raises(SettingsInvalidError, match="UNLINK_BROKER__CA_FILE"):
        site.make_worker(BrokerSettings(url=SecretStr("amqps://u:p@host/"), ca_file=ca_file))


@pytest.fixture
def tls_port(broker: LocalBroker, tmp_path: Path) -> Iterator[int]:
    """A port that speaks TLS before the broker, with a certificate for 127.0.0.1; `ca.pem` and `other.pem` are CAs."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    with Network() as network:
        yield network.proxy([broker.port], context).port


async def test_tls_with_the_right_ca_works(
    site: Site, broker_url: str, broker: LocalBroker, tls_port: int, tmp_path: Path
) -> None:
    """A broker with a certificate of the company's own CA could not be used."""
    url = broker_url.replace("amqp://", "amqps://").replace(f":{broker.port}/", f":{tls_port}/")
    worker = site.make_worker(BrokerSettings(url=SecretStr(url), ca_file=tmp_path / "ca.pem"))
    async with asyncio.timeout(20):
        await worker.broker.start()
    assert worker.broker.up
    await worker.broker.close()


async def test_a_ca_file_that_is_renewed_is_read_again(
    site: Site, broker_url: str, broker: LocalBroker, tls_port: int, tmp_path: Path
) -> None:
    """A worker would have to be restarted whenever the company's CA is renewed."""
    renewed = tmp_path / "renewed.pem"
    renewed.write_bytes((tmp_path / "other.pem").read_bytes())
    url = broker_url.replace("amqp://", "amqps://").replace(f":{broker.port}/", f":{tls_port}/")
    worker = site.make_worker(BrokerSettings(url=SecretStr(url), ca_file=renewed))
    start = asyncio.create_task(worker.broker.start())
    await until(lambda: "not trusted" in worker.problem)
    renewed.write_bytes((tmp_path / "ca.pem").read_bytes())
    async with asyncio.timeout(20):
        await start
    assert worker.broker.up
    await worker.broker.close()


@pytest.mark.parametrize("ca_file", ["ca.pem", None], ids=["a CA file", "the system's CAs"])
async def test_attempts_to_connect_share_the_ca_certificates(tmp_path: Path, ca_file: str | None) -> None:
    """Each attempt kept 0.8 MB of them: a worker that could not reach its broker grew by 100 MB in 120 attempts."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = BrokerSettings(url=SecretStr("amqps://u:p@127.0.0.1:1/"), ca_file=ca_file and tmp_path / ca_file)
    with without_search():
        before = alive(ssl.SSLContext)
        for _ in range(5):
            with pytest.raises(ConnectError, match="cannot be reached"):
                await connection.connect(connection.connection_parameters(settings, "test"))
        assert alive(ssl.SSLContext) <= before + 1


async def test_wrong_ca_is_reported(problem_with: Callable[..., Any], tls_port: int, tmp_path: Path) -> None:
    """A certificate that is not trusted would end in a stack trace."""
    problem = await problem_with(f"amqps://u:p@127.0.0.1:{tls_port}/", ca_file=tmp_path / "other.pem")
    assert "not trusted" in problem
    assert "UNLINK_BROKER__CA_FILE" in problem


async def test_certificate_for_another_host_is_reported(
    problem_with: Callable[..., Any], tls_port: int, tmp_path: Path
) -> None:
    """A broker reached by an alias would look untrusted for no reason."""
    problem = await problem_with(f"amqps://u:p@localhost:{tls_port}/", ca_file=tmp_path / "ca.pem")
    assert "another host" in problem


async def test_tls_to_a_plain_port_is_reported(problem_with: Callable[..., Any], broker: LocalBroker) -> None:
    """A wrong scheme in the URL would be a riddle."""
    problem = await problem_with(f"amqps://u:p@127.0.0.1:{broker.port}/")
    assert "TLS" in problem


async def test_plain_to_a_tls_port_is_reported(problem_with: Callable[..., Any], tls_port: int) -> None:
    """A wrong scheme in the URL would be a riddle."""
    problem = await problem_with(f"amqp://u:p@127.0.0.1:{tls_port}/")
    assert "amqps://" in problem


async def test_a_connection_that_was_cut_off_while_it_was_made_is_closed_without_an_error(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport was gone, and pika had not said so: a worker without threads logged a stack trace."""
    monkeypatch.setattr(connection, "CLOSE_SECONDS", 0.1)
    made = await connection.connect(connection.connection_parameters(BrokerSettings(url=SecretStr(broker.url)), "test"))
    transport, made._transport = made._transport, None  # type: ignore[attr-defined] # noqa: SLF001 - as pika does
    monkeypatch.setattr(made, "close", lambda: None)
    await connection._close(made, asyncio.get_running_loop().create_future())  # noqa: SLF001 - of that state only
    transport.abort()
