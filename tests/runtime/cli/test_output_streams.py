"""What `torchless run` writes to standard output, pipes and devices: whole lines, at once, or one error."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from file_system import only, posix
from torchless.cli import output
from torchless.cli.output import ResultWriter
from torchless.errors import InputError
from written_results import LINE, NICE, POOR, one_line, record, write_one


def write_one_to(stdout: BinaryIO, format_name: str) -> None:
    with ResultWriter(None, format_name, stdout=stdout) as writer:
        writer.write(record("a"), NICE)


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
