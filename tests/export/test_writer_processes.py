"""Exports that are killed, or at work at the same time, leave one whole bundle, and litter that the next one clears."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle_folders import FILES, content, linux, put
from torchless.errors import BundleError
from torchless_export import writer
from torchless_export.writer import DirectoryWriter

# Where a process is killed, after so many files, or before or after the n-th call of a function;
# and the cases in which the new bundle stands then: where there was "none", or an "old" one.
KILLED = [
    *(("exchange", f"written {count}", ()) for count in (0, 2, 4)),
    ("exchange", "before _sync 1", ()),
    ("exchange", "before _sync 3", ()),
    ("exchange", "before _renameat2 1", ()),
    ("exchange", "after _renameat2 1", ("none", "old")),
    ("exchange", "after _place 1", ("none", "old")),
    ("two renames", "before rename 1", ()),
    ("two renames", "after rename 1", ("none",)),
    ("two renames", "before rename 2", ()),
    ("two renames", "after rename 2", ("old",)),
    ("two renames", "after _place 1", ("none", "old")),
]

KILLED_PROCESS = """
import os, pathlib, shutil, signal, sys
from torchless_export import writer

target, (when, name, count), way = sys.argv[1], sys.argv[2].split(), sys.argv[3]
if way == "two renames":
    writer._renameat2 = lambda *arguments: False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def wrap(owner, name):
    function, calls = getattr(owner, name), []
    def wrapped(*arguments, **named):
        calls.append(name)
        if when == "before" and len(calls) == int(count):
            die()
        result = function(*arguments, **named)
        if when == "after" and len(calls) == int(count):
            die()
        return result
    setattr(owner, name, wrapped)

if name == "_place":
    wrap(writer.DirectoryWriter, name)
else:
    wrap({"_sync": writer, "_renameat2": writer, "rename": os}[name], name)
with writer.DirectoryWriter(target, force=True) as made:
    for i, name in enumerate(sys.argv[4:]):
        if when == "written" and i == int(count):
            die()
        (made.folder / name).write_text("new")
    if when == "written":
        die()
    made.commit()
"""


@linux
@pytest.mark.parametrize(
    ("way", "stage", "placed", "before"),
    [(*case, before) for case in KILLED for before in ("none", "old") if before == "old" or "rename 2" not in case[1]],
)
def test_a_killed_export_leaves_the_old_bundle_or_the_new_one(
    target: Path, way: str, stage: str, placed: tuple[str, ...], before: str
):
    if before == "old":
        put(target, "old")
    when, *rest = stage.split()
    name, count = rest if len(rest) == 2 else ("_sync", rest[0])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_PROCESS, str(target), f"{when} {name} {count}", way, *FILES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    expected = "new" if before in placed else "old" if before == "old" else None
    if way == "exchange":
        assert content(target) == expected
    with DirectoryWriter(target, force=True):
        pass  # the next export begins, and fails
    assert content(target) == expected
    if target.parent.exists():
        assert os.listdir(target.parent) == (["bundle"] if expected else [])


AT_WORK = """
import sys
from torchless_export.writer import DirectoryWriter

with DirectoryWriter(sys.argv[1], force=True) as made:
    print(made.folder, flush=True)
    sys.stdin.readline()
    for name in sys.argv[2:]:
        (made.folder / name).write_text("theirs")
    made.commit()
"""


@pytest.fixture
def neighbour(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that exports to the same target, and waits for a line."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", AT_WORK, str(target), *FILES]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@linux
def test_two_exports_to_one_target_do_not_disturb_each_other(old: Path, way: str, neighbour: subprocess.Popen[str]):
    assert neighbour.stdout
    theirs = Path(neighbour.stdout.readline().strip())
    assert theirs.is_dir()
    put(old, "ours", force=True)
    assert content(old) == "ours"
    assert theirs.is_dir()  # at work, so no litter
    _, errors = neighbour.communicate("go\n", timeout=60)
    assert neighbour.returncode == 0, errors
    assert content(old) == "theirs"
    assert os.listdir(old.parent) == ["bundle"]


@pytest.mark.parametrize(("stood", "force"), [(False, False), (False, True), (True, True)])
def test_what_another_export_does_in_the_last_moment(
    target: Path, way: str, monkeypatch: pytest.MonkeyPatch, stood: bool, force: bool
):
    """Between the last look at the target and the rename it comes to exist, or is gone."""
    owner, name = (writer, "_renameat2") if way == "exchange" else (os, "rename")
    function, came = getattr(owner, name), []

    def late(*arguments: Any) -> Any:
        if not came:
            came.append(True)
            if stood:
                shutil.rmtree(target)
            else:
                put(target, "theirs")
        return function(*arguments)

    if stood:
        put(target, "old")
    monkeypatch.setattr(owner, name, late)
    if force:
        put(target, "ours", force=True)
    else:
        with pytest.raises(BundleError, match="exists; pass --force to replace it"):
            put(target, "ours")
    assert content(target) == ("ours" if force else "theirs")
    assert os.listdir(target.parent) == ["bundle"]


def test_many_exports_at_once_leave_one_of_them(target: Path):
    barrier, failures = threading.Barrier(6), []

    def export(i: int) -> None:
        barrier.wait()
        try:
            for turn in range(5):
                put(target, f"{i} {turn}", force=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=export, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (content(target) or "").endswith(" 4")
    assert os.listdir(target.parent) == ["bundle"]


def test_only_litter_is_removed(old: Path):
    kept = [
        ".bundle.backup.partial",
        ".bundle.1-abc.partial",
        ".bundle.old",
        ".other.1-0123abcd.partial",
        "bundle.partial",
    ]
    litter = ".bundle.1-0123abcd.partial"
    for name in (*kept, litter):
        (old.parent / name).mkdir()
        (old.parent / name / "thesis.txt").write_text("mine")
    shutil.copytree(old, old.parent / ".bundle.torchless-old")
    put(old, "new", force=True)
    assert content(old) == "new"
    assert sorted(os.listdir(old.parent)) == sorted(["bundle", *kept])


def test_a_link_named_like_litter_is_not_followed(old: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (old.parent / ".bundle.1-0123abcd.partial").symlink_to(tmp_path / "mine")
    put(old, "new", force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_where_directories_cannot_be_locked_an_export_still_works(old: Path, way: str, monkeypatch: pytest.MonkeyPatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)
    put(old, "new", force=True)
    assert content(old) == "new"
    assert os.listdir(old.parent) == ["bundle"]
    os.rename(old, old.parent / ".bundle.torchless-old")
    with DirectoryWriter(old, force=True):
        assert content(old) == "new"
