"""Run by `Preloaded`: has the worker's modules imported, and forks a process for each program that is asked for.

A start of Python that imports the worker takes 0.7 s of CPU, and the first migration and the contract's models take
nearly as long; the tests start hundreds. What is forked is a process of its own in a session of its own, with its own
arguments, environment, folder and files, as if started by exec.

Requests come as JSON, one a line, on standard input; each is answered by a line on standard output with the process ID.
At the end of the input everything that was forked is killed. A request with `status` names the file that is to receive
the exit status.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
import sqlalchemy.dialects.postgresql.psycopg
import structlog.testing
from pydantic import BaseModel

import worker.cli.cancel
import worker.cli.doctor.command
import worker.cli.run
import worker.cli.status
import worker.cli.submit
import worker.cli.watch
import worker.ledger.postgresql
import worker.ledger.sql_ledger  # noqa: F401 - imported here, so that no fork has to
from worker.ledger.migrations import migrate
from worker.sandbox.processes.reaper import Children

#: What a program finds as it was when Python starts.
_USUAL_SIGNALS: dict[int, Any] = {
    signal.SIGCHLD: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


def serve() -> list[str] | None:
    """Fork for each request; returns in the fork with the arguments to run, and here with None at the end."""
    answers = os.dup(sys.stdout.fileno())
    forked = Children()
    signal.signal(signal.SIGCHLD, forked.reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm_up()
    gc.freeze()  # no fork's garbage collector looks at what was imported here, nor copies its pages
    for request in _requests():
        pid = forked.start(os.fork)
        if pid == 0:
            os.close(answers)
            os.setsid()
            for number, handler in _USUAL_SIGNALS.items():
                signal.signal(number, handler)
            if request.get("status"):
                _write_the_status(Path(request["status"]))
            return _become(request)
        os.write(answers, f"{pid}\n".encode())
    for pid in forked:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return None


def _warm_up() -> None:
    """Do what each fork would do anew: build the models, and import what a migration needs."""
    _complete(BaseModel)
    with structlog.testing.capture_logs(), sqlalchemy.create_engine("sqlite://").begin() as connection:
        migrate(connection)


def _complete(model: type[BaseModel]) -> None:
    for submodel in model.__subclasses__():
        if submodel.__module__.startswith(("contracts.", "worker.")):
            submodel.model_rebuild()
        _complete(submodel)


def _requests() -> Iterator[dict[str, Any]]:
    pending = b""
    while received := os.read(sys.stdin.fileno(), 65536):
        *lines, pending = (pending + received).split(b"\n")
        yield from map(json.loads, lines)


def _write_the_status(file: Path) -> None:
    """Fork once more: the fork returns, and this process waits for it and writes down how it ended."""
    pid = os.fork()
    if pid == 0:
        return
    _, waited = os.waitpid(pid, 0)
    part = file.with_suffix(".part")
    part.write_text(str(os.waitstatus_to_exitcode(waited)))
    part.rename(file)
    os._exit(0)


def _become(request: dict[str, Any]) -> list[str]:
    os.chdir(request["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for target, name in ((1, request["log"]), (2, request.get("errors") or request["log"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), target)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    arguments: list[str] = request["arguments"]
    return arguments


def run(arguments: list[str]) -> None:
    """Run what `python ARGUMENTS` would: `-m MODULE ...` or a script."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    asked = serve()
    if asked is not None:
        run(asked)
