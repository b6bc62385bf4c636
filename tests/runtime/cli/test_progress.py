"""What a person sees of a long run."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from torchless.cli.progress import Progress, describe
from torchless.records import open_records

LINES = 1000
CONTENT = b"a text of some words\n" * LINES


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((40960, 28281.4, 34.2), "40960 texts, 28281/s, 00:34 left"),
        ((1, 0.0423, 86400.0 * 2), "1 texts, 0.042/s, 48:00:00 left"),
        ((32, 9.96, None), "32 texts, 10/s"),
        ((32, 9.4, 0.0), "32 texts, 9.4/s, 00:00 left"),
    ],
)
def test_describe(arguments: tuple[int, float, float | None], expected: str) -> None:
    assert describe(*arguments) == expected


class TestLines:
    """Where standard error is no terminal."""

    def test_one_every_30_seconds(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path, clock = tmp_path / "texts.txt", Clock()
        path.write_bytes(CONTENT)
        said = []
        with open_records(str(path)) as reader, Progress(reader, bar=False, clock=clock) as progress:
            for done in range(100, LINES + 1, 100):
                assert len(reader.take(100)) == 100
                clock.now += 16
                progress.update(done)
                said.append(capsys.readouterr().err)
        assert "".join(said[:1]) == ""
        assert said[1] == "texts.txt: 20 %, 200 texts, 6.2/s, 02:08 left\n"
        assert [bool(line) for line in said] == [False, True] * 5
        assert said[-1] == "texts.txt: 100 %, 1000 texts, 6.2/s, 00:00 left\n"

    def test_what_was_done_before_has_no_part_in_the_rate(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, clock = tmp_path / "texts.txt", Clock()
        path.write_bytes(CONTENT)
        with open_records(str(path)) as reader, Progress(reader, bar=False, clock=clock) as progress:
            reader.take(500)
            clock.now += 31
            progress.again()
            assert capsys.readouterr().err == "texts.txt: 50 %, reading again what is done\n"
            progress.start(500)
            reader.take(100)
            clock.now += 50
            progress.update(600)
            assert capsys.readouterr().err == "texts.txt: 60 %, 600 texts, 2/s, 03:20 left\n"

    def test_of_a_compressed_file_the_compressed_bytes_count(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, clock = tmp_path / "texts.txt.gz", Clock()
        path.write_bytes(gzip.compress(os.urandom(200_000).hex().encode() + b"\n" + b"a\n" * 100))
        with open_records(str(path)) as reader, Progress(reader, bar=False, clock=clock) as progress:
            reader.take(1)
            share = 100 * reader.bytes_read // path.stat().st_size
            assert share > 50
            clock.now += 30
            progress.update(1)
        assert capsys.readouterr().err.startswith(f"texts.txt.gz: {share} %, 1 texts, 0.033/s")

    def test_of_a_pipe_the_size_is_not_known(self, capsys: pytest.CaptureFixture[str]) -> None:
        clock = Clock()
        reader = open_records("-", stdin=io.BytesIO(CONTENT))
        with Progress(reader, bar=False, clock=clock) as progress:
            reader.take(60)
            clock.now += 30
            progress.update(60)
        assert capsys.readouterr().err == "standard input: 60 texts, 2/s\n"

    def test_a_name_cannot_write_on_the_terminal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path, clock = tmp_path / "a\x1b[2J\nb.txt", Clock()
        path.write_bytes(CONTENT)
        with open_records(str(path)) as reader, Progress(reader, bar=False, clock=clock) as progress:
            clock.now += 30
            progress.update(1)
        assert capsys.readouterr().err.startswith("a\\x1b[2J b.txt: ")

    def test_standard_error_closed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, clock = tmp_path / "texts.txt", Clock()
        path.write_bytes(CONTENT)
        monkeypatch.setattr(sys, "stderr", None)
        with open_records(str(path)) as reader, Progress(reader, clock=clock) as progress:
            clock.now += 30
            progress.update(1)


@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals here")
class TestBar:
    """Where it is one."""

    def on_a_terminal(self, *arguments: str | Path, stdout: int | None = subprocess.DEVNULL) -> str:
        """Return what `torchless` draws on a terminal of 100 columns as its standard error."""
        import fcntl
        import pty
        import struct
        import termios

        terminal, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        drawn: list[bytes] = []

        def read() -> None:
            try:
                while data := os.read(terminal, 65536):
                    drawn.append(data)
            except OSError:  # Linux's way to say that the other end is closed
                pass

        reader = threading.Thread(target=read)
        command = [sys.executable, "-m", "torchless", *map(str, arguments)]
        with subprocess.Popen(command, stderr=end, stdout=end if stdout is None else stdout) as process:
            os.close(end)
            reader.start()
            assert process.wait(120) == 0
        reader.join()
        os.close(terminal)
        return b"".join(drawn).decode()

    def test_shows_share_texts_rate_and_time_left(self, sample_bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "texts.txt"
        path.write_text("".join(f"a film for {i} people\n" for i in range(20_000)), encoding="utf-8")
        drawn = self.on_a_terminal("run", sample_bundle, "--input", path, "--output", tmp_path / "out.jsonl")
        pictures = drawn.split("\r")
        assert any(
            re.fullmatch(r"texts\.txt:  [2468]\d%\|.+\| \d+ texts, [\d.]+/s, \d\d:\d\d left *", picture)
            for picture in pictures
        ), pictures
        assert all(len(picture) <= 100 for picture in pictures[:-2])
        # At the end the bar is wiped away and the closing line stands alone.
        assert re.fullmatch(r"\r? *\r20000 texts to \S+ in [\d.]+ s \(\d+/s\), \w+, 0 cut at 512 tokens\r\n",
                            drawn[drawn.rindex("\r ") :])  # fmt: skip

    def test_none_between_answers_on_the_same_terminal(self, sample_bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "texts.txt"
        path.write_text("a film\n" * 5_000, encoding="utf-8")
        drawn = self.on_a_terminal("run", sample_bundle, "--input", path, stdout=None)
        assert drawn.count('{"text": "a film"') == 5_000
        assert "%|" not in drawn

    def test_of_a_pipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        reader = open_records("-", stdin=io.BytesIO(CONTENT))
        clock = Clock()
        with Progress(reader, bar=True, clock=clock) as progress:
            reader.take(60)
            clock.now += 2
            progress._bar.last_print_t -= 1  # type: ignore[union-attr]  # which has a clock of its own
            progress.update(60)
            assert "standard input: 60 texts, 30/s" in sys.stderr.getvalue()  # type: ignore[attr-defined]
