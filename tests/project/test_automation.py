"""What runs elsewhere, at a commit, on a push, at a release: checked here, offline."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import programs
from worker.sandbox.rabbitmq.installation import SUITES

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: The folder of the pinned tools.
BIN = Path(sys.executable).parent


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One of the pinned tools, in the project's folder."""
    return programs.run([BIN / program, *arguments], cwd=ROOT)


def workflow(name: str) -> dict[str, Any]:
    """A workflow's content; YAML 1.1 reads its key `on` as true."""
    content: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())
    return content


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.dependabot", [ROOT / ".github" / "dependabot.yml"]),
    ],
)
def test_workflows_and_dependabot_s_settings_fit_their_schemas(schema: str, files: list[Path]) -> None:
    """A workflow with a misspelt key does not run, and nobody is told."""
    assert files
    done = run("check-jsonschema", "--builtin-schema", schema, *files)
    assert done.returncode == 0, done.stdout


def test_a_linter_of_workflows_finds_nothing_unsafe() -> None:
    """A pull request of anybody could read the release's secrets, or change what is released."""
    done = run("zizmor", "--offline", "--strict-collection", "--no-progress", ".github", ".pre-commit-config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_action_is_pinned_by_commit_and_says_its_version() -> None:
    """A tag can be moved: what is released would then be built by somebody else's new program."""
    used = [line for file in WORKFLOWS for line in re.findall(r"uses: (.+)$", file.read_text(), flags=re.MULTILINE)]
    others = [line for line in used if not line.startswith("./")]
    assert others
    for line in others:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    versions = {tuple(line.split("@")) for line in others}
    assert len(versions) == len({action for action, _ in versions}), "one version of each action"


def test_every_job_gets_the_permissions_that_it_needs_and_no_more() -> None:
    """A step that is broken into can do what its job may do."""
    for file in WORKFLOWS:
        content = workflow(file.name)
        assert content["permissions"] == {}
        for name, job in content["jobs"].items():
            signs = {"id-token": "write"} if (file.name, name) == ("release.yml", "image") else {}
            assert job["permissions"] == {"contents": "read"} | signs


def test_the_workflows_name_no_registry() -> None:
    """A fork would push to the registry of somebody else."""
    for file in WORKFLOWS:
        text = file.read_text().replace("org.opencontainers.image.", "")
        assert not re.findall(r"\b[\w-]+\.(?:io|com|org|net|dev)\b", text)
    assert (
        "${{ vars.REGISTRY }}/${{ vars.IMAGE }}${{ matrix.suffix }}:"
        in (ROOT / ".github" / "workflows" / "release.yml").read_text()
    )


def test_every_supported_python_is_tested() -> None:
    """A version would be called supported that nobody tried."""
    classified = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), flags=re.MULTILINE)
    matrix = workflow("test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix == classified
    assert PROJECT["requires-python"] == f">={classified[0]}"


def test_every_supported_rabbitmq_is_tested() -> None:
    """As above; the job would run no suite, or leave one out."""
    newest, *others = SUITES
    assert sorted(workflow("test.yml")["jobs"]["rabbitmq"]["strategy"]["matrix"]["rabbitmq"]) == sorted(others)
    in_words = (ROOT / ".ci" / "suites.py").read_text()
    assert all(f'_on_rabbitmq("{version}")' in in_words for version in others)
    assert f'_on_rabbitmq("{newest}")' not in in_words, "make test runs these on it"


def test_workflows_make_what_can_be_made() -> None:
    """A workflow that makes what is no longer there fails on every push."""
    steps = [step["run"] for job in workflow("test.yml")["jobs"].values() for step in job["steps"] if "run" in step]
    made = [step.split()[-1] for step in steps if step.startswith("make ")]
    assert set(made) == {"lint", "test", "test-all", "suites"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(made) <= targets


def test_a_release_is_tested_before_it_is_pushed_and_signed_by_its_digest() -> None:
    """An image that fails its tests would be in production before anybody sees it."""
    jobs = workflow("release.yml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert set(jobs["image"]["needs"]) == {"version", "test"}
    (build,) = [step for step in jobs["image"]["steps"] if step.get("id") == "build"]
    assert build["with"]["file"] == "k8s/image/Dockerfile"
    assert build["with"]["platforms"].split(",") == ["linux/amd64", "linux/arm64"]
    assert build["with"]["sbom"] is True
    assert build["with"]["provenance"] == "mode=max"
    assert build["with"]["target"] == "${{ matrix.target }}"
    stages = re.findall(r"^FROM .+?(?: AS (.+))?$", (ROOT / build["with"]["file"]).read_text(), flags=re.MULTILINE)
    released = [image["target"] for image in jobs["image"]["strategy"]["matrix"]["include"]]
    assert released == ["", "console"]
    assert set(released) <= set(stages)
    assert stages[-1] == "", "the worker's stage, which is built where none is named"
    sign = jobs["image"]["steps"][-1]
    assert sign["run"].startswith("cosign sign --yes ")
    assert sign["run"].endswith('@$DIGEST"')


REPOSITORY = "https://example.com/owner/unlink-worker"
URLS = f"""\
Repository = "{REPOSITORY}"
Changelog = "{REPOSITORY}/blob/main/CHANGELOG.md"
Issues = "{REPOSITORY}/issues"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the check of a release reads, as it will be when 9.8.7 is released."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "check_release.py", tmp_path / ".ci")
    (tmp_path / "pyproject.toml").write_text(f'[project]\nversion = "9.8.7"\n[project.urls]\n{URLS}')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [9.8.7] - 2030-01-31\n")
    return tmp_path


def check_release(tree: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """As the release's first job does."""
    return programs.run([sys.executable, tree / ".ci" / "check_release.py", tag, REPOSITORY])


def test_a_tag_that_is_the_version_is_released(tree: Path) -> None:
    """The version is what names the image."""
    done = check_release(tree, "v9.8.7")
    assert (done.returncode, done.stdout) == (0, "version=9.8.7\n")


@pytest.mark.parametrize("tag", ["v9.8.6", "9.8.7", "v9.8.7-rc1", ""])
def test_another_tag_is_refused(tree: Path, tag: str) -> None:
    """An image would carry a version that it is not."""
    done = check_release(tree, tag)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the tag must be v9.8.7" in done.stderr


def test_a_version_that_the_changelog_does_not_know_is_refused(tree: Path) -> None:
    """Who upgrades could not read what changes."""
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    done = check_release(tree, "v9.8.7")
    assert done.returncode == 1
    assert "CHANGELOG.md has no heading" in done.stderr


@pytest.mark.parametrize("urls", ["", URLS.replace("owner", "another")])
def test_a_release_that_leads_to_another_repository_is_refused(tree: Path, urls: str) -> None:
    """Who has the package would not find its source, changes and issues, or would find those of a fork."""
    (tree / "pyproject.toml").write_text(f'[project]\nversion = "9.8.7"\n[project.urls]\n{urls}')
    done = check_release(tree, "v9.8.7")
    assert (done.returncode, done.stdout) == (1, "")
    assert f'Repository = "{REPOSITORY}"' in done.stderr


def test_the_hooks_run_the_project_s_own_tools() -> None:
    """A hook that cannot start blocks every commit; one of somebody else's changes with their repository."""
    assert run("pre-commit", "validate-config").returncode == 0
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    programs = {hook["entry"].split()[0] for hook in config["repos"][0]["hooks"]}
    for program in programs - {"make"}:
        folder, _, name = program.rpartition("/")
        assert folder == ".venv/bin"
        assert (BIN / name).is_file(), name
