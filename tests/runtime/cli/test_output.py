"""What `torchless run` writes, and that a file is written whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from torchless.cli import atomic, output
from torchless.cli.output import ResultWriter, whole_file
from torchless.errors import InputError
from torchless.records import Record, open_records

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")

NICE = {"label": "POSITIVE", "score": 0.99}
POOR = {"label": "NEGATIVE", "score": 0.01}


def record(text: str, text_pair: str | None = None, **columns: Any) -> Record:
    return Record(text, text_pair, columns, 1)


def written(records: list[Record], results: list[Any], format_name: str = "jsonl", **options: Any) -> str:
    """Return what is written to standard output."""
    stdout = io.BytesIO()
    with ResultWriter(None, format_name, stdout=stdout, **options) as writer:
        for item, result in zip(records, results, strict=True):
            writer.write(item, result)
    assert not stdout.closed
    return stdout.getvalue().decode()


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message: str = error.value.args[0]
    assert "\n" not in message
    return message


class TestJsonLines:
    def test_one_label(self) -> None:
        found = written([record("a"), record('"é\n\u2028')], [NICE, POOR])
        assert found == (
            '{"text": "a", "label": "POSITIVE", "score": 0.99}\n'
            '{"text": "\\"é\\n\u2028", "label": "NEGATIVE", "score": 0.01}\n'
        )

    def test_top_k(self) -> None:
        found = written([record("a"), record("b")], [[NICE, POOR], [POOR]], top_k=2)
        assert found == (
            '{"text": "a", "scores": [{"label": "POSITIVE", "score": 0.99}, {"label": "NEGATIVE", "score": 0.01}]}\n'
            '{"text": "b", "scores": [{"label": "NEGATIVE", "score": 0.01}]}\n'
        )

    def test_pair_and_columns(self) -> None:
        item = record("a", "b", n={"k": [None, 1.5, "é"]}, id=7, unasked=0)
        assert written([item], [NICE], pair=True, columns=["id", "n"]) == (
            '{"text": "a", "text_pair": "b", "id": 7, "n": {"k": [null, 1.5, "é"]}, '
            '"label": "POSITIVE", "score": 0.99}\n'
        )

    @pytest.mark.parametrize("top_k", [None, 1, 2])
    @given(text=st.text(st.characters()), pair=st.text(), column=st.text() | st.floats(), score=st.floats(0, 1))
    def test_is_what_json_makes_of_it(self, top_k: int | None, text: str, pair: str, column: Any, score: float) -> None:
        name, label = 'a "b"\n', "é\\"
        given_scores = [{"label": label, "score": score}] * (top_k or 1)
        stdout = io.BytesIO()
        with ResultWriter(None, columns=[name], pair=True, top_k=top_k, stdout=stdout) as writer:
            item = record(text, pair, **{name: column})
            writer.write_all([item, item], [given_scores if top_k else given_scores[0]] * 2)
        fields = {"text": text, "text_pair": pair, name: column}
        fields |= {"scores": given_scores} if top_k else given_scores[0]
        line = json.dumps(fields, ensure_ascii=False) + "\n"
        assert stdout.getvalue() == (line * 2).encode("utf-8", "backslashreplace")

    def test_a_lone_surrogate_comes_back(self) -> None:
        found = written([record("a\ud800é", m={"\udfff": "\udc00"})], [NICE], columns=["m"])
        assert '"a\\ud800é"' in found
        assert json.loads(found)["text"] == "a\ud800é"
        assert json.loads(found)["m"] == {"\udfff": "\udc00"}

    @pytest.mark.parametrize("format_name", ["jsonl", "csv"])
    def test_a_column_nested_too_deeply(self, format_name: str) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(InputError, match=r"line 1: .*nested too deeply") as error:
            written([record("a", m=deep)], [NICE], format_name, columns=["m"])
        one_line(error)
        while deep:  # taken apart here, as freeing it at once would recurse
            deep = deep.pop()


class TestTables:
    def test_csv(self) -> None:
        items = [record("a"), record('b, "c"\n'), record(" d\re\ttab"), record("")]
        assert written(items, [NICE, POOR, NICE, POOR], "csv") == (
            'text,label,score\na,POSITIVE,0.99\n"b, ""c""\n",NEGATIVE,0.01\n'
            '" d\re\ttab",POSITIVE,0.99\n,NEGATIVE,0.01\n'
        )

    def test_tsv(self) -> None:
        items = [record('a "b", c'), record("d\te\r\nf\ng\0h")]
        assert written(items, [NICE, POOR], "tsv") == (
            'text\tlabel\tscore\na "b", c\tPOSITIVE\t0.99\nd e  f g h\tNEGATIVE\t0.01\n'
        )

    def test_a_nul_becomes_a_space_in_csv(self) -> None:
        assert "a b" in written([record("a\0b")], [NICE], "csv")

    def test_a_lone_surrogate(self) -> None:
        assert "a\\ud800," in written([record("a\ud800")], [NICE], "csv")

    @pytest.mark.parametrize(("format_name", "separator"), [("csv", ","), ("tsv", "\t")])
    def test_top_k(self, format_name: str, separator: str) -> None:
        items = [record("a", "b", id=1), record("c", "d", id=2), record("e", "f", id=3)]
        found = written(items, [[NICE, POOR], [POOR], []], format_name, top_k=2, pair=True, columns=["id"])
        assert found.replace(separator, "|").splitlines() == [
            "text|text_pair|id|label_1|score_1|label_2|score_2",
            "a|b|1|POSITIVE|0.99|NEGATIVE|0.01",
            "c|d|2|NEGATIVE|0.01||",
            "e|f|3||||",
        ]

    def test_top_1_is_numbered_too(self) -> None:
        assert written([record("a")], [[NICE]], "csv", top_k=1) == "text,label_1,score_1\na,POSITIVE,0.99\n"

    def test_columns_that_are_not_strings_are_json(self) -> None:
        item = record("a", s="1", n=1, x=None, m={"é": ["b", True]})
        assert written([item], [NICE], "tsv", columns=["s", "n", "x", "m"]).splitlines()[1] == (
            'a\t1\t1\tnull\t{"é": ["b", true]}\tPOSITIVE\t0.99'
        )

    def test_names_and_labels_are_quoted_too(self) -> None:
        item = record("a", **{"b,c": "d"})
        found = written([item], [{"label": "e,f", "score": 0.5}], "csv", columns=["b,c"])
        assert found == 'text,"b,c",label,score\na,d,"e,f",0.5\n'

    def test_no_result_at_all(self) -> None:
        assert written([], [], "csv") == "text,label,score\n"
        assert written([], []) == ""


@pytest.mark.parametrize("format_name", output.FORMATS)
@pytest.mark.parametrize("score", [0.1 + 0.2, 1e-17, 1.0, 0.0, 5e-324, 0.9999999403953552])
def test_a_score_reads_back_as_the_same_float(format_name: str, score: float) -> None:
    found = written([record("a")], [{"label": "x", "score": score}], format_name)
    assert repr(score) in found


class TestArguments:
    def test_format(self) -> None:
        with pytest.raises(InputError, match="format 'xml'; wanted one of jsonl, csv, tsv"):
            ResultWriter(None, "xml")

    @pytest.mark.parametrize("name", ["text", "text_pair", "label", "score", "scores"])
    @pytest.mark.parametrize("format_name", output.FORMATS)
    def test_a_column_cannot_take_a_name_of_the_output(self, name: str, format_name: str) -> None:
        with pytest.raises(InputError, match=f"column '{name}' cannot be added") as error:
            ResultWriter(None, format_name, columns=["id", name])
        one_line(error)

    def test_numbered_names_are_taken_with_top_k(self) -> None:
        ResultWriter(None, "csv", columns=["label_1", "score_2"])
        ResultWriter(None, "csv", columns=["label_3", "label_0"], top_k=2)
        for name in ("label_1", "score_2"):
            with pytest.raises(InputError, match=f"column '{name}'"):
                ResultWriter(None, "csv", columns=[name], top_k=2)

    def test_a_column_is_given_once(self) -> None:
        with pytest.raises(InputError, match="column 'id'"):
            ResultWriter(None, columns=["id", "id"])

    def test_more_labels_than_promised(self) -> None:
        with pytest.raises(ValueError, match="3 labels; wanted at most 2"):
            written([record("a")], [[NICE, POOR, POOR]], top_k=2)
        with pytest.raises(ValueError, match="2 labels; wanted at most 1"):
            written([record("a")], [[NICE, POOR]])

    def test_writing_outside_the_with_statement(self, tmp_path: Path) -> None:
        writer = ResultWriter(str(tmp_path / "out"))
        with pytest.raises(ValueError, match="not open"):
            writer.write(record("a"), NICE)
        with writer:
            pass
        with pytest.raises(ValueError, match="not open"):
            writer.write(record("a"), NICE)


def write_one(target: Path | str, **options: Any) -> None:
    with ResultWriter(str(target), **options) as writer:
        writer.write(record("a"), NICE)


def write_one_to(stdout: BinaryIO, format_name: str) -> None:
    with ResultWriter(None, format_name, stdout=stdout) as writer:
        writer.write(record("a"), NICE)


def write_many(target: Path, count: int, error: BaseException | None = None, **options: Any) -> None:
    """Write `count` results, then raise `error`."""
    with ResultWriter(str(target), **options) as writer:
        for _ in range(count):
            writer.write(record("a"), NICE)
        if error:
            raise error


LINE = '{"text": "a", "label": "POSITIVE", "score": 0.99}\n'


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that was there before."""
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    return path


