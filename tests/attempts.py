"""Runs one thing in a process with limits, and says how it ended: what every hostile file is tried with.

`attempt(...)` is the way in. As a program it is the process itself: a request as JSON in its argument, the outcome as
JSON on the last line of its output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from untraced import UNTRACED

# What each attempt may take: far more than an honest one takes (0.2 s, 150 MiB), far less than harm. The limit on the
# clock is for what waits; what works is stopped by the kernel after so many seconds of a processor.
CPU_SECONDS = 60
SECONDS = 600.0
MEMORY = 3 << 30
RESIDENT = 700 << 20


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        status: of the process.
        error: the class of what was raised, or None.
        message: of what was raised.
        bases: the names of the classes that `error` derives from.
        answer: what was returned where nothing was raised, as `repr` has it.
        resident: the most memory that was resident, in bytes, in the process or in one that it started.
        seconds: from start to end.
        written: files that are other than before, or were not there, in the folders that were watched.
        output: what it wrote to standard error.
    """

    status: int
    error: str | None
    message: str
    bases: list[str]
    answer: str
    resident: int
    seconds: float
    written: list[str] = field(default_factory=list)
    output: str = ""


def attempt(
    do: str,
    *arguments: Any,
    watch: Sequence[Path] = (),
    seconds: float = SECONDS,
    memory: int | None = MEMORY,
    environment: Mapping[str, str] = {},
    cwd: Path | None = None,
) -> Outcome:
    """Run `do`, a function of this module, with `arguments` in a process with limits, in the working directory `cwd`;
    every outcome but a time-out is returned.
    """
    before = {path: state for folder in watch for path, state in _tree(folder)}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), json.dumps({"do": do, "arguments": arguments, "memory": memory})],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=cwd,
        env=UNTRACED | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))} | dict(environment),
    )
    after = {path: state for folder in watch for path, state in _tree(folder)}
    written = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = {"error": None, "message": "", "bases": [], "answer": "", "resident": 0}
    return Outcome(
        status=done.returncode, seconds=time.monotonic() - start, written=written, output=done.stderr, **said
    )


def check_refused(outcome: Outcome, error: str = "BundleError", says: str = "") -> None:
    """Assert what is promised of everything that is refused: an error of torchless, one line, within bounds."""
    import re

    assert outcome.status == 0, outcome
    assert outcome.error, f"taken, and answered {outcome.answer}"
    assert outcome.error == error, outcome
    assert "TorchlessError" in outcome.bases
    assert outcome.message
    assert len(outcome.message.splitlines()) == 1
    assert outcome.message.isprintable()
    assert len(outcome.message) <= 1000
    assert outcome.resident < RESIDENT, f"{outcome.resident >> 20} MiB"
    assert outcome.written == []
    if says:
        assert re.search(says, outcome.message), outcome.message


def _tree(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield every file and directory below `folder`, with what would show that it was written."""
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        yield str(path), (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)


# What can be attempted.


def pipeline(model: str, options: dict[str, Any], texts: list[Any]) -> Any:
    """Open a model and run texts."""
    import torchless

    options = {"device": "cpu", "threads": 1} | options
    pipe = torchless.pipeline(model=model, **options)
    return pipe(texts, top_k=None) if texts else pipe.variant


def long_text(model: str, characters: int) -> Any:
    """Answer one text of so many characters, cut to what the model takes."""
    import torchless

    pipe = torchless.pipeline(model=model, device="cpu", threads=1, variant="fp32")
    return pipe("fine film " * (characters // 10), truncation=True)[0]["label"]


def exports(checkpoints: list[str], bundle: str) -> Any:
    """Try to export each of some checkpoints; returns what was raised for each, in order: class, message, or None.

    All in one process, which takes seconds to start: the limits are on all of them together.
    """
    import torchless
    import torchless_export

    raised: list[tuple[str, str] | None] = []
    for checkpoint in checkpoints:
        try:
            torchless_export.export(checkpoint, bundle, calibration=["a fine film", "dull"], min_agreement=0)
        except torchless.TorchlessError as error:
            raised.append((type(error).__name__, str(error)))
        else:
            raised.append(None)
    return raised


def records(path: str) -> Any:
    """Read an input file to its end."""
    from torchless.records import open_records

    with open_records(path) as reader:
        return sum(1 for _ in reader)


def _main() -> None:
    import resource
    import warnings

    request = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    if request["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (request["memory"], resource.getrlimit(resource.RLIMIT_AS)[1]))
    warnings.simplefilter("ignore")
    said: dict[str, Any] = {"error": None, "message": "", "bases": [], "answer": ""}
    try:
        said["answer"] = repr(globals()[request["do"]](*request["arguments"]))
    except BaseException as error:
        bases = [base.__name__ for base in type(error).__mro__]
        said |= {"error": type(error).__name__, "message": str(error), "bases": bases}
    # Of itself by what the kernel counts since it was started; ru_maxrss counts its parent too, which forked it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    said["resident"] = max(int(status["VmHWM"].split()[0]), children) * 1024
    sys.stdout.write(f"\n{json.dumps(said)}\n")


if __name__ == "__main__":
    _main()
