"""The simulated Enterprise Manager as a program of its own.

When it is ready it prints one line of JSON: `url`, `ca_file`, `username`, `password_file` and `control_url`. It ends on
SIGTERM and SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.sandbox.processes.free_ports import LOOPBACK
from worker.sandbox.simulated_enterprise_manager import Behaviour, SimulatedEnterpriseManager, UnknownBehaviourError
from worker.sandbox.simulated_enterprise_manager.control import ControlListener
from worker.sandbox.simulated_enterprise_manager.replay import RecordingInvalidError

#: The signals that end the program.
_ENDING = {signal.SIGTERM, signal.SIGINT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal arrives. Returns the exit status."""
    options = _options(arguments)
    # Blocked for all threads, and waited for. A handler that sets an event would wait for ever if the signal arrived in
    # the moment in which this thread begins to wait for the event: it holds the event's lock then.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        _serve(options)
    except (OSError, UnknownBehaviourError, RecordingInvalidError) as problem:
        sys.stderr.write(f"simulated Enterprise Manager: {problem}\n")
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.sandbox.simulated_enterprise_manager", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK, help="the address to listen on")
    parser.add_argument(
        "--name", default="localhost", help="the host name in its URL; its certificate is valid for that and loopback"
    )
    parser.add_argument("--port", type=int, default=0, help="0 means any free port")
    parser.add_argument(
        "--state-dir", type=Path, required=True, help="the folder of certificates and password; created if missing"
    )
    parser.add_argument(
        "--password-file", type=Path, help="created at the first start; by default `password` in the state folder"
    )
    parser.add_argument(
        "--behaviour",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=_switch,
        help="a switch; the value as JSON, or as text (may be given more than once)",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="answer from a recording of `unlink-worker doctor --assumptions --record`; any password is accepted",
    )
    return parser.parse_args(arguments)


def _switch(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _serve(options: argparse.Namespace) -> None:
    options.state_dir.mkdir(parents=True, exist_ok=True)
    password_file = options.password_file or options.state_dir / "password"
    behaviour = Behaviour()
    behaviour.change(**dict(options.behaviour))
    with SimulatedEnterpriseManager.start(
        behaviour=behaviour,
        folder=options.state_dir,
        host=options.host,
        name=options.name,
        port=options.port,
        password=_password_in(password_file),
        replay=options.replay,
    ) as simulated:
        about = simulated.about()
        about["password_file"] = str(password_file)
        control = ControlListener(simulated)
        asyncio.run_coroutine_threadsafe(control.open(), simulated.loop).result()
        sys.stdout.write(json.dumps(about | {"control_url": control.url}) + "\n")
        sys.stdout.flush()
        signal.sigwait(_ENDING)
        asyncio.run_coroutine_threadsafe(control.close(), simulated.loop).result()


def _password_in(file: Path) -> str:
    """The password in the file. The first start creates the file, readable by its owner only."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(16), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    sys.exit(main())
