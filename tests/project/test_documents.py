"""The documents of the project: what they link to and name exists, and what they say of versions is true."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.k8s.test_schemas import VERSIONS as KUBERNETES
from worker.doctor.broker import OLDEST_VERSION as OLDEST_RABBITMQ

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
README = DOCUMENTS[0].read_text()
#: How the code is arranged, for those who work on it.
GUIDES = sorted((ROOT / "docs").rglob("*.md"))
#: Names of Enterprise Manager and of HTTP that the guides mention.
FOREIGN = {
    *("Backup", "BackupJobSession", "BackupServer", "HierarchyRoot", "ObjectInJobId"),
    *("Alternate", "Down", "Rel", "Up"),
    *("Finished", "Stopped", "Working"),
    *("Origin", "Referer"),
}
CODE = [path for folder in ("contracts", "worker") for path in (ROOT / folder).rglob("*.py")]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on the web."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, *GUIDES], ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Whoever follows a link in a hurry arrives."""
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        page, _, anchor = target.partition("#")
        file = document.parent / page if page else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", [*DOCUMENTS, *GUIDES], ids=lambda document: document.name)
def test_folders_and_files_that_are_named_exist(document: Path) -> None:
    """A map that shows what is gone is worse than none."""
    folders = r"worker|tests|contracts|k8s|docs|\.ci|\.github"
    named = re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*)", document.read_text())
    assert [path for path in named if not (ROOT / path.rstrip(".")).exists()] == []


@pytest.mark.parametrize("document", GUIDES, ids=lambda document: document.name)
def test_modules_classes_and_methods_that_are_named_exist(document: Path) -> None:
    """A reader searches for a name that was changed since."""
    text = document.read_text()
    named = set(re.findall(r"(?<![\w/])\w+\.py\b", text)) | set(re.findall(r"`([A-Z]\w*[a-z]\w*(?:\.\w+)?)`", text))
    assert named - {path.name for path in CODE} - _classes_and_methods() - FOREIGN == set()


@cache
def _classes_and_methods() -> set[str]:
    nodes = (node for path in CODE for node in ast.walk(ast.parse(path.read_text())))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    methods = {
        f"{each.name}.{part.name}"
        for each in classes
        for part in each.body
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return methods | {each.name for each in classes}


def test_every_guide_is_found_from_the_contributing_page() -> None:
    """A page that no other page leads to is never read."""
    architecture = ROOT / "docs" / "architecture.md"
    linked = {
        (page.parent / target).resolve()
        for page in (ROOT / "CONTRIBUTING.md", architecture)
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text())
    }
    assert [guide.name for guide in GUIDES if guide not in linked] == []
    assert "(docs/architecture.md)" in README.partition("## Work on it")[2]


def test_what_make_is_said_to_do_it_does() -> None:
    """The first command that a newcomer types fails."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for document in [*DOCUMENTS, *GUIDES]:
        named = set(re.findall(r"(?:`| {4})make ([a-z-]+)", document.read_text()))
        assert named <= targets


def test_the_supported_versions_are_those_of_the_program() -> None:
    """Who plans an upgrade by the table finds out at night that it is wrong."""
    rows = dict(re.findall(r"^\| ([\w ]+) \| ([^|]+) \|", README.partition("## Supported versions")[2], re.MULTILINE))
    pythons = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), flags=re.MULTILINE)
    assert rows["Python"] == f"{pythons[0]} to {pythons[-1]}"
    assert rows["RabbitMQ"].startswith(f"{'.'.join(map(str, OLDEST_RABBITMQ))} and later")
    assert rows["Kubernetes"] == f"{KUBERNETES[0]} and later"
    newest = ".".join(KUBERNETES[-1].split(".")[:2])
    assert f"schemas, {KUBERNETES[0]} and {newest};" in README


def test_the_changelog_has_the_form_that_its_readers_know() -> None:
    """Programs and people find what is new by its headings."""
    lines = DOCUMENTS[-1].read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
