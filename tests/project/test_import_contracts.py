"""That `make lint` finds an import that goes the wrong way: each rule is broken once, in a copy."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests import programs

ROOT = Path(__file__).parents[2]

#: A wrong import for each contract of pyproject.toml, by the contract's name; several where it has several sides.
WRONG = {
    "An import goes down": [("worker/ledger/leases.py", "worker.telemetry"), ("worker/utilities.py", "worker.cli")],
    "The contract knows nothing of the worker": [("contracts/keys.py", "worker.unlinks.rules")],
    "Only the command line starts a sandbox": [("worker/doctor/findings.py", "worker.sandbox.environment")],
    "Only the console imports what serves it": [("worker/dead_letters/record.py", "fastapi")],
    "RabbitMQ is spoken to by the broker's modules, and by what reads its answers": [
        ("worker/enterprise_manager/durations.py", "pika")
    ],
    "HTTP is spoken by the client of Enterprise Manager, and by what looks at other servers": [
        ("worker/broker/awaited.py", "requests")
    ],
    "Databases are spoken to by the ledger, and by doctor": [("worker/broker/awaited.py", "sqlalchemy")],
    "The command line alone prints and reads options": [("worker/doctor/findings.py", "rich")],
    "A command imports no other one": [("worker/cli/topology.py", "worker.cli.dead.command")],
    "A sandbox knows nothing of the worker that runs in it": [("worker/sandbox/packages.py", "contracts.commands")],
    "The core does no I/O, reads no clock and makes no random number": [("worker/unlinks/consent.py", "worker.clock")],
    "The contract needs nothing but pydantic": [("contracts/keys.py", "psycopg")],
    "No circles": [("worker/unlinks/outcome.py", "worker.unlinks.workflow")],
}


@pytest.mark.slow
def test_each_rule_of_imports_is_enforced(tmp_path: Path) -> None:
    """A rule that nothing enforces is broken by the next change, and nobody sees it."""
    for folder in ("contracts", "worker"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, module in (wrong for imports in WRONG.values() for wrong in imports):
        path = tmp_path / file
        text = path.read_text() if path.exists() else ""
        path.write_text(f"{text}\nimport {module}\n")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = programs.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "COLUMNS": "200"})
    contracts = [each["name"] for each in _settings()["importlinter"]["contracts"]]
    assert sorted(contracts) == sorted(WRONG)
    kept = [name for name in contracts if f"{name} BROKEN" not in done.stdout]
    assert kept == [], done.stdout


def test_the_contract_is_kept_from_every_dependency_but_pydantic() -> None:
    """A publisher that copies the contract would need what the worker needs."""
    project = _settings_of("project")
    required = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    modules = {_module_of(one) for one in required} - {"pydantic"}
    (contract,) = [
        each for each in _settings()["importlinter"]["contracts"] if each["name"].startswith("The contract needs")
    ]
    assert modules - set(contract["forbidden_modules"]) == set()


def _module_of(requirement: str) -> str:
    name = requirement.split(">", maxsplit=1)[0].split("[", maxsplit=1)[0]
    return {"argon2-cffi": "argon2"}.get(name, "opentelemetry" if "telemetry" in name else name.replace("-", "_"))


def _settings() -> dict[str, Any]:
    return _settings_of("tool")


def _settings_of(table: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())[table]
    return found
