"""A bundle appears whole or not at all, whatever happens to the disk or the target."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from bundle_folders import content, fill, linux, put
from torchless.errors import BundleError
from torchless.manifest import MANIFEST_NAME
from torchless_export import writer
from torchless_export.writer import DirectoryWriter


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
def test_the_target_is_there_at_every_moment(old: Path, monkeypatch: pytest.MonkeyPatch):
    rename = os.rename

    def slow(source: Path, destination: Path) -> None:
        rename(source, destination)
        time.sleep(0.01)  # a moment between two renames would be seen

    monkeypatch.setattr(os, "rename", slow)
    missing: list[str] = []
    looks = 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal looks
        while not stop.is_set():
            looks += 1
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
    assert looks > 30
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
