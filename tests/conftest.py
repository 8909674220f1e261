"""The real parts that tests share: one private server of each kind for the session, one fresh place in it per test."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import requests
from pydantic import SecretStr

from tests.end_to_end.world import World
from tests.private_servers.broker_users import BrokerUsers
from tests.private_servers.postgresql import PrivatePostgresql, ReusedDatabase
from worker.clock import SystemClock
from worker.ledger.database import open_engine, read_url
from worker.ledger.migrations import migrate
from worker.sandbox.rabbitmq.private_broker import LocalBroker
from worker.sandbox.simulated_enterprise_manager import Behaviour, SimulatedEnterpriseManager

pytest_plugins = ["tests.missing_parts", "tests.rabbitmq", "tests.temporary_files"]

_numbers = itertools.count(1)

# On a busy machine a slow example is no sign of a slow program. `--hypothesis-profile=thorough` tries twenty times as
# many.
for _name, _examples in (("quick", 15), ("thorough", 300)):
    hypothesis.settings.register_profile(
        _name, max_examples=_examples, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
hypothesis.settings.load_profile("quick")

# The servers of the tests are on this host, whatever proxy the user has.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "localhost", "127.0.0.1")))

# A shell starts what it puts into the background with these ignored, and the programs under test would inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count what needs a browser or `rabbitmqctl` as slow; give slow tests ten minutes if they name no limit.

    The smoke test is not slow.
    """
    for item in items:
        in_browser = "chromium" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("smoke")
        if in_browser or item.get_closest_marker("rabbitmqctl"):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


def pytest_collection_finish() -> None:
    """Keep what was imported out of the garbage collector's way, which makes its runs short."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _leaks_fail_here() -> Iterator[None]:
    """Collect garbage at the end of each file of tests: what was left open there fails a test there, not elsewhere."""
    yield
    gc.collect()


@pytest.fixture
def virtual_host(broker: LocalBroker, worker_id: str) -> Iterator[str]:
    """The name of a virtual host of this test's own."""
    name = f"test-{worker_id}-{next(_numbers)}"
    vhost = f"{broker.management_url}/api/vhosts/{name}"
    requests.put(vhost, timeout=30).raise_for_status()
    yield name
    requests.delete(vhost, timeout=30).raise_for_status()


@pytest.fixture
def broker_url(broker: LocalBroker, virtual_host: str) -> str:
    """An `amqp://` URL with a virtual host of this test's own."""
    return broker.url + virtual_host


@pytest.fixture
def broker_users(broker: LocalBroker, virtual_host: str) -> BrokerUsers:
    """Users with permissions on this test's virtual host, made on demand."""
    return BrokerUsers(broker, virtual_host)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PrivatePostgresql]:
    """One private PostgreSQL server for the whole session. Who stops it starts it again."""
    with PrivatePostgresql() as postgresql:
        yield postgresql


@pytest.fixture
def empty_postgresql_url(postgresql: PrivatePostgresql) -> Iterator[str]:
    """A `postgresql://` URL with an empty database of this test's own."""
    name = f"test_{next(_numbers)}"
    yield postgresql.create_database(name)
    postgresql.drop_database(name)


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: PrivatePostgresql) -> str:
    """The name of a database with the tables of a ledger, to be copied: migrating each anew takes 0.1 s of CPU."""
    _migrate(postgresql.create_database("migrated"))
    return "migrated"


@pytest.fixture
def postgresql_url(postgresql: PrivatePostgresql, migrated_postgresql: str) -> Iterator[str]:
    """A `postgresql://` URL with a new ledger of this test's own."""
    name = f"test_{next(_numbers)}"
    yield postgresql.create_database(name, migrated_postgresql)
    postgresql.drop_database(name)


@pytest.fixture(scope="session")
def _reused_database(postgresql: PrivatePostgresql, migrated_postgresql: str) -> ReusedDatabase:
    return ReusedDatabase(postgresql.create_database("reused", migrated_postgresql))


@pytest.fixture
def reused_postgresql_url(_reused_database: ReusedDatabase) -> str:
    """A `postgresql://` URL with a ledger as new; the test changes nothing but its rows."""
    _reused_database.reset()
    return _reused_database.url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the tables of a ledger, to be copied."""
    file = tmp_path_factory.mktemp("migrated") / "ledger.sqlite"
    _migrate(f"sqlite:///{file}")
    return file


def _migrate(url: str) -> None:
    engine = open_engine(read_url(SecretStr(url)), SystemClock())
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A `sqlite://` URL with a new ledger of this test's own."""
    return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path)}"


@pytest.fixture
def simulated_enterprise_manager() -> Iterator[SimulatedEnterpriseManager]:
    """A simulated Enterprise Manager of this test's own, over HTTPS; how it behaves can be changed while it runs."""
    with SimulatedEnterpriseManager.start() as enterprise_manager:
        yield enterprise_manager


@pytest.fixture
def behaviour() -> Behaviour:
    """How the Enterprise Manager of a `World` behaves; a test changes it before or while it runs."""
    return Behaviour()


@pytest.fixture
def world(broker_url: str, sqlite_url: str, behaviour: Behaviour) -> Iterator[World]:
    """Everything that one worker needs, without the worker."""
    with (
        SimulatedEnterpriseManager.start(behaviour=behaviour) as enterprise_manager,
        World(broker_url, sqlite_url, enterprise_manager) as world,
    ):
        yield world


@pytest.fixture
def world_on_postgresql(broker_url: str, postgresql_url: str, behaviour: Behaviour) -> Iterator[World]:
    """A world whose ledger several workers can share, and can go away."""
    with (
        SimulatedEnterpriseManager.start(behaviour=behaviour) as enterprise_manager,
        World(broker_url, postgresql_url, enterprise_manager) as world,
    ):
        yield world
