"""That a run can be stopped anywhere and gone on with, and the file is the same in the end."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchless.cli import atomic, journal, output, resume
from torchless.cli.journal import Journal
from torchless.cli.output import ResultWriter
from torchless.cli.resume import ResumableFile, discard
from torchless.errors import InputError
from torchless.records import Record, open_records

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")

SETTINGS = {"variant": "int8", "--top-k": None}
WINDOW = 3
RECORDS = 11
FOUND_BESIDE = [".out.jsonl.journal", ".out.jsonl.partial"]


@pytest.fixture(autouse=True)
def saved_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not really synced: some thousand runs are made here; `Disk` knows what that would do."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(resume, "_INTERVAL", 0)
    monkeypatch.setattr(resume, "_COSTS", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The input, in a folder of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    return write_source(folder / "texts.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for the output."""
    path = tmp_path / "out"
    path.mkdir()
    return path


def write_source(path: Path, texts: list[str] | None = None) -> Path:
    texts = [f"text {i}, é\ud800" for i in range(RECORDS)] if texts is None else texts
    data = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def answers(rows: list[Record]) -> list[dict[str, Any]]:
    """Scores that depend on the whole window, as those of int8 do: a shifted window would show."""
    company = hashlib.sha256("".join(row.text for row in rows).encode("utf-8", "surrogatepass")).digest()
    return [{"label": "x", "score": int.from_bytes(company[:6], "big") / 2**48 + i} for i in range(len(rows))]


class StopError(Exception):
    """Something that is wrong after some windows."""


def go(
    source: Path,
    target: Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    error: BaseException | None = None,
    given: dict[str, str | None] | None = None,
    format_name: str = "jsonl",
    torn: bytes = b"",
) -> ResumableFile:
    """What `torchless run` does, with other answers; raises `error` after the window numbered `stop_after`."""
    with (
        open_records(str(source), columns=["id"]) as reader,
        ResumableFile(str(target), SETTINGS if given is None else given, resume=resume) as file,
        ResultWriter(str(target), format_name, columns=["id"], file=file) as writer,
    ):
        file.skip(reader)
        count = 0
        while rows := reader.take(WINDOW):
            if count == stop_after:
                file.write(torn)
                raise error or StopError()
            file.save()
            writer.write_all(rows, answers(rows))
            file.mark(rows, cut=1)
            count += 1
    return file


def stopped(source: Path, target: Path, windows: int, **options: Any) -> BaseException:
    """Run `windows` windows and stop."""
    with pytest.raises((StopError, KeyboardInterrupt, SystemExit)) as caught:
        go(source, target, stop_after=windows, **options)
    return caught.value


def wanted(source: Path, folder: Path, format_name: str = "jsonl") -> bytes:
    """Return what an uninterrupted run writes."""
    target = folder / "uninterrupted"
    go(source, target, format_name=format_name)
    data = target.read_bytes()
    target.unlink()
    return data


