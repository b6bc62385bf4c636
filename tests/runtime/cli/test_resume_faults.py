"""Every way to lose a machine: killed, without power, interrupted or with a full disk at any change of a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from file_system import only
from resumable_runs import FOUND_BESIDE, RECORDS, go, stopped, wanted, write_source
from torchless.cli import atomic, journal, resume
from torchless.cli.resume import ResumableFile
from torchless.errors import InputError

pytestmark = pytest.mark.usefixtures("saved_every_window")

# `Machine` stands in for `os` in the modules that write, and counts the calls that change something; at one of them
# it stops the world.
CHANGES = ("open", "write", "fsync", "replace", "unlink", "ftruncate", "chmod")


class Killed(BaseException):
    """No cleaning up after this one: from here on every change fails with it."""


class Machine:
    """`os`, which raises `fault` at the change numbered `at`, and where `forever` says so at each one after it."""

    def __init__(self, at: int, fault: BaseException, *, forever: bool = False) -> None:
        self._at, self._fault, self._forever = at, fault, forever
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def change(*arguments: Any) -> Any:
            number, self._count = self._count, self._count + 1
            if number == self._at or (self._forever and number > self._at):
                if name == "write":  # a part of it may be there
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise self._fault
            result = real(*arguments)
            self.changed(name, result, *arguments)
            return result

        return change

    def changed(self, name: str, result: Any, *arguments: Any) -> None:
        """Called after each change."""


class Disk(Machine):
    """Knows what is there for good: contents as they were synced, names as they were when their folder was."""

    def __init__(self, at: int, fault: BaseException, folder: Path) -> None:
        super().__init__(at, fault, forever=True)
        found = [folder / name for name in only(folder)]
        self._names = {str(path): number for number, path in enumerate(found)}
        self._contents = {number: path.read_bytes() for number, path in enumerate(found)}
        self._since: list[tuple[str, Any, Any]] = []  # the changes of names since the folder was synced
        self._now = dict(self._names)
        self._opened: dict[int, str] = {}

    def changed(self, name: str, result: Any, *arguments: Any) -> None:
        if name == "open":
            path, flags = arguments[:2]
            self._opened[result] = path
            if flags & os.O_CREAT:
                number = len(self._contents)
                self._contents[number] = b""
                self._rename(("create", path, number))
        elif name == "fsync":
            path = self._opened[arguments[0]]
            if os.path.isdir(path):
                self._names, self._since = dict(self._now), []
            else:
                self._contents[self._now[path]] = Path(path).read_bytes()
        elif name in ("replace", "unlink"):
            self._rename((name, *arguments, *[None] * (2 - len(arguments))))

    def _rename(self, change: tuple[str, Any, Any]) -> None:
        self._since.append(change)
        self._now = self._after([change], self._now)

    @staticmethod
    def _after(changes: list[tuple[str, Any, Any]], names: dict[str, int]) -> dict[str, int]:
        names = dict(names)
        for name, path, other in changes:
            if name == "create":
                names[path] = other
            elif path in names:
                number = names.pop(path)
                if name == "replace":
                    names[other] = number
        return names

    def power_cuts(self) -> Iterator[dict[str, bytes]]:
        """Yield each folder, as names and contents, that may be found where the power is cut now.

        Of the changes of names since the folder was synced, the first few may have come to the disk, or all but one.
        """
        count = len(self._since)
        kept = [self._since[:end] for end in range(count + 1)]
        kept += [self._since[:one] + self._since[one + 1 :] for one in range(count)]
        for changes in kept:
            names = self._after(changes, self._names)
            yield {os.path.basename(path): self._contents[number] for path, number in names.items()}


@contextlib.contextmanager
def running_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for module in (atomic, journal, resume):
            patch.setattr(module, "os", machine)
        yield


def close_all(before: set[str]) -> None:
    """Close what a killed process leaves open, and so give up its locks."""
    for descriptor in set(os.listdir("/proc/self/fd")) - before:
        with contextlib.suppress(OSError):
            os.close(int(descriptor))


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")


def run_to_fault(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any
) -> BaseException | None:
    """Run; return what the fault became, None where it did not come."""
    before = set(os.listdir("/proc/self/fd"))
    try:
        with running_on(machine, monkeypatch):
            go(*arguments, **options)
    except (Killed, KeyboardInterrupt, InputError) as error:
        close_all(before)
        return error
    return None


@needs_proc
@pytest.mark.parametrize("format_name", ["jsonl", "csv"])
@pytest.mark.parametrize("started", [False, True])
def test_killed_at_any_change(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, started: bool, format_name: str
) -> None:
    """SIGKILL before each step in turn; the same command with --resume then gives the same file, and nothing else."""
    expected = wanted(source, folder, format_name)
    target = folder / "out.jsonl"
    for at in range(200):
        target.write_text("old\n")
        if started:
            stopped(source, target, 1, torn=b"torn", format_name=format_name)
        machine = Machine(at, Killed(), forever=True)
        error = run_to_fault(machine, monkeypatch, source, target, resume=started, format_name=format_name)
        assert target.read_bytes() in (b"old\n", expected)
        if error:
            go(source, target, resume=True, format_name=format_name)
        assert target.read_bytes() == expected
        assert only(folder) == ["out.jsonl"]
        target.unlink()
        if not error:
            assert at > 20
            break
    else:
        raise AssertionError("it never came to an end")


def after_power_cuts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any
) -> Iterator[tuple[dict[str, bytes], int]]:
    """Run again and again from the same folder, the power cut one change later each time.

    Yields what is found then, having put it there, and the number of records that were saved.
    """
    before = {name: (folder / name).read_bytes() for name in only(folder)}
    save = ResumableFile._save
    saved = 0

    def noted(self: ResumableFile) -> None:
        nonlocal saved
        save(self)
        saved = self.records

    def put(content: dict[str, bytes]) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)

    for at in range(200):
        put(before)
        saved = 0
        disk = Disk(at, Killed(), folder)
        with monkeypatch.context() as patch:
            patch.setattr(ResumableFile, "_save", noted)
            error = run_to_fault(disk, monkeypatch, *arguments, **options)
        for found in disk.power_cuts():
            put(found)
            yield found, saved
        if error is None:
            return
    raise AssertionError("it never came to an end")


@needs_proc
def test_the_power_is_cut_at_any_change(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved is there, what was not synced is gone, and --resume gives the same file all the same."""
    expected = wanted(source, folder)
    target = folder / "out.jsonl"
    seen = set()
    for found, saved in after_power_cuts(folder, monkeypatch, source, target):
        if "out.jsonl" in found:
            assert found["out.jsonl"] == expected
        else:
            done = json.loads(found.get(".out.jsonl.journal", b'{"records": 0}'))["records"]
            assert done >= saved
            assert ".out.jsonl.partial" in found or not saved
            seen.add(done)
        go(source, target, resume=True)
        assert target.read_bytes() == expected
        assert only(folder) == ["out.jsonl"]
    assert seen == {0, 3, 6, 9}


