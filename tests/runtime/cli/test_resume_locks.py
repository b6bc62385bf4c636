"""Two runs never write one file at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from file_system import only, posix
from resumable_runs import go, refused, wanted
from torchless.cli import resume

pytestmark = pytest.mark.usefixtures("saved_every_window")


@posix
def test_the_lock_is_given_up_with_the_process(source: Path, folder: Path) -> None:
    script = (
        "import os, sys\n"
        "from torchless.cli.resume import ResumableFile\n"
        "with ResumableFile(sys.argv[1], {}):\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(1)\n"
    )
    command = [sys.executable, "-c", script, str(folder / "out.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"open\n"
        assert "another run is writing it" in refused(source, folder / "out.jsonl")
        process.stdin.close()
        process.wait(60)
    go(source, folder / "out.jsonl")
    assert only(folder) == ["out.jsonl"]


@posix
def test_a_file_system_without_locks(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(resume.fcntl, "flock", refuse)
    go(source, folder / "out.jsonl")
    assert only(folder) == ["out.jsonl"]


@posix
@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_that_ends_while_its_file_is_opened(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """Between opening and locking, the other run removes the file, and perhaps a third one makes another."""
    expected = wanted(source, folder)
    partial = folder / ".out.jsonl.partial"
    flock = resume.fcntl.flock
    calls = []

    def late(descriptor: int, how: int) -> None:
        if not calls:
            partial.unlink()
            if replaced:
                partial.write_text("of a third run")
        calls.append(how)
        flock(descriptor, how)

    monkeypatch.setattr(resume.fcntl, "flock", late)
    partial.write_text("of the other run")
    go(source, folder / "out.jsonl")
    assert len(calls) > 2
    assert (folder / "out.jsonl").read_bytes() == expected
    assert only(folder) == ["out.jsonl"]
