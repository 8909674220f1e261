"""Debian's Chromium, unpacked into the user's cache folder and not installed, driven by Playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
    libraries = [path for path in (root / "usr/lib").glob("*-linux-gnu*") if path.is_dir()]
    folders = [folder for path in libraries for folder in (path, path / "pulseaudio")]
    environment: dict[str, str | bool | float] = {
        "LD_LIBRARY_PATH": ":".join(map(str, folders)),
        "HOME": os.environ.get("HOME", "/"),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=root / "usr/lib/chromium/chromium",
            env=environment,
            # Run by root, as in a container, Chromium starts no sandbox of its own; it sees the tests' pages alone.
            args=["--no-sandbox", "--disable-dev-shm-usage"] if os.getuid() == 0 else [],
        )
        yield browser
        browser.close()
