"""That a run can be stopped anywhere and gone on with, and the file is the same in the end."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from file_system import only, posix
from resumable_runs import FOUND_BESIDE, RECORDS, SETTINGS, WINDOW, StopError, go, stopped, wanted, write_source
from torchless.cli import output, resume
from torchless.cli.journal import Journal
from torchless.cli.resume import ResumableFile, discard
from torchless.records import open_records

pytestmark = pytest.mark.usefixtures("saved_every_window")


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