def only(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


class TestWholeFile:
    def test_appears_when_complete(self, tmp_path: Path) -> None:
        target = tmp_path / "out.jsonl"
        with ResultWriter(str(target)) as writer:
            writer.write(record("a"), NICE)
            assert not target.exists()
            (partial,) = only(tmp_path)
            assert partial.startswith(f".out.jsonl.{os.getpid()}-")
            assert partial.endswith(".partial")
        assert only(tmp_path) == ["out.jsonl"]
        assert target.read_text() == LINE

    def test_many_results_are_written_in_one_piece(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pieces: list[int] = []

        class Counting(io.FileIO):
            def write(self, data: Any) -> int:
                pieces.append(len(data))
                return super().write(data)

        monkeypatch.setattr(atomic, "open", lambda path, _mode: Counting(path, "xb"), raising=False)
        with ResultWriter(str(tmp_path / "out")) as writer:
            writer.write_all([record("a")] * 3, [NICE] * 3)
            writer.write_all([], [])
        assert pieces == [3 * len(LINE)]
        assert (tmp_path / "out").read_text() == 3 * LINE

    def test_a_result_for_each_record(self, tmp_path: Path) -> None:
        with ResultWriter(str(tmp_path / "out")) as writer, pytest.raises(ValueError, match="shorter"):
            writer.write_all([record("a")] * 2, [NICE])

    def test_replaces_an_old_file_when_complete(self, old: Path) -> None:
        with ResultWriter(str(old)) as writer:
            writer.write(record("a"), NICE)
            assert old.read_text() == "old\n"
        assert old.read_text() == LINE
        assert only(old.parent) == [old.name]

    def test_may_replace_the_input(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "a"}\n{"text": "b"}\n')
        with open_records(str(path)) as reader, ResultWriter(str(path)) as writer:
            for item in reader:
                writer.write(item, NICE)
        assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["a", "b"]

    def test_is_relative_to_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write_one("out.jsonl")
        assert only(tmp_path) == ["out.jsonl"]

    @pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "𝄞" * 63, ".hidden", "a b\n.jsonl", "-"])
    def test_any_name(self, tmp_path: Path, name: str) -> None:
        write_one(tmp_path / name)
        assert only(tmp_path) == [name]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, InputError, RuntimeError, OSError, GeneratorExit])
    @pytest.mark.parametrize("count", [0, 1, 10_000])
    def test_an_exception_leaves_the_old_file(self, old: Path, error: type[BaseException], count: int) -> None:
        raised = error("x")
        with pytest.raises(error) as caught:
            write_many(old, count, raised, format_name="csv")
        assert caught.value is raised
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    def test_an_exception_leaves_no_file_where_there_was_none(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), ResultWriter(str(tmp_path / "out")):
            raise KeyboardInterrupt
        assert only(tmp_path) == []

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
    def test_failing_to_finish_leaves_the_old_file(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
    ) -> None:
        def fail(*_arguments: object) -> None:
            raise error

        monkeypatch.setattr(os, step, fail)
        with pytest.raises((InputError, KeyboardInterrupt)) as caught:
            write_one(old)
        assert isinstance(caught.value, KeyboardInterrupt) or os.strerror(errno.ENOSPC) in str(caught.value)
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    def test_is_synced_before_it_is_renamed(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        steps: list[str] = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            status = os.fstat(descriptor)
            steps.append("sync folder" if stat.S_ISDIR(status.st_mode) else f"sync {status.st_size}")
            fsync(descriptor)

        def replaced(source: str, target: str) -> None:
            steps.append("rename")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", replaced)
        write_one(old)
        assert steps == [f"sync {len(LINE)}", "rename", *["sync folder"] * hasattr(os, "O_DIRECTORY")]

    def test_a_folder_that_cannot_be_synced_is_no_error(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fsync = os.fsync

        def fail(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        write_one(old)
        assert old.read_text() == LINE

    def test_a_full_disk(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(io.FileIO):
            def write(self, data: Any) -> int:
                if self.tell() + len(data) > 50_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        monkeypatch.setattr(atomic, "open", lambda path, _mode: io.BufferedWriter(Full(path, "xb")), raising=False)
        with pytest.raises(InputError) as error:
            write_many(old, 10_000)
        assert one_line(error).startswith(f"{old}: cannot be written ({os.strerror(errno.ENOSPC)})")
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    @pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes here")
    def test_a_real_limit_of_the_system(self, old: Path) -> None:
        script = (
            "import resource, sys\n"
            "from torchless.cli.output import ResultWriter\n"
            "from torchless.records import Record\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
            "with ResultWriter(sys.argv[1]) as writer:\n"
            "    for _ in range(1000):\n"
            "        writer.write(Record('a', None, {}, 1), {'label': 'x', 'score': 1.0})\n"
        )
        done = subprocess.run([sys.executable, "-c", script, old], capture_output=True, text=True, check=False)
        assert "torchless.errors.InputError" in done.stderr
        assert os.strerror(errno.EFBIG) in done.stderr
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    @posix
    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
    def test_permissions_are_those_of_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            write_one(tmp_path / "out")
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(tmp_path / "out").st_mode) == 0o666 & ~umask

    @posix
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
    def test_permissions_of_an_old_file_stay(self, old: Path, mode: int) -> None:
        old.chmod(mode)
        with ResultWriter(str(old)):
            (partial,) = set(only(old.parent)) - {old.name}
            assert stat.S_IMODE(os.stat(old.parent / partial).st_mode) == mode
        assert stat.S_IMODE(old.stat().st_mode) == mode

    @posix
    def test_a_link_stays_and_its_file_is_replaced(self, old: Path) -> None:
        folder = old.parent / "folder"
        folder.mkdir()
        link = folder / "link"
        link.symlink_to("../out.jsonl")
        with ResultWriter(str(link)):
            assert only(folder) == ["link"]
        assert link.is_symlink()
        assert not old.is_symlink()
        assert old.read_text() == ""
        assert only(folder) == ["link"]

    @posix
    def test_a_link_to_a_file_that_is_not_there_yet(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("new")
        write_one(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "new").read_text() == LINE

    @posix
    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(InputError, match="cannot be written"):
            write_one(tmp_path / "a")
        assert only(tmp_path) == ["a", "b"]

    def test_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        for target in (str(tmp_path / "out"), str(tmp_path / "new") + "/", "", str(tmp_path / "out" / ".")):
            with pytest.raises(InputError, match=os.strerror(errno.EISDIR)) as error:
                write_one(target)
            assert one_line(error).startswith(f"{target}: cannot be written")
        assert only(tmp_path) == ["out"]

    def test_no_directory(self, old: Path) -> None:
        with pytest.raises(InputError, match=os.strerror(errno.ENOENT)):
            write_one(old.parent / "missing" / "out")
        with pytest.raises(InputError, match=os.strerror(errno.ENOTDIR) if os.name == "posix" else ""):
            write_one(old / "out")

    def test_a_nul_in_the_name(self) -> None:
        with pytest.raises(InputError, match=r"cannot be written .*null"):
            write_one("a\0b")

    @posix
    def test_nothing_is_written_through_a_link_laid_in_its_way(
        self, old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(secrets, "token_hex", lambda _size: "0" * 8)
        (old.parent / f".out.jsonl.{os.getpid()}-00000000.partial").symlink_to("other")
        (old.parent / "other").write_text("other\n")
        with pytest.raises(InputError, match=os.strerror(errno.EEXIST)):
            write_one(old)
        assert (old.parent / "other").read_text() == "other\n"
        assert old.read_text() == "old\n"

    def test_a_directory_without_write_permission(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_arguments: object) -> BinaryIO:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(atomic, "open", refuse, raising=False)  # root may write everywhere
        with pytest.raises(InputError, match=os.strerror(errno.EACCES)):
            write_one(old)
        assert old.read_text() == "old\n"

    def test_a_file_without_write_permission(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: not (path == os.path.realpath(old) and mode == os.W_OK))
        with pytest.raises(InputError, match=os.strerror(errno.EACCES)):
            write_one(old)
        assert old.read_text() == "old\n"
        assert only(old.parent) == [old.name]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_what_is_no_regular_file_is_never_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with pytest.raises(InputError, match="not a regular file"), whole_file(str(path)):
            pass
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert only(tmp_path) == ["pipe"]

    def test_alone(self, old: Path) -> None:
        with whole_file(str(old)) as file:
            file.write(b"new")
        assert old.read_bytes() == b"new"


class TestStreams:
    def test_standard_output_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stdout = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout, encoding="latin-1"))
        with ResultWriter(None, "csv") as writer:
            writer.write(record("é"), NICE)
        assert stdout.getvalue().decode() == "text,label,score\né,POSITIVE,0.99\n"

    def test_standard_output_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", None)
        with pytest.raises(InputError, match="standard output is closed"), ResultWriter(None):
            pass

    def test_a_line_is_out_once_it_is_written(self) -> None:
        readable, writable = os.pipe()
        with open(readable, "rb") as reader, open(writable, "wb") as stdout:
            stdout.write(b"earlier\n")
            with ResultWriter(None, stdout=stdout) as writer:
                writer.write(record("a"), NICE)
                assert os.read(reader.fileno(), 1000).decode() == "earlier\n" + LINE

    def test_a_line_is_written_in_one_piece(self) -> None:
        """So that what programs write into one pipe, `xargs -P` for one, is mixed by lines."""
        pieces: list[bytes] = []

        class Pipe(io.BytesIO):
            def write(self, data: Any) -> int:
                pieces.append(bytes(data))
                return len(data)

        with ResultWriter(None, stdout=Pipe()) as writer:
            writer.write_all([record("a")] * 3, [NICE] * 3)
        assert pieces == [LINE.encode()] * 3

    def test_what_comes_before_a_broken_result_is_out(self) -> None:
        stdout = io.BytesIO()
        with ResultWriter(None, stdout=stdout) as writer, pytest.raises(ValueError, match="2 labels"):
            writer.write_all([record("a")] * 2, [NICE, [NICE, POOR]])
        assert stdout.getvalue().decode() == LINE

    def test_a_stream_that_takes_a_part(self) -> None:
        class Slow(io.BytesIO):
            def write(self, data: Any) -> int:
                return super().write(bytes(data[:7]))

        stdout = Slow()
        with ResultWriter(None, stdout=stdout) as writer:
            writer.write(record("a"), NICE)
        assert stdout.getvalue().decode() == LINE

    @posix
    def test_a_broken_pipe_is_raised_as_it_is(self) -> None:
        readable, writable = os.pipe()
        os.close(readable)
        with open(writable, "wb") as stdout, pytest.raises(BrokenPipeError):
            write_one_to(stdout, "jsonl")
        # closing it had nothing left to fail with

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
    @pytest.mark.parametrize("format_name", output.FORMATS)
    def test_a_full_device(self, format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "replace")  # whatever is broken, a test run by root must not replace the device
        with pytest.raises(InputError) as error:
            write_one("/dev/full", format_name=format_name)
        assert one_line(error).startswith(f"/dev/full: cannot be written ({os.strerror(errno.ENOSPC)})")
        with open("/dev/full", "wb") as stdout, pytest.raises(InputError) as error:
            write_one_to(stdout, format_name)
        assert one_line(error).startswith(f"standard output: cannot be written ({os.strerror(errno.ENOSPC)})")
        assert stat.S_ISCHR(os.stat("/dev/full").st_mode)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_named_pipe_is_written_directly(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        found: list[str] = []
        reader = threading.Thread(target=lambda: found.append(path.read_text()))
        reader.start()
        write_one(path)
        reader.join()
        assert found == [LINE]
        assert only(tmp_path) == ["pipe"]
        assert stat.S_ISFIFO(path.stat().st_mode)

    @pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no /dev/stdout here")
    @pytest.mark.parametrize("redirection", [">", ">>", "|"])
    def test_dev_stdout_is_standard_output(self, tmp_path: Path, redirection: str) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "from torchless.cli.output import ResultWriter\n"
            "from torchless.records import Record\n"
            "with ResultWriter('/dev/stdout') as writer:\n"
            "    writer.write(Record('a', None, {}, 1), {'label': 'POSITIVE', 'score': 0.99})\n"
        )
        found = tmp_path / "found"
        found.write_text("old\n")
        identity = found.stat().st_ino
        if redirection == "|":
            found.write_bytes(subprocess.run([sys.executable, script], stdout=subprocess.PIPE, check=True).stdout)
        else:
            with open(found, "wb" if redirection == ">" else "ab") as file:
                subprocess.run([sys.executable, script], stdout=file, check=True)
        assert found.read_text() == ("old\n" if redirection == ">>" else "") + LINE
        assert found.stat().st_ino == identity
        assert only(tmp_path) == ["found", "script.py"]


# Properties: what is written reads back, by the readers of others and by our own.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \",\t\n\r'\\é\u2028\x85\0\ufeff"))
SCORES = st.floats(0, 1)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, SCORES), max_size=6)
Rows = list[tuple[str, str, float]]
property_settings = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def both(rows: Rows) -> tuple[list[Record], list[dict[str, Any]]]:
    records = [record(text, label, extra=text + label) for text, label, _ in rows]
    return records, [{"label": label, "score": score} for _, label, score in rows]


@property_settings
@given(rows=ROWS)
def test_jsonl_round_trip(rows: Rows) -> None:
    found = written(*both(rows), pair=True, columns=["extra"])
    assert [json.loads(line) for line in found.split("\n")[:-1]] == [
        {"text": text, "text_pair": label, "extra": text + label, "label": label, "score": score}
        for text, label, score in rows
    ]


@property_settings
@given(rows=ROWS)
def test_csv_round_trip(rows: Rows) -> None:
    found = written(*both(rows), "csv", pair=True, columns=["extra"])
    cells = list(csv.reader(io.StringIO(found, newline=""), strict=True))
    assert cells[0] == ["text", "text_pair", "extra", "label", "score"]
    assert [(*row[:-1], float(row[-1])) for row in cells[1:]] == [
        (*(cell.replace("\0", " ") for cell in (text, label, text + label, label)), score)
        for text, label, score in rows
    ]


@property_settings
@given(rows=ROWS)
def test_tsv_round_trip(rows: Rows) -> None:
    found = written(*both(rows), "tsv", pair=True, columns=["extra"])
    clean: Callable[[str], str] = lambda cell: "".join(" " if c in "\t\n\r\0" else c for c in cell)  # noqa: E731
    cells = [line.split("\t") for line in found.split("\n")[:-1]]
    assert cells[0] == ["text", "text_pair", "extra", "label", "score"]
    assert [(*row[:-1], float(row[-1])) for row in cells[1:]] == [
        (*(clean(cell) for cell in (text, label, text + label, label)), score) for text, label, score in rows
    ]


@pytest.mark.parametrize("format_name", output.FORMATS)
@property_settings
@given(rows=st.lists(st.tuples(TEXTS, TEXTS, SCORES), min_size=1, max_size=6))
@example(rows=[("\0\ufeff", "\r", 0.5)])
def test_records_reads_what_was_written(tmp_path: Path, format_name: str, rows: Rows) -> None:
    path = str(tmp_path / f"out.{format_name}")
    with ResultWriter(path, format_name) as writer:
        for item, result in zip(*both(rows), strict=True):
            writer.write(item, result)
    with open_records(path, columns=["label"]) as reader:
        found = [(item.text, item.columns["label"]) for item in reader]
    lost = {"jsonl": "", "csv": "\0", "tsv": "\0\t\r\n"}[format_name]
    spaces = str.maketrans(lost, " " * len(lost))
    assert found == [(text.translate(spaces), label.translate(spaces)) for text, label, _ in rows]