def only(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        go(*arguments, **options)
    assert "\n" not in caught.value.args[0]
    return str(caught.value)


class TestGoingOn:
    @pytest.mark.parametrize("format_name", output.FORMATS)
    @pytest.mark.parametrize("windows", [1, 2, 3])
    def test_the_file_is_the_same(self, source: Path, folder: Path, windows: int, format_name: str) -> None:
        expected = wanted(source, folder, format_name)
        target = folder / "out.jsonl"
        stopped(source, target, windows, torn=b"half a li", format_name=format_name)
        assert only(folder) == FOUND_BESIDE
        size = json.loads((folder / ".out.jsonl.journal").read_text())["size"]
        assert (folder / ".out.jsonl.partial").stat().st_size == size
        file = go(source, target, resume=True, format_name=format_name)
        assert (file.records, file.cut) == (RECORDS, 4)
        assert target.read_bytes() == expected
        assert only(folder) == ["out.jsonl"]

    def test_again_and_again(self, source: Path, folder: Path) -> None:
        expected = wanted(source, folder)
        for _ in range(3):
            stopped(source, folder / "out.jsonl", 1, resume=True, torn=b"x")
        go(source, folder / "out.jsonl", resume=True)
        assert (folder / "out.jsonl").read_bytes() == expected

    def test_what_is_done_is_not_done_again(self, source: Path, folder: Path) -> None:
        stopped(source, folder / "out.jsonl", 2)
        partial = folder / ".out.jsonl.partial"
        size, identity = partial.stat().st_size, partial.stat().st_ino
        stopped(source, folder / "out.jsonl", 0, resume=True)
        assert (partial.stat().st_size, partial.stat().st_ino) == (size, identity)
        assert json.loads((folder / ".out.jsonl.journal").read_text())["records"] == 2 * WINDOW

    def test_compressed_input(self, folder: Path, tmp_path: Path) -> None:
        source = write_source(tmp_path / "texts.jsonl.gz")
        expected = wanted(source, folder)
        stopped(source, folder / "out.jsonl", 2)
        go(source, folder / "out.jsonl", resume=True)
        assert (folder / "out.jsonl").read_bytes() == expected

    def test_the_input_may_be_the_output(self, source: Path) -> None:
        target = source
        text = target.read_bytes()
        stopped(source, target, 2)
        assert target.read_bytes() == text
        go(source, target, resume=True)
        assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == list(range(RECORDS))
        assert only(target.parent) == [target.name]

    def test_the_end_of_the_input_may_change(self, source: Path, folder: Path) -> None:
        stopped(source, folder / "out.jsonl", 2)
        write_source(source, [f"text {i}, é\ud800" for i in range(2 * WINDOW)] + ["mended", "appended"])
        expected = wanted(source, folder)
        go(source, folder / "out.jsonl", resume=True)
        assert (folder / "out.jsonl").read_bytes() == expected

    def test_the_spelling_of_the_input_may_change(self, source: Path, folder: Path) -> None:
        expected = wanted(source, folder)
        stopped(source, folder / "out.jsonl", 2)
        data = source.read_bytes().replace(b'{"text"', b'{"new": 1, "text"').replace(b"\n", b"\r\n")
        source.write_bytes(b"\xef\xbb\xbf\r\n" + data)
        go(source, folder / "out.jsonl", resume=True)
        assert (folder / "out.jsonl").read_bytes() == expected

    def test_all_records_were_done(self, source: Path, folder: Path) -> None:
        expected = wanted(source, folder)
        stopped(source, folder / "out.jsonl", 2)
        write_source(source, [f"text {i}, é\ud800" for i in range(2 * WINDOW)])
        go(source, folder / "out.jsonl", resume=True)
        assert (folder / "out.jsonl").read_bytes() == b"".join(expected.splitlines(True)[: 2 * WINDOW])
        assert only(folder) == ["out.jsonl"]

    @posix
    def test_through_a_link(self, source: Path, folder: Path) -> None:
        (folder / "link").symlink_to("out.jsonl")
        stopped(source, folder / "link", 1)
        assert only(folder) == [*FOUND_BESIDE, "link"]
        go(source, folder / "out.jsonl", resume=True)
        assert (folder / "link").is_symlink()
        assert only(folder) == ["link", "out.jsonl"]

    @pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "𝄞" * 63, "a" * 50, "a" * 51])
    def test_any_name(self, source: Path, folder: Path, name: str) -> None:
        stopped(source, folder / name, 1)
        assert len(only(folder)) == 2
        go(source, folder / name, resume=True)
        assert only(folder) == [name]

    def test_long_names_are_kept_apart(self, source: Path, folder: Path) -> None:
        stopped(source, folder / ("a" * 200 + "1"), 1)
        stopped(source, folder / ("a" * 200 + "2"), 2)
        assert len(only(folder)) == 4

    @posix
    def test_permissions(self, source: Path, folder: Path) -> None:
        target = folder / "out.jsonl"
        target.touch()
        target.chmod(0o604)
        stopped(source, target, 1)
        assert stat.S_IMODE((folder / ".out.jsonl.partial").stat().st_mode) == 0o604
        target.chmod(0o640)
        go(source, target, resume=True)
        assert stat.S_IMODE(target.stat().st_mode) == 0o640


