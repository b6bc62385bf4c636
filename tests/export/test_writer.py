"""A bundle appears whole or not at all, whatever happens to the process, the disk or the target."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchless.errors import BundleError
from torchless.manifest import MANIFEST_NAME
from torchless_export import writer
from torchless_export.writer import DirectoryWriter

FILES = ("a.onnx", "b.json", "c.json", MANIFEST_NAME)
linux = pytest.mark.skipif(sys.platform != "linux", reason="renameat2 and flock are Linux's")


def fill(folder: Path, what: str) -> None:
    for name in FILES:
        (folder / name).write_text(what)


def put(target: Path, what: str, *, force: bool = False) -> None:
    with DirectoryWriter(target, force=force) as made:
        fill(made.folder, what)
        made.commit()


def content(folder: Path) -> str | None:
    """Return what a whole bundle was filled with; None: there is none."""
    if not folder.exists():
        return None
    assert sorted(os.listdir(folder)) == sorted(FILES)
    found = {(folder / name).read_text() for name in FILES}
    assert len(found) == 1
    return found.pop()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "place" / "bundle"


@pytest.fixture
def old(target: Path) -> Path:
    """A target at which a bundle stands."""
    put(target, "old")
    return target


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a bundle is replaced: as on Linux, and as elsewhere."""
    if request.param == "two renames":
        monkeypatch.setattr(writer, "_renameat2", lambda *arguments: False)
    elif sys.platform != "linux":
        pytest.skip("renameat2 is Linux's")
    return request.param


def test_a_bundle_appears_with_its_parents(target: Path, way: str):
    put(target, "new")
    assert content(target) == "new"
    assert os.listdir(target.parent) == ["bundle"]


def test_nothing_shows_before_the_commit(target: Path):
    with DirectoryWriter(target) as made:
        fill(made.folder, "new")
        assert not target.exists()
        assert made.folder.parent == target.parent  # the same file system, so that one rename does it
        made.commit()
        assert content(target) == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, None])
@pytest.mark.parametrize("exists", [False, True])
def test_an_export_that_fails_leaves_nothing(target: Path, error: type[BaseException] | None, exists: bool):
    if exists:
        put(target, "old")

    def fail() -> None:
        with DirectoryWriter(target, force=True) as made:
            fill(made.folder, "new")
            if error is not None:
                raise error

    if error is None:
        fail()
    else:
        with pytest.raises(error):
            fail()
    if exists:
        assert content(target) == "old"
        assert os.listdir(target.parent) == ["bundle"]
    else:
        assert not target.parent.exists()  # the missing parent was made for the bundle alone


def test_parents_that_were_there_stay(tmp_path: Path):
    (tmp_path / "there").mkdir()
    with DirectoryWriter(tmp_path / "there" / "not" / "nor this" / "bundle"):
        pass
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == []


def test_force_replaces_a_bundle(old: Path, way: str):
    put(old, "new", force=True)
    assert content(old) == "new"
    assert os.listdir(old.parent) == ["bundle"]


def test_without_force_a_bundle_stays(old: Path):
    with pytest.raises(BundleError, match="exists; pass --force"):
        DirectoryWriter(old)
    assert content(old) == "old"


def test_a_target_that_came_to_exist_meanwhile_stays(target: Path, way: str):
    with DirectoryWriter(target) as made:
        fill(made.folder, "new")
        put(target, "other")
        with pytest.raises(BundleError, match="exists"):
            made.commit()
    assert content(target) == "other"
    assert os.listdir(target.parent) == ["bundle"]


def test_an_empty_directory_is_filled(tmp_path: Path, way: str):
    (tmp_path / "bundle").mkdir()
    put(tmp_path / "bundle", "new")
    assert content(tmp_path / "bundle") == "new"
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("kind", ["file", "link to a bundle", "dangling link", "directory", "pipe"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("force", [True, False])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str, when: str, force: bool):
    target = tmp_path / "bundle"

    def occupy() -> None:
        if kind == "file":
            target.write_text("mine")
        elif kind == "link to a bundle":
            put(tmp_path / "elsewhere", "old")
            target.symlink_to(tmp_path / "elsewhere")
        elif kind == "dangling link":
            target.symlink_to(tmp_path / "nowhere")
        elif kind == "directory":
            target.mkdir()
            (target / "thesis.txt").write_text("mine")
        else:
            os.mkfifo(target)

    if when == "before":
        occupy()
        with pytest.raises(BundleError, match="exists") as caught:
            DirectoryWriter(target, force=force)
    else:
        with DirectoryWriter(target, force=force) as made:
            fill(made.folder, "new")
            occupy()
            with pytest.raises(BundleError, match="exists") as caught:
                made.commit()
    assert str(target) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert os.path.lexists(target)
    if kind == "directory":
        assert os.listdir(target) == ["thesis.txt"]
    if kind == "link to a bundle":
        assert content(tmp_path / "elsewhere") == "old"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_path_under_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file" / "bundle", tmp_path / "file" / "deeper" / "bundle"):
        with (
            pytest.raises(BundleError, match=r"cannot be written: (Not a directory|File exists)"),
            DirectoryWriter(target),
        ):
            pytest.fail("unreachable")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_too_long_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="File name too long"), DirectoryWriter(tmp_path / "new" / ("x" * 300)):
        pytest.fail("unreachable")
    assert os.listdir(tmp_path) == []


@linux
def test_a_read_only_directory_is_refused():
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as place:  # tmp_path is under a directory that nobody else may enter
        os.chmod(place, 0o555)
        try:
            if user == 0:
                os.seteuid(65534)  # root may write everywhere
            with pytest.raises(BundleError, match="Permission denied"), DirectoryWriter(Path(place, "bundle")):
                pytest.fail("unreachable")
        finally:
            os.seteuid(user)
        assert os.listdir(place) == []


def test_a_read_only_file_system_is_refused(target: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, *arguments: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BundleError, match="Read-only file system; free space or choose"), DirectoryWriter(target):
        pytest.fail("unreachable")


def test_a_disk_that_fails_in_the_commit_leaves_the_old_bundle(old: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with DirectoryWriter(old, force=True) as made:
        fill(made.folder, "new")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(BundleError, match="Input/output error"):
            made.commit()
    assert content(old) == "old"
    assert os.listdir(old.parent) == ["bundle"]


@linux
def test_the_target_is_there_at_every_moment(old: Path):
    missing: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                os.stat(old / MANIFEST_NAME)
            except OSError as error:
                missing.append(str(error))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for i in range(30):
            put(old, f"new {i}", force=True)
    finally:
        stop.set()
        watcher.join()
    assert not missing
    assert content(old) == "new 29"


def test_two_renames_that_fail_between_put_the_old_bundle_back(old: Path, monkeypatch: pytest.MonkeyPatch):
    rename, calls = os.rename, []

    def interrupted(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(writer, "_renameat2", lambda *arguments: False)
    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(old, "new", force=True)
    assert len(calls) == 3
    assert content(old) == "old"
    assert os.listdir(old.parent) == ["bundle"]


def test_an_old_bundle_put_back_is_not_replaced_unasked(old: Path):
    os.rename(old, old.parent / ".bundle.torchless-old")
    with pytest.raises(BundleError, match="pass --force"), DirectoryWriter(old):
        pytest.fail("unreachable")
    assert content(old) == "old"
    assert os.listdir(old.parent) == ["bundle"]


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
