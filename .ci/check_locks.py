# ruff: noqa: INP001 - a script that make runs, no package to import
"""Check that the locks fit pyproject.toml: every dependency pinned as it asks, with hashes, and no index or URL named.

`make lock` writes them. This check needs no network, so it finds a forgotten `make lock` on any machine.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parent.parent

#: What would tie a lock to one index or machine.
_TIES = re.compile(r"://|^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b| @ ", re.MULTILINE)


def main() -> None:
    """Print what is wrong, a line each, and exit 1; or exit 0."""
    wanted = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    worker = wanted["project"]["dependencies"]
    optional = wanted["project"]["optional-dependencies"]
    extras = [one for extra in optional.values() for one in extra]
    problems = [
        *_problems("requirements.lock", worker),
        *_problems("k8s/image/console.lock", [*worker, *optional["console"]]),
        *_problems("k8s/image/sandbox.lock", [*worker, *optional["sandbox"]]),
        *_problems("tests/fuzz/requirements.lock", wanted["dependency-groups"]["fuzz"]),
        *_problems("tests/console/generator.lock", wanted["dependency-groups"]["client"]),
        *_problems("requirements-dev.lock", [*worker, *extras, *wanted["dependency-groups"]["dev"]]),
    ]
    if problems:
        sys.exit("\n".join([*problems, "`make lock` writes them anew."]))


def _problems(name: str, requirements: list[str]) -> list[str]:
    text = (_ROOT / name).read_text()
    problems = [f"{name} names an index or a URL: {tie.group().strip()}" for tie in _TIES.finditer(text)]
    # A pin and its hashes are one logical line.
    lines = text.replace("\\\n", " ").splitlines()
    problems += [f"{name}: no hash for {line.split()[0]}" for line in lines if line and "--hash=sha256:" not in line]
    # More than one version where they differ by Python.
    pinned = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", "\n".join(lines), flags=re.MULTILINE)
    for requirement in map(Requirement, requirements):
        versions = [version for package, version in pinned if package == canonicalize_name(requirement.name)]
        if not any(version in requirement.specifier for version in versions):
            problems.append(f"{name}: pyproject.toml asks for {requirement}, and pinned is {versions or 'none'}")
    return problems


if __name__ == "__main__":
    main()
