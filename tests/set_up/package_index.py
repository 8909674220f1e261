"""A package index on loopback: wheels of a folder, and for every project a newer release that nobody has locked."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from packaging.utils import canonicalize_name, parse_wheel_filename

#: Newer than every release, also than those whose version is a date.
NEWER = "9999.0"

#: Whoever builds with the newer setuptools, or any other, fails instead of building something.
_BUILDS_NOTHING = "raise SystemExit('A release that no lock names was used to build.')\n"


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    requires: Iterable[str] = (),
    extras: Iterable[str] = (),
    modules: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel for any Python and machine, and give back its path.

    Args:
        folder: where to.
        name: the project's name.
        version: the release.
        requires: its requirements, as pip understands them.
        extras: the names of its extras.
        modules: its modules, text by path.
    """
    stem = f"{canonicalize_name(name).replace('-', '_')}-{version}"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Provides-Extra: {extra}" for extra in extras),
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    files = dict(modules or {})
    files[f"{stem}.dist-info/METADATA"] = "\n".join(metadata) + "\n"
    files[f"{stem}.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{stem}.dist-info/RECORD"] = "\n".join([*record, f"{stem}.dist-info/RECORD,,"]) + "\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    wheel = folder / f"{stem}-py3-none-any.whl"
    wheel.write_bytes(content.getvalue())
    return wheel


def make_newer_wheels(folder: Path, projects: Iterable[str]) -> None:
    """Write a newer release of each project into a folder, made for the purpose."""
    folder.mkdir()
    for project in projects:
        modules = {"setuptools/__init__.py": "", "setuptools/build_meta.py": _BUILDS_NOTHING}
        make_wheel(folder, project, NEWER, modules=modules if project == "setuptools" else None)


class PackageIndex:
    """A simple index (PEP 503) of the wheels in some folders, as they are when they are asked for.

    Attributes:
        url: what pip wants as `--index-url`.
        taken: the names of the wheels that were downloaded so far.
    """

    def __init__(self, *folders: Path) -> None:
        self.taken: list[str] = []
        self._folders = folders
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                index._answer(self)

            def log_message(self, *_: object) -> None:
                """Keep the tests' output for the tests."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        kind, _, name = request.path.strip("/").partition("/")
        content = self._page(name) if kind == "simple" else self._wheel(name)
        request.send_response(HTTPStatus.OK if content else HTTPStatus.NOT_FOUND)
        request.send_header("Content-Type", "text/html" if kind == "simple" else "application/octet-stream")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _page(self, project: str) -> bytes:
        wheels = [wheel for wheel in self._wheels() if parse_wheel_filename(wheel.name)[0] == project]
        links = [f'<a href="/wheels/{wheel.name}">{wheel.name}</a>' for wheel in wheels]
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode() if links else b""

    def _wheel(self, name: str) -> bytes:
        self.taken.append(name)
        return next((wheel.read_bytes() for wheel in self._wheels() if wheel.name == name), b"")

    def _wheels(self) -> list[Path]:
        return [wheel for folder in self._folders for wheel in sorted(folder.glob("*.whl"))]


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