class TestStopping:
    @pytest.mark.parametrize("error", [StopError(), KeyboardInterrupt(), SystemExit(143)])
    def test_says_what_is_done(self, source: Path, folder: Path, error: BaseException) -> None:
        stopped(source, folder / "out.jsonl", 2, error=error)
        assert error.__notes__ == ["6 texts are done and kept; the same command with --resume goes on"]

    @pytest.mark.parametrize("error", [StopError(), KeyboardInterrupt(), SystemExit(143)])
    def test_leaves_nothing_where_nothing_is_done(self, source: Path, folder: Path, error: BaseException) -> None:
        (folder / "out.jsonl").write_text("old\n")
        stopped(source, folder / "out.jsonl", 0, error=error, torn=b"half", format_name="csv")
        assert not hasattr(error, "__notes__")
        assert only(folder) == ["out.jsonl"]
        assert (folder / "out.jsonl").read_text() == "old\n"

    def test_interrupted_while_reading_again(self, source: Path, folder: Path) -> None:
        stopped(source, folder / "out.jsonl", 2)
        error = KeyboardInterrupt()

        def interrupt() -> None:
            raise error

        with (
            pytest.raises(KeyboardInterrupt),
            open_records(str(source), columns=["id"]) as reader,
            ResumableFile(str(folder / "out.jsonl"), SETTINGS, resume=True) as file,
        ):
            file.skip(reader, interrupt)
        assert error.__notes__ == ["6 texts are done and kept; the same command with --resume goes on"]
        assert only(folder) == FOUND_BESIDE

    def test_no_journal_is_written_for_a_single_window(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(Journal, "write")
        go(write_source(tmp_path / "short.jsonl", ["a", "b"]), folder / "out.jsonl")
        assert only(folder) == ["out.jsonl"]

    def test_seldom_where_that_takes_long(self, source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]

        class Clock:
            @staticmethod
            def monotonic() -> float:
                return now[0]

        saved = []
        write = Journal.write

        def slow(self: Journal, path: str) -> None:
            saved.append((now[0], self.records))
            now[0] += 3
            write(self, path)

        monkeypatch.setattr(resume, "time", Clock)
        monkeypatch.setattr(resume, "_INTERVAL", 1.0)
        monkeypatch.setattr(resume, "_COSTS", 20)
        monkeypatch.setattr(Journal, "write", slow)
        with (
            open_records(str(source), columns=["id"]) as reader,
            ResumableFile(str(folder / "out.jsonl"), SETTINGS) as file,
        ):
            while rows := reader.take(1):
                file.save()
                now[0] += 10
                file.write(b"line\n")
                file.mark(rows, 0)
        assert saved == [(10.0, 1), (73.0, 7)]


class TestRefusing:
    """What cannot be gone on with is said in one line, and stays."""

    @pytest.fixture
    def left(self, source: Path, folder: Path) -> Iterator[Path]:
        """The output of a run stopped after two windows; nothing of it may be changed."""
        stopped(source, folder / "out.jsonl", 2)
        before = {name: (folder / name).read_bytes() for name in only(folder)}
        yield folder / "out.jsonl"
        assert {name: (folder / name).read_bytes() for name in only(folder)} == before

    def test_another_setting(self, source: Path, left: Path) -> None:
        said = refused(source, left, resume=True, given={"variant": "int8", "--top-k": "2"})
        assert said == (
            f"{left}: 6 texts were done with no --top-k, and this run has --top-k 2; "
            "give the same, or leave out --resume to start anew"
        )
        said = refused(source, left, resume=True, given={"variant": "fp32", "flag": ""})
        assert "were done with variant int8 and no flag, and this run has variant fp32 and flag; give" in said

    @pytest.mark.parametrize("place", [0, 5])
    def test_another_input(self, source: Path, left: Path, place: int) -> None:
        texts = [f"text {i}, é\ud800" for i in range(RECORDS)]
        texts[place] += "!"
        write_source(source, texts)
        assert refused(source, left, resume=True) == (
            f"{source}: its first 6 records are not those that were done; "
            "bring them back, or leave out --resume to start anew"
        )

    def test_another_column(self, source: Path, left: Path) -> None:
        source.write_bytes(source.read_bytes().replace(b'"id": 0', b'"id": "0"'))
        with pytest.raises(InputError, match="its first 6 records are not those") as caught:
            go(source, left, resume=True)
        assert not hasattr(caught.value, "__notes__")  # the same command would not go on

    def test_records_that_moved(self, source: Path, left: Path) -> None:
        lines = source.read_bytes().splitlines(True)
        source.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
        assert "its first 6 records are not those" in refused(source, left, resume=True)

    def test_a_shorter_input(self, source: Path, left: Path) -> None:
        source.write_bytes(b"".join(source.read_bytes().splitlines(True)[:4]))
        assert "has 4 records, 6 were done" in refused(source, left, resume=True)

    def test_a_column_nested_too_deeply(self, source: Path, left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def deep(rows: list[Record]) -> bytes:
            raise RecursionError

        monkeypatch.setattr(resume, "canonical", deep)
        assert "its first 6 records are not those" in refused(source, left, resume=True)

    def test_an_input_broken_where_it_was_read(self, source: Path, left: Path) -> None:
        lines = source.read_bytes().splitlines(True)
        source.write_bytes(b"".join([lines[0], b'{"text": 1}\n', *lines[1:]]))
        with pytest.raises(InputError, match="line 2") as caught:
            go(source, left, resume=True)
        assert not hasattr(caught.value, "__notes__")

    @posix
    @pytest.mark.parametrize("resume", [False, True])
    def test_another_run(self, source: Path, left: Path, resume: bool) -> None:
        with contextlib.suppress(StopError), ResumableFile(str(left), SETTINGS, resume=True):
            said = refused(source, left, resume=resume)
            assert said == f"{left}: another run is writing it; wait for that, or give another --output"
            with pytest.raises(InputError, match="another run"):
                discard(str(left))
            raise StopError

    def test_a_shorter_partial_file(self, source: Path, folder: Path) -> None:
        stopped(source, folder / "out.jsonl", 2)
        partial = folder / ".out.jsonl.partial"
        size = partial.stat().st_size
        os.truncate(partial, size - 1)
        said = refused(source, folder / "out.jsonl", resume=True)
        assert said.startswith(f"{partial}: {size - 1} bytes, its journal says {size}")
        assert said.endswith("leave out --resume to start anew")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "a broken journal (line 1"),
            (b"{", "a broken journal (line 1"),
            (b"\xff", "a broken journal (byte 0 is not UTF-8)"),
            (b"[]", "a journal of format None"),
            (b'{"format": 2}', "a journal of format 2, this torchless reads 1"),
            (b'{"format": 1}', "whose fields are not records"),
        ],
    )
    def test_a_broken_journal(self, source: Path, left: Path, content: bytes, says: str) -> None:
        path = left.with_name(".out.jsonl.journal")
        whole = path.read_bytes()
        path.write_bytes(content)
        said = refused(source, left, resume=True)
        assert said.startswith(f"{path}: ")
        assert says in said
        assert said.endswith("leave out --resume to start anew")
        path.write_bytes(whole)

    @pytest.mark.parametrize(
        "change",
        [
            {"records": 0}, {"records": -1}, {"records": 6.0}, {"records": True}, {"size": "1"}, {"cut": -1},
            {"sha256": None}, {"settings": []}, {"settings": {"a": 1}}, {"more": 1},
        ],
    )  # fmt: skip
    def test_a_journal_of_other_fields(self, source: Path, left: Path, change: dict[str, Any]) -> None:
        path = left.with_name(".out.jsonl.journal")
        whole = path.read_bytes()
        path.write_text(json.dumps(json.loads(whole) | change))
        assert "whose fields are not" in refused(source, left, resume=True)
        path.write_bytes(whole)

    def test_a_journal_that_cannot_be_read(self, source: Path, folder: Path) -> None:
        (folder / ".out.jsonl.partial").touch()
        (folder / ".out.jsonl.journal").mkdir()
        assert "cannot be read" in refused(source, folder / "out.jsonl", resume=True)

    @posix
    def test_nothing_is_written_through_a_link_laid_in_the_way(self, source: Path, folder: Path) -> None:
        (folder / "other").write_text("other\n")
        (folder / ".out.jsonl.partial").symlink_to("other")
        for resume_ in (False, True):
            assert ".out.jsonl.partial is a link" in refused(source, folder / "out.jsonl", resume=resume_)
        assert (folder / "other").read_text() == "other\n"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe_laid_in_the_way(self, source: Path, folder: Path) -> None:
        os.mkfifo(folder / ".out.jsonl.partial")
        assert ".out.jsonl.partial is not a regular file" in refused(source, folder / "out.jsonl")

    def test_a_directory(self, source: Path, folder: Path) -> None:
        assert os.strerror(errno.EISDIR) in refused(source, folder)
        with pytest.raises(InputError, match=os.strerror(errno.EISDIR)):
            discard(str(folder))

    def test_no_directory(self, source: Path, folder: Path) -> None:
        target = folder / "missing" / "out.jsonl"
        assert refused(source, target).startswith(f"{target}: cannot be written ({os.strerror(errno.ENOENT)})")


