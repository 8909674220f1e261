# ruff: noqa: INP001 - a script that make and a test run, no package to import
"""Judge contracts/asyncapi.json by the AsyncAPI project's own parser, or make an HTML page of it.

    contract_page.py validate FILE
    contract_page.py page FILE TARGET

The AsyncAPI tools are npm's; they are kept in the user's cache folder, as contracts/tools/package-lock.json pins them.
Status 3: there is no Node.js on this machine.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from worker.sandbox.packages import cache_folder

_SOURCES = Path(__file__).resolve().parent.parent / "contracts" / "tools"
_NO_NODE = 3

#: For one call of npm, in seconds; a slow mirror is slow.
_NPM_SECONDS = 600.0


def main() -> int:
    """Do what the command line asks."""
    task, *paths = sys.argv[1:]
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        sys.stderr.write("the AsyncAPI tools need Node.js 20 or later with npm, and there is none on the PATH\n")
        return _NO_NODE
    # Node finds a script's libraries beside it: the scripts run from where the libraries are.
    script = _tools(npm) / f"{task}.js"
    return subprocess.run([node, script, *(str(Path(path).resolve()) for path in paths)], check=False).returncode  # noqa: S603 - ours


def _tools(npm: str) -> Path:
    """The folder with our scripts and their libraries; made on first use, and anew when any of its files changes."""
    content = b"".join(path.read_bytes() for path in sorted(_SOURCES.iterdir()) if path.is_file())
    target = cache_folder() / f"asyncapi-tools-{hashlib.sha256(content).hexdigest()[:16]}"
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="unpacking-") as scratch:
        folder = Path(shutil.copytree(_SOURCES, Path(scratch) / "tools", ignore=shutil.ignore_patterns("node_modules")))
        done = subprocess.run(  # noqa: S603 - npm, with arguments of ours
            [npm, "ci", "--loglevel=error"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_NPM_SECONDS,
        )
        if done.returncode != 0:
            sys.exit(f"npm could not install the AsyncAPI tools:\n{done.stderr.strip()}")
        try:
            folder.rename(target)
        except OSError:
            # Another start was quicker; a folder gets this name only when it is complete.
            if not target.is_dir():
                raise
    return target


if __name__ == "__main__":
    sys.exit(main())
