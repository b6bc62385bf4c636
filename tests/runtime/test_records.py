"""What `torchless run` reads from: files by their names and standard input, a window at a time, within limits."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_records import Written, failure, texts
from torchless import lines, records
from torchless.errors import InputError
from torchless.records import format_of, open_records


class TestStandardInput:
    def test_is_not_read_on_opening(self) -> None:
        class Unread(io.BytesIO):
            def readline(self, size: int | None = -1) -> bytes:
                raise AssertionError

        open_records("-", stdin=Unread())

    def test_stays_open(self) -> None:
        stdin = io.BytesIO(b"a\n")
        assert texts("-", stdin=stdin) == ["a"]
        assert not stdin.closed

    def test_stays_open_after_an_error(self) -> None:
        stdin = io.BytesIO(b"\xff\n")
        failure("-", stdin=stdin)
        assert not stdin.closed

    def test_is_read_from_sys_stdin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n".encode()), encoding="latin-1"))
        assert texts("-") == ["é"]

    def test_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", None)
        assert "is closed" in str(failure("-"))

    def test_gives_a_record_as_soon_as_its_line_is_there(self) -> None:
        readable, writable = os.pipe()
        with open(readable, "rb") as stdin, open(writable, "wb", buffering=0) as writer:
            reader = iter(open_records("-", stdin=stdin))  # does not wait for a line
            writer.write(b"first\n")
            assert next(reader).text == "first"
            writer.write(b"second\n")
            assert next(reader).text == "second"

    def test_empty(self) -> None:
        assert "no record" in str(failure("-", stdin=io.BytesIO(b"")))

    def test_compressed_is_named(self) -> None:
        assert "gzip -dc" in str(failure("-", stdin=io.BytesIO(gzip.compress(b"a\n"))))

    def test_progress(self) -> None:
        reader = open_records("-", stdin=io.BytesIO(b"abc\nde\n"))
        assert reader.total_bytes is None
        assert reader.bytes_read == 0
        assert next(iter(reader)).text == "abc"
        assert reader.bytes_read == 4


class TestExtensions:
    @pytest.mark.parametrize("name", ["a.JSONL", "a.Csv", "a.TSV.GZ", "a.Txt.Gz", "a.b.txt", "a.csv.txt"])
    def test_are_known_in_any_case(self, written: Written, name: str) -> None:
        content = '"x"\n' if "json" in name.lower() else "x\n"
        assert texts(written(name, content)) == ["x"]

    def test_format_of(self) -> None:
        names = ["-", "a.TXT", "b.jsonl.gz", "c.csv", "d/e.Tsv.GZ"]
        assert [format_of(name) for name in names] == ["txt", "txt", "jsonl", "csv", "tsv"]
        with pytest.raises(InputError, match=r"a\.json: extension '\.json'; wanted \.txt, \.jsonl, \.csv or \.tsv"):
            format_of("a.json")

    @pytest.mark.parametrize("name", ["a.json", "a", "a.gz", "a.txt.bz2", ".csv", "a.csv.gz.gz", "a.txt~"])
    def test_unknown(self, written: Written, name: str) -> None:
        message = str(failure(written(name, "x\n")))
        assert all(known in message for known in (".txt", ".jsonl", ".csv", ".tsv", ".gz"))


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        assert os.strerror(errno.ENOENT) in str(failure(str(tmp_path / "a.txt")))

    def test_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").mkdir()
        assert "cannot be opened" in str(failure(str(tmp_path / "a.csv")))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
    def test_unreadable(self, written: Written) -> None:
        path = written("a.csv", "a\n")
        os.chmod(path, 0)
        assert os.strerror(errno.EACCES) in str(failure(path))

    def test_a_nul_in_the_name(self) -> None:
        with pytest.raises(InputError, match=r"cannot be opened .*null"):
            open_records("a\0.txt")

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.txt.gz"])
    def test_empty(self, written: Written, name: str) -> None:
        assert "no record" in str(failure(written(name, "")))

    @pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
    def test_only_blank_lines(self, written: Written, name: str) -> None:
        assert "no record" in str(failure(written(name, "\n\r\n\n")))

    def test_an_empty_gzip_file_of_no_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt.gz").touch()
        assert "no record" in str(failure(str(tmp_path / "a.txt.gz")))

    def test_what_the_first_record_shows_is_raised_on_opening(self, written: Written) -> None:
        for name, content in [("a.csv", "a,b\n"), ("a.jsonl", "x\n"), ("a.txt", "\0"), ("b.txt", "")]:
            with pytest.raises(InputError):
                open_records(written(name, content), column=None if name.endswith("txt") else "review")

    def test_nothing_is_left_open_after_an_error(self, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        file = open(written("a.jsonl", "x"), "rb")  # noqa: SIM115 - what is tested
        monkeypatch.setattr(records, "_open", lambda _path, _stdin: file)
        failure(file.name)
        assert file.closed

    def test_closing(self, written: Written) -> None:
        with open_records(written("a.txt", "a\nb\n")) as reader:
            rows = iter(reader)
            next(rows)
        with pytest.raises(ValueError, match="closed file"):
            next(rows)

    def test_a_second_loop_goes_on(self, written: Written) -> None:
        with open_records(written("a.txt", "a\nb\nc\n")) as reader:
            assert [record.text for record in itertools.islice(reader, 2)] == ["a", "b"]
            assert [record.text for record in reader] == ["c"]

    @pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
    def test_progress(self, written: Written, name: str) -> None:
        path = written(name, os.urandom(200_000).hex().replace("0", "0\n"))
        with open_records(path) as reader:
            assert reader.name == path
            assert reader.total_bytes == os.path.getsize(path)
            seen = [reader.bytes_read for _ in reader]
            assert seen == sorted(seen)
            assert seen[0] < reader.total_bytes / 2
            assert reader.bytes_read == reader.total_bytes

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_named_pipe(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(b"text\na\n",))
        writer.start()
        with open_records(str(path)) as reader:
            assert reader.total_bytes is None
            assert [record.text for record in reader] == ["a"]
        writer.join()

    def test_a_read_error_midway(self) -> None:
        class Failing(io.BytesIO):
            def readline(self, size: int | None = -1) -> bytes:
                if self.tell() >= 4:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return super().readline(size)

        error = failure("-", stdin=Failing(b"a\nb\nc\n"))
        assert f"line 3: cannot be read further ({os.strerror(errno.EIO)})" in str(error)
        assert error.index == 2


class TestTaking:
    def test_by_count(self, written: Written) -> None:
        with open_records(written("a.txt", "".join(f"{i}\n" for i in range(7)))) as reader:
            taken = [[record.text for record in reader.take(3)] for _ in range(4)]
        assert taken == [["0", "1", "2"], ["3", "4", "5"], ["6"], []]

    def test_reads_no_further(self) -> None:
        lines_ = iter([b"a\n", b"b\n"])

        class Pipe(io.BytesIO):
            def readline(self, size: int | None = -1) -> bytes:
                return next(lines_)  # StopIteration: read too far

        assert [record.text for record in open_records("-", stdin=Pipe()).take(2)] == ["a", "b"]

    @pytest.mark.parametrize(("multiple", "expected"), [(1, [3, 2, 2, 1]), (2, [4, 2, 2]), (5, [5, 3])])
    def test_fewer_long_ones(
        self, written: Written, monkeypatch: pytest.MonkeyPatch, multiple: int, expected: list[int]
    ) -> None:
        monkeypatch.setattr(records, "MAX_TAKEN", 200)
        # The first was read on opening, so its bytes do not count.
        with open_records(written("a.txt", ("x" * 99 + "\n") * 8)) as reader:
            taken = [len(reader.take(6, multiple=multiple)) for _ in expected]
            assert reader.take(1) == []
        assert taken == expected

    @given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=40), done=st.integers(0, 5), block=st.integers(1, 7))
    def test_the_same_after_any_records_taken_otherwise(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], done: int, block: int
    ) -> None:
        """A run that is gone on with reads what is done in other blocks, and takes the same windows after it."""
        path = tmp_path_factory.mktemp("taken") / "a.csv"
        path.write_text("text\n" + "".join(f'"{size}\n{"x" * size}"\n\n' for size in sizes), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(records, "MAX_TAKEN", 60)
            with open_records(str(path)) as reader:
                windows = list(iter(lambda: reader.take(5), []))
            with open_records(str(path)) as reader:
                left = sum(map(len, windows[:done]))
                while left:
                    left -= len(reader.take(min(left, block)))
                assert list(iter(lambda: reader.take(5), [])) == windows[done:]


class TestLimits:
    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.jsonl.gz"])
    def test_a_line_over_the_limit(self, written: Written, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(lines, "MAX_LINE", 100)
        long = '"' + "x" * 97 + '"\n'
        assert len(texts(written(name, long * 2))) == 2
        error = failure(written(name, long + "y" + long))
        assert "line 2: over 100 bytes" in str(error)
        assert error.index == 1

    def test_a_bomb_is_not_unpacked_into_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "MAX_LINE", 2**20)
        path = tmp_path / "a.txt.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(64):
                file.write(b" " * 2**20)
        tracemalloc.start()
        failure(str(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * 2**20

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
    def test_memory_is_constant(self, written: Written, name: str) -> None:
        path = written(name, f"{json.dumps('x' * 997)}\n" * 5_000)
        tracemalloc.start()
        with open_records(path) as reader:
            assert sum(1 for _ in reader) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20
