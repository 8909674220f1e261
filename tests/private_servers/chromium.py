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

#: The system's fonts, if it has any, and those of a folder. Without a font, text takes no room and cannot be clicked.
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir>{folder}</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""


@contextmanager
def private_chromium(directory: Path) -> Iterator[Browser]:
    """A headless browser of one's own.

    Args:
        directory: where a file of its configuration is written.

    Raises:
        MissingPartError: it cannot be had.
    """
    root = unpacked("chromium", companions=_COMPANIONS)
    libraries = _libraries(root)
    fonts = directory / "fonts.conf"
    fonts.write_text(_FONTS.format(folder=unpacked("fonts-dejavu-core", companions="") / "usr/share/fonts"))
    environment: dict[str, str | bool | float] = {
        "LD_LIBRARY_PATH": libraries,
        "HOME": os.environ.get("HOME", "/"),
        "FONTCONFIG_FILE": str(fonts),
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
