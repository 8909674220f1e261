"""A Dockerfile's steps, done in folders: the same commands and copies, without a container engine.

Only what the project's Dockerfile uses is understood, and everything else refused: exec-form RUN, COPY of files and
folders, one FROM for each stage, of the base image or of an earlier stage. The image's root is the same folder in every
stage, since virtual environments cannot be moved; what a stage left there is set aside when the next one begins.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests import programs


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


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM, and what follows it up to the next."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def rest_of(self, word: str) -> list[str]:
        """The rest of each of its instructions of that word."""
        return [each.rest for each in self.instructions if each.word == word]


def stages(instructions: list[Instruction]) -> list[Stage]:
    """The stages in their order; one without a name is called `final`."""
    begins = [number for number, each in enumerate(instructions) if each.word == "FROM"]
    found = []
    for begin, end in zip(begins, [*begins[1:], len(instructions)], strict=True):
        base, _, name = instructions[begin].rest.partition(" AS ")
        found.append(Stage(name or "final", base, tuple(instructions[begin:end])))
    return found


def needed_for(target: str, instructions: list[Instruction]) -> list[Instruction]:
    """The instructions of a stage and of those that it is made from, in their order, as an engine does them."""
    by_name = {stage.name: stage for stage in stages(instructions)}
    needed: set[str] = set()
    pending = [target]
    while pending:
        stage = by_name[pending.pop()]
        needed.add(stage.name)
        copied_from = [rest.split()[0].removeprefix("--from=") for rest in stage.rest_of("COPY") if "--from=" in rest]
        pending += [name for name in (stage.base, *copied_from) if name in by_name]
    return [each for stage in by_name.values() if stage.name in needed for each in stage.instructions]


def pairs(rest: str) -> dict[str, str]:
    """The NAME=VALUE of an ENV or a LABEL."""
    return dict(pair.split("=", 1) for pair in shlex.split(rest))


@dataclass(frozen=True, slots=True)
class _Done:
    """What a stage left."""

    root: Path
    environment: dict[str, str]
    folder: str


@dataclass(slots=True)
class Rehearsal:
    """The stages of a build, in folders.

    Attributes:
        context: the build's context.
        root: the folder that is `/` in the image.
        python: the folder with the base image's `python`, which has pip.
        environment: what the present stage has set by ENV.
        labels: what it has set by LABEL.
        entrypoint: the command line that the image starts with, without CMD.
        command: CMD.
        user: the numeric user that the image runs as.
    """

    context: Path
    root: Path
    python: Path
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    user: int = 0
    _done: dict[str, _Done] = field(default_factory=dict)
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
            case "ENV" | "LABEL":
                (self.environment if instruction.word == "ENV" else self.labels).update(pairs(rest))
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
            aside = self.root.rename(self.root.with_name(f"stage-{self._name}"))
            self._done[self._name] = _Done(aside, self.environment, self._folder)
        base, _, name = rest.partition(" AS ")
        self._name = name or "final"
        self.environment, self.labels, self._folder = {}, {}, "/"
        self.entrypoint, self.command, self.user = [], [], 0
        if base in self._done:
            done = self._done[base]
            shutil.copytree(done.root, self.root, symlinks=True)
            self.environment, self._folder = dict(done.environment), done.folder
        else:
            self.root.mkdir()

    def _copy(self, arguments: list[str]) -> None:
        options = [argument for argument in arguments if argument.startswith("--")]
        *sources, target = arguments[len(options) :]
        source_root = self.context
        for option in options:
            match option.partition("="):
                case "--from", _, stage:
                    source_root = self._done[stage].root
                case "--chown", _, _:
                    pass  # below, once it is there
                case _:
                    raise ValueError(f"COPY {option} is not rehearsed")
        for source in sources:
            self._copy_one(source_root / source.lstrip("/"), target)
        for owner in (option.removeprefix("--chown=") for option in options if option.startswith("--chown=")):
            self._give(self._inside(target), *map(int, owner.split(":")))

    def _give(self, folder: Path, user: int, group: int) -> None:
        """The folder to its owner, where the tests may; elsewhere it stays the tests' own, as their programs are."""
        if os.getuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, user, group, follow_symlinks=False)

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
        programs.run(
            [self._text(part) for part in command],
            cwd=self._inside(self._folder),
            env=surroundings | self.environment | {"PATH": f"{self.python}:{os.defpath}"},
            check=True,
            timeout=600,
        )

    def _inside(self, path: str) -> Path:
        return self.root / Path(self._folder, path).relative_to("/")

    def _text(self, argument: str) -> str:
        """An argument whose absolute path is in the image."""
        option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
        return f"{option}{equals}{self.root}{value}" if value.startswith("/") else argument
