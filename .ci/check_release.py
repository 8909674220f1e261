# ruff: noqa: INP001 - a script that the release workflow runs, no package to import
"""Check that a tag is the release of this tree: `check_release.py v1.2.3 https://example.com/owner/repository`.

Prints `version=1.2.3` for the workflow, or exits 1 with a line for each thing that is wrong.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Check the tag, the first argument, of a repository, the second."""
    tag, repository = sys.argv[1:]
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    version = project["version"]
    problems = []
    if tag != f"v{version}":
        problems.append(f"the tag is {tag!r}, and pyproject.toml says version {version}: the tag must be v{version}")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    if not re.search(heading, (_ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE):
        problems.append(f"CHANGELOG.md has no heading `## [{version}] - YYYY-MM-DD`")
    urls = {
        "Repository": repository,
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    if project.get("urls") != urls:
        entries = "\n".join(f'  {name} = "{url}"' for name, url in urls.items())
        problems.append(f"pyproject.toml must name this repository:\n\n  [project.urls]\n{entries}")
    if problems:
        sys.exit("\n".join(problems))
    sys.stdout.write(f"version={version}\n")


if __name__ == "__main__":
    main()
