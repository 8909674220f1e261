"""A package index on loopback: wheels of a folder, and for every project a newer release that nobody has locked."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from tests.private_servers.http import Request, serving

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


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """A simple index (PEP 503).

    Attributes:
        url: what pip wants as `--index-url`.
        taken: the names of the wheels that were downloaded so far.
    """

    url: str
    taken: list[str]


@contextmanager
def package_index(*folders: Path) -> Iterator[PackageIndex]:
    """Serve an index of the wheels in some folders, as they are when they are asked for."""
    taken: list[str] = []

    def respond(request: Request) -> None:
        wheels = [wheel for folder in folders for wheel in sorted(folder.glob("*.whl"))]
        kind, _, name = request.path.strip("/").partition("/")
        if kind == "simple":
            names = [wheel.name for wheel in wheels if parse_wheel_filename(wheel.name)[0] == name]
            content = "".join(f'<a href="/wheels/{each}">{each}</a>' for each in names).encode()
        else:
            taken.append(name)
            content = next((wheel.read_bytes() for wheel in wheels if wheel.name == name), b"")
        request.answer(200 if content else 404, content)

    with serving(respond) as url:
        yield PackageIndex(f"{url}/simple/", taken)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