@needs_proc
def test_the_power_is_cut_while_starting_anew(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal of a run that was thrown away never counts what the next one wrote."""
    expected = wanted(source, folder)
    target = folder / "out.jsonl"
    other = write_source(tmp_path / "other.jsonl", ["of another file"] * RECORDS)
    stopped(source, target, 2)
    for _ in after_power_cuts(folder, monkeypatch, other, target):
        try:
            go(source, target, resume=True)
        except InputError as error:
            assert "not those that were done" in str(error)  # noqa: PT017 - it may as well go on
        else:
            assert target.read_bytes() == expected


@needs_proc
@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_a_fault_at_any_change(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, forever: bool, started: bool
) -> None:
    """A signal or a full disk: what is said to be kept is there, and gone on with."""
    expected = wanted(source, folder)
    target = folder / "out.jsonl"
    for at in range(200):
        target.write_text("old\n")
        if started:
            stopped(source, target, 1, torn=b"torn")
        error = run_to_fault(Machine(at, fault, forever=forever), monkeypatch, source, target, resume=started)
        if error is None:
            break
        beside = only(folder)[:-1]
        done = json.loads((folder / beside[0]).read_text())["records"] if ".out.jsonl.journal" in beside else 0
        if target.read_bytes() == b"old\n":
            assert done or not started
            assert forever or beside == (FOUND_BESIDE if done else [])
        else:
            assert target.read_bytes() == expected
            assert forever or beside == []
            assert not hasattr(error, "__notes__")
        if notes := vars(error).pop("__notes__", None):
            assert notes == [f"{done} texts are done and kept; the same command with --resume goes on"]
        go(source, target, resume=True)
        assert target.read_bytes() == expected
        assert only(folder) == ["out.jsonl"]
        target.unlink()
    else:
        raise AssertionError("it never came to an end")