class TestStartingAnew:
    @pytest.mark.parametrize("windows", [1, 2])
    def test_throws_away_what_was_done(self, source: Path, folder: Path, windows: int) -> None:
        expected = wanted(source, folder)
        stopped(source, folder / "out.jsonl", 2, given={"other": "settings"})
        file = go(source, folder / "out.jsonl")
        assert file.discarded == 6
        assert (folder / "out.jsonl").read_bytes() == expected
        assert only(folder) == ["out.jsonl"]

    def test_throws_away_a_broken_journal(self, folder: Path, tmp_path: Path) -> None:
        source = write_source(tmp_path / "short.jsonl", ["a", "b"])
        (folder / ".out.jsonl.journal").write_text("{")
        (folder / ".out.jsonl.journal.new").write_text("{")
        assert go(source, folder / "out.jsonl").discarded == 0
        assert only(folder) == ["out.jsonl"]

    def test_nothing_to_resume(self, source: Path, folder: Path) -> None:
        expected = wanted(source, folder)
        (folder / ".out.jsonl.partial").write_text("of a run killed before its first journal")
        (folder / ".out.jsonl.journal.new").write_text("{")
        file = go(source, folder / "out.jsonl", resume=True)
        assert file.discarded == 0
        assert (folder / "out.jsonl").read_bytes() == expected
        assert only(folder) == ["out.jsonl"]

    def test_killed_between_its_last_steps(self, source: Path, folder: Path) -> None:
        """A journal alone: the file has its name already, or is gone."""
        expected = wanted(source, folder)
        stopped(source, folder / "out.jsonl", 2)
        (folder / ".out.jsonl.partial").unlink()
        go(source, folder / "out.jsonl", resume=True)
        assert (folder / "out.jsonl").read_bytes() == expected
        assert only(folder) == ["out.jsonl"]

    def test_discarding_alone(self, source: Path, folder: Path) -> None:
        assert discard(str(folder / "out.jsonl")) == 0
        stopped(source, folder / "out.jsonl", 2)
        assert discard(str(folder / "out.jsonl")) == 6
        assert only(folder) == []
        (folder / ".out.jsonl.journal").write_text("{")
        assert discard(str(folder / "out.jsonl")) == 0
        assert only(folder) == []


