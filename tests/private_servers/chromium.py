"""Debian's Chromium, unpacked into the user's cache folder and not installed, driven by Playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from playwright.sync_api import Browser, sync_playwright

from worker.sandbox.packages import unpacked

#: Its libraries come with it, but for those of the C library, which belong to the system's own loader.
_COMPANIONS = r"(?!libc6$|libc-bin$).*"


@contextmanager
def private_chromium() -> Iterator[Browser]:
    """A headless browser of one's own.

    Raises:
        MissingPartError: it cannot be had.
    """
    root = unpacked("chromium", companions=_COMPANIONS)
    libraries = _libraries(root)
    environment: dict[str, str | bool | float] = {
        "LD_LIBRARY_PATH": libraries,
        "HOME": os.environ.get("HOME", "/"),
    }
    # Playwright's driver is a Node.js, which needs a library that a small system lacks.
    for_driver = {"LD_LIBRARY_PATH": f"{_libraries(unpacked('libatomic1', companions=''))}:{libraries}"}
    with patch.dict(os.environ, for_driver):
        playwright = sync_playwright().start()
    try:
        browser = playwright.chromium.launch(
            executable_path=root / "usr/lib/chromium/chromium",
            env=environment,
            # Run by root, as in a container, Chromium starts no sandbox of its own; it sees the tests' pages alone.
            args=["--no-sandbox", "--disable-dev-shm-usage"] if os.getuid() == 0 else [],
        )
        yield browser
        browser.close()
    finally:
        playwright.stop()


def _libraries(root: Path) -> str:
    """The folders of an unpacked package's libraries, as the loader takes them."""
    folders = [path for path in (root / "usr/lib").glob("*-linux-gnu*") if path.is_dir()]
    return ":".join(str(folder) for path in folders for folder in (path, path / "pulseaudio") if folder.is_dir())
