"""A Dockerfile's steps, done in folders: the same commands and copies, without a container engine.

Only what the project's Dockerfile uses is understood, and everything else refused: exec-form RUN, COPY of files and
folders, one FROM for each stage. The image's root is the same folder in every stage, since virtual environments cannot
be moved; what a stage left there is set aside when the next one begins.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its word, and the rest of its line."""

    word: str
    rest: str


def read(file: Path) -> list[Instruction]:
    """The instructions, without comments and continuations."""
    lines = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
    whole = re.sub(r"\\\n\s*", " ", lines).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in whole if line.strip()]


@dataclass(slots=True)
class Rehearsal:
    """The stages of a build, in folders.

    Attributes:
        context: the build's context.
        root: the folder that is `/` in the image.
        python: the folder with the base image's `python`, which has pip.
        environment: what the present stage has set by ENV.
        entrypoint: the command line that the image starts with, without CMD.
        command: CMD.
        user: the numeric user that the image runs as.
    """

    context: Path
    root: Path
    python: Path
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    user: int = 0
    _stages: dict[str, Path] = field(default_factory=dict)
    _name: str = "final"
    _folder: str = "/"

    def do(self, instruction: Instruction) -> None:
        """Do one step.

        Raises:
            ValueError: it is of a form that is not rehearsed.
            subprocess.CalledProcessError: a RUN failed.
        """
        rest = instruction.rest
        match instruction.word:
            case "FROM":
                self._begin(rest)
            case "ENV":
                self.environment |= dict(pair.split("=", 1) for pair in rest.split())
            case "WORKDIR":
                self._folder = rest
                self._inside(rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(rest.split())
            case "RUN":
                self._run(json.loads(rest))
            case "USER":
                self.user = int(rest.partition(":")[0])
            case "ENTRYPOINT":
                self.entrypoint = json.loads(rest)
            case "CMD":
                self.command = json.loads(rest)
            case "ARG" | "EXPOSE":
                pass
            case word:
                raise ValueError(f"{word} is not rehearsed")

    def final_environment(self) -> dict[str, str]:
        """What the image's program finds set, with the folders of its PATH where they are in here."""
        path = [f"{self.root}{folder}" for folder in self.environment["PATH"].split(":")]
        return self.environment | {"PATH": ":".join(path)}

    def _begin(self, rest: str) -> None:
        if self.root.exists():
            self._stages[self._name] = self.root.rename(self.root.with_name(f"stage-{self._name}"))
        self.root.mkdir()
        self._name = rest.partition(" AS ")[2] or "final"
        self.environment, self._folder = {}, "/"

    def _copy(self, arguments: list[str]) -> None:
        source_root = self.context
        if arguments[0].startswith("--from="):
            source_root = self._stages[arguments.pop(0).removeprefix("--from=")]
        *sources, target = arguments
        for source in sources:
            self._copy_one(source_root / source.lstrip("/"), target)

    def _copy_one(self, source: Path, target: str) -> None:
        place = self._inside(target)
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True, ignore=ignore)
        else:
            place = place / source.name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)

    def _run(self, command: list[str]) -> None:
        surroundings = {
            name: value for name, value in os.environ.items() if not name.startswith(("UNLINK_", "VIRTUAL"))
        }
        subprocess.run(
            [self._text(part) for part in command],
            cwd=self._inside(self._folder),
            env=surroundings | self.environment | {"PATH": f"{self.python}:{os.defpath}"},
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def _inside(self, path: str) -> Path:
        return self.root / Path(self._folder, path).relative_to("/")

    def _text(self, argument: str) -> str:
        """An argument whose absolute path is in the image."""
        option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
        return f"{option}{equals}{self.root}{value}" if value.startswith("/") else argument
