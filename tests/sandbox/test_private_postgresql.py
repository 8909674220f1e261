from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.private_servers.postgresql import PROGRAMS_VARIABLE, PrivatePostgresql
from worker.sandbox.errors import MissingPartError


@pytest.fixture(scope="module")
def own_server() -> Iterator[PrivatePostgresql]:
    """A server beside the session's, which these tests may stop and kill."""
    with PrivatePostgresql() as server:
        yield server


def _note(url: str, text: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        connection.execute("INSERT INTO note VALUES (%s)", [text])


def _notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM note").fetchall()]


def test_what_was_committed_outlives_sigkill_and_restart(own_server: PrivatePostgresql) -> None:
    """A test that kills the ledger's server would prove nothing if it came back empty or on another port."""
    url = own_server.create_database("kept")
    _note(url, "one")
    own_server.kill()
    own_server.start()
    _note(url, "two")
    own_server.restart()
    assert _notes(url) == ["one", "two"]


def test_sigkill_with_a_client_connected_is_followed_by_a_start(own_server: PrivatePostgresql) -> None:
    """Chaos tests kill the server while workers hold connections; its backends end a moment later than it."""
    client = psycopg.connect(own_server.url)
    own_server.kill()
    own_server.start()
    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    client.close()


@pytest.mark.parametrize("new_connections", [True, False])
def test_a_suspended_server_answers_nobody_until_it_is_resumed(
    own_server: PrivatePostgresql, *, new_connections: bool
) -> None:
    """The chaos suite would freeze a server that goes on answering."""
    with psycopg.connect(own_server.url) as client, ThreadPoolExecutor() as threads:
        own_server.suspend(new_connections=new_connections)
        answer = threads.submit(client.execute, "SELECT 1")
        if new_connections:
            psycopg.connect(own_server.url).close()
        else:
            with pytest.raises(psycopg.OperationalError, match="timeout"):
                psycopg.connect(own_server.url, connect_timeout=2)
        assert not answer.done()
        own_server.resume()
        assert answer.result(10).fetchone() == (1,)


@pytest.mark.slow
def test_a_promoted_standby_has_all_that_was_committed() -> None:
    """The chaos suite would call lost what its own fail-over has lost."""
    with PrivatePostgresql() as primary, PrivatePostgresql(standby_of=primary) as standby:
        url = primary.create_database("kept")
        primary.commit_on_standby()
        _note(url, "before")
        primary.kill()
        standby.promote()
        _note(standby.url_of("kept"), "after")
        assert _notes(standby.url_of("kept")) == ["before", "after"]


def test_nobody_gets_in_without_the_password(own_server: PrivatePostgresql) -> None:
    """Any user of the machine could read and change a private ledger."""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(own_server.url.replace(own_server.url.split(":")[2].split("@")[0], "guess"))


def test_each_test_has_an_empty_database(empty_postgresql_url: str) -> None:
    """Tests of the ledger would see each other's keys."""
    with psycopg.connect(empty_postgresql_url) as connection:
        tables = connection.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == []


def test_closing_removes_the_directory_and_the_server() -> None:
    """Servers left behind by tests eat a machine's memory and disk, unnoticed."""
    with PrivatePostgresql() as server:
        url = server.url
    assert not server.running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    server.close()


def test_a_named_folder_without_postgresql_is_named_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who misspells the folder would otherwise wonder why another PostgreSQL is used, or none."""
    monkeypatch.setenv(PROGRAMS_VARIABLE, str(tmp_path))
    with pytest.raises(MissingPartError, match=PROGRAMS_VARIABLE):
        PrivatePostgresql()
