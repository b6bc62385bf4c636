"""Takes the Dockerfile's steps below a directory, where no container engine is, and asks the result for an answer.

    python tools/image.py BUNDLE DIRECTORY

Every path of the image lies below DIRECTORY, RUN is run by `sh` with these paths, and what ENTRYPOINT and CMD say is
run with the image's variables and no others, as its USER where this is root and that user may run this interpreter.
What the base image holds is not made: the interpreter is the one that runs this, and sizes are of what is added to it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TEXT = "What a fine film."


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals, its options by name, and the rest of its line."""

    name: str
    options: dict[str, str]
    rest: str


@dataclass
class Stage:
    """What the instructions of one stage have set, for those that come after."""

    root: Path
    workdir: str = "/"
    variables: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[Instruction]:
    """Yield a Dockerfile's instructions; a line may go on after a backslash."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        options = {}
        while rest.startswith("--"):
            option, _, rest = rest.partition(" ")
            key, _, value = option[2:].partition("=")
            options[key] = value
        yield Instruction(name.upper(), options, rest.strip())


class Image:
    """The stages of a Dockerfile, made below a directory."""

    def __init__(self, dockerfile: str, context: Path, directory: Path, arguments: dict[str, str]) -> None:
        """Take every step; `arguments` are those of `--build-arg`.

        Raises:
            ValueError: an instruction that is not known here.
            subprocess.CalledProcessError: a RUN failed.
        """
        self._context, self._directory, self._arguments = context, directory, arguments
        self._stages: dict[str, Stage] = {}
        self.last = Stage(directory)
        for step in instructions(dockerfile):
            take = getattr(self, f"_{step.name.lower()}", None)
            if take is None:
                raise ValueError(f"{step.name}: this instruction is not known here")
            take(step)

    def _from(self, step: Instruction) -> None:
        words = step.rest.split()
        name = words[2] if len(words) == 3 else f"stage{len(self._stages)}"
        self.last = self._stages[name] = Stage(self._directory / name)
        self.last.root.mkdir(parents=True)

    def _arg(self, step: Instruction) -> None:
        name, _, value = step.rest.partition("=")
        self.last.variables[name] = self._arguments.get(name, value)

    def _workdir(self, step: Instruction) -> None:
        self.last.workdir = step.rest
        self._at(step.rest).mkdir(parents=True, exist_ok=True)

    def _env(self, step: Instruction) -> None:
        for pair in step.rest.split():
            name, _, value = pair.partition("=")
            self.last.variables[name] = value.replace("$PATH", self.last.variables.get("PATH", "/usr/bin:/bin"))

    def _copy(self, step: Instruction) -> None:
        *sources, target = [self._filled(word) for word in step.rest.split()]
        stage = step.options.get("from")
        above = self._stages[stage].root if stage else self._context
        to = self._at(os.path.normpath(os.path.join(self.last.workdir, target)))
        for source in sources:
            path = above / source.lstrip("/")
            place = to / path.name if target.endswith("/") else to
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(path, place)
            if mode := step.options.get("chmod"):
                for each in (place, *place.rglob("*")):
                    each.chmod(int(mode, 8))

    def _run(self, step: Instruction) -> None:
        python = os.path.dirname(os.path.realpath(sys.executable))
        environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}"}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            environment.pop(name, None)
        command = step.rest.replace("/opt/", f"{self.last.root}/opt/")
        subprocess.run(["sh", "-ec", command], cwd=self._at(self.last.workdir), env=environment, check=True)

    def _user(self, step: Instruction) -> None:
        self.last.user = step.rest

    def _entrypoint(self, step: Instruction) -> None:
        self.last.entrypoint = json.loads(step.rest)

    def _cmd(self, step: Instruction) -> None:
        self.last.command = json.loads(step.rest)

    def _at(self, path: str) -> Path:
        return self.last.root / path.lstrip("/")

    def _filled(self, word: str) -> str:
        for name, value in self.last.variables.items():
            word = word.replace(f"${{{name}}}", value)
        return word

    def answer(self, text: str) -> str:
        """Return what the image's process writes for `text` on its standard input.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        stage = self.last
        environment = {name: value.replace("/opt/", f"{stage.root}/opt/") for name, value in stage.variables.items()}
        entry = shutil.which(stage.entrypoint[0], path=environment["PATH"])
        # Scripts begin with the path of their environment's first place; the interpreter there is a link that holds.
        program = [str(stage.root / "opt/torchless/bin/python"), str(entry), *stage.entrypoint[1:]]
        paths = [word.replace("/bundle", f"{stage.root}/bundle") for word in stage.command]
        user, _, group = stage.user.partition(":")
        others = {"user": int(user), "group": int(group), "extra_groups": []} if self.as_user() else {}
        done = subprocess.run(
            [*program, *paths], input=text + "\n", env=environment, cwd="/", capture_output=True, text=True,
            check=False, **others,
        )  # fmt: skip
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            done.check_returncode()
        return done.stdout

    def as_user(self) -> bool:
        """Tell whether `answer` runs as the image's user: only root can, with an interpreter that all may reach."""
        python = Path(os.path.realpath(sys.executable))
        return os.geteuid() == 0 and all(path.stat().st_mode & stat.S_IXOTH for path in (python, *python.parents))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each directory that the last stage adds to its base."""
        return {f"/{path.name}": _bytes(path) for path in sorted(self.last.root.iterdir())}

    def wrong_modes(self) -> list[str]:
        """Return the paths of the last stage that the image's user, who owns none, could write or could not read."""
        found = []
        for path in self.last.root.rglob("*"):
            mode = path.lstat().st_mode
            wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
            if not path.is_symlink() and (mode & (stat.S_IWGRP | stat.S_IWOTH) or mode & wanted != wanted):
                found.append(str(path))
        return found


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main(bundle: str, directory: str) -> None:
    """Make the image's directories, show their sizes and what it answers."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    image = Image(text, REPOSITORY, Path(directory).absolute(), {"BUNDLE": bundle})
    for path, size in image.sizes().items():
        print(f"{path:<8} {size / 1e6:8.1f} MB")
    print(f"{'added':<8} {sum(image.sizes().values()) / 1e6:8.1f} MB to the base image")
    who = f"user {image.last.user}" if image.as_user() else "the user who makes it"
    print(f"as {who}: {image.answer(TEXT)}", end="")
    if wrong := image.wrong_modes():
        raise SystemExit(f"{len(wrong)} files that the user could write or could not read, {wrong[0]} the first")


if __name__ == "__main__":
    main(*sys.argv[1:])