# Every way to lose a machine. `Machine` stands in for `os` in the modules that write, and counts the calls that
# change something; at one of them it stops the world.

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


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), windows=st.integers(1, 3), format_name=st.sampled_from(output.FORMATS))
def test_any_partial_file_and_any_journal(
    source: Path, tmp_path: Path, data: st.DataObject, windows: int, format_name: str
) -> None:
    """A longer partial file is cut off, a shorter one refused; a changed journal is refused or changes nothing."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "any"
        folder.mkdir()
        stack.callback(shutil.rmtree, folder)
        expected = wanted(source, folder, format_name)
        target, partial = folder / "out.jsonl", folder / ".out.jsonl.partial"
        stopped(source, target, windows, torn=data.draw(st.binary(max_size=20)), format_name=format_name)
        size = json.loads((folder / ".out.jsonl.journal").read_text())["size"]
        kept = data.draw(st.integers(0, partial.stat().st_size))
        os.truncate(partial, kept)
        if data.draw(st.booleans()):
            path = folder / ".out.jsonl.journal"
            text = bytearray(path.read_bytes())
            place = data.draw(st.integers(0, len(text) - 1))
            text[place] = data.draw(st.integers(0, 255))
            path.write_bytes(text[: data.draw(st.integers(0, len(text)))])
        try:
            go(source, target, resume=True, format_name=format_name)
        except InputError:
            assert not target.exists()
            go(source, target, format_name=format_name)
        else:
            assert kept >= size
        assert target.read_bytes() == expected
        assert only(folder) == ["out.jsonl"]


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
