"""`torchless run` on big files: in constant memory, and gone on with after any interruption."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from file_system import only, posix
from resumable_runs import FOUND_BESIDE
from torchless.cli.resume import ResumableFile
from torchless.cli.run import windows
from torchless.records import RecordReader, open_records
from untraced import UNTRACED

Result = subprocess.CompletedProcess[str]

WINDOW = 4096
LINES = 4 * WINDOW + 500
WORDS = ("the", "a", "film", "plot", "is", "was", "not", "never", "good", "bad", "dull", "very", "so", "and", "but")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "torchless", "run", *map(str, arguments)]


def run(*arguments: str | Path) -> Result:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)


def done(*arguments: str | Path) -> str:
    """Run, and return what was said of it."""
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return result.stderr


def records_done(folder: Path) -> int:
    count: int = json.loads((folder / ".out.jsonl.journal").read_text())["records"]
    return count


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 16,884 short lines of unlike lengths, a few of them too long for the model."""
    path = tmp_path_factory.mktemp("big") / "texts.txt"
    chance = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        for i in range(LINES):
            count = 600 if i % 8_000 == 99 else chance.randint(1, 12)
            file.write(" ".join(chance.choices(WORDS, k=count)) + "\n")
    return path


@pytest.fixture(scope="module")
def uninterrupted(sample_bundle: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run that nothing interrupts writes, in int8: there a score depends on the texts of its batch."""
    target = tmp_path_factory.mktemp("whole") / "out.jsonl"
    said = done(sample_bundle, "--input", source, "--output", target, "--variant", "int8")
    assert f"{LINES} texts to {target} in " in said
    assert said.endswith("int8, 3 cut at 512 tokens\n")
    assert only(target.parent) == ["out.jsonl"]
    return target.read_bytes()


def stop(
    arguments: list[str | Path], folder: Path, number: int, *, after: int = 1, delay: float = 0.0
) -> subprocess.CompletedProcess[str]:
    """Run, and send the signal `delay` seconds after `after` records are done by the journal, or written if 0."""
    end = time.monotonic() + 120
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, env=UNTRACED) as process:
        while process.poll() is None and time.monotonic() < end:
            try:
                if records_done(folder) >= after:
                    break
            except (FileNotFoundError, ValueError):
                pass
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, "", said)


@posix
class TestInterrupted:
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_by_a_signal(
        self, sample_bundle: Path, source: Path, uninterrupted: bytes, tmp_path: Path, number: int, status: int
    ) -> None:
        target = tmp_path / "out.jsonl"
        target.write_text("old\n")
        arguments = [sample_bundle, "--input", source, "--output", target, "--variant", "int8"]
        stopped = stop(arguments, tmp_path, number)
        assert stopped.returncode == status, stopped.stderr
        count = records_done(tmp_path)
        assert count % WINDOW == 0
        said = f"{count} texts are done and kept; the same command with --resume goes on"
        assert stopped.stderr.splitlines()[-2:] == (["interrupted", said] if number == signal.SIGINT else [said][-1:])
        assert target.read_text() == "old\n"
        assert only(tmp_path) == [*FOUND_BESIDE, "out.jsonl"]
        said = done(*arguments, "--resume")
        assert said.startswith(f"{target}: going on after {count} texts\n")
        assert f"{LINES} texts to {target}, the last {LINES - count} in " in said
        assert said.endswith("int8, 3 cut at 512 tokens\n")
        assert target.read_bytes() == uninterrupted
        assert only(tmp_path) == ["out.jsonl"]

    @pytest.mark.parametrize("seed", range(3))
    def test_killed_again_and_again(
        self, sample_bundle: Path, source: Path, uninterrupted: bytes, tmp_path: Path, seed: int
    ) -> None:
        chance = random.Random(seed)
        target = tmp_path / "out.jsonl"
        arguments: list[str | Path] = [
            sample_bundle, "--input", source, "--output", target, "--variant", "int8", "--resume",
        ]  # fmt: skip
        before, kills = 0, 0
        while kills < 4:
            # The first time as soon as something is done, lest a fast machine finish; then at any moment.
            ahead, delay = (chance.choice([0, 1]), chance.uniform(0, 0.7)) if kills else (1, 0)
            stopped = stop(arguments, tmp_path, signal.SIGKILL, after=before + ahead, delay=delay)
            if stopped.returncode == 0:
                break
            assert stopped.returncode == -signal.SIGKILL
            kills += 1
            if (tmp_path / FOUND_BESIDE[0]).exists():
                assert records_done(tmp_path) >= before
                before = records_done(tmp_path)
        else:
            done(*arguments)
        assert kills
        assert target.read_bytes() == uninterrupted
        assert only(tmp_path) == ["out.jsonl"]

    def test_by_a_file_size_limit(
        self, sample_bundle: Path, source: Path, uninterrupted: bytes, tmp_path: Path
    ) -> None:
        target = tmp_path / "out.jsonl"
        arguments = [sample_bundle, "--input", source, "--output", target, "--variant", "int8"]
        script = (
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
            "from torchless.cli import main\n"
            "main()\n"
        )
        stopped = subprocess.run(
            [sys.executable, "-c", script, *command(*arguments)[3:]], capture_output=True, text=True, check=False
        )
        assert stopped.returncode == 1
        count = records_done(tmp_path)
        assert count == 2 * WINDOW
        assert stopped.stderr.splitlines() == [
            f"error: {target}: cannot be written (File too large); mend that, or give another --output",
            f"{count} texts are done and kept; the same command with --resume goes on",
        ]
        assert f"going on after {count} texts" in done(*arguments, "--resume")
        assert target.read_bytes() == uninterrupted
        assert only(tmp_path) == ["out.jsonl"]

    @pytest.mark.parametrize("format_name", ["csv", "tsv"])
    def test_of_compressed_pairs_with_all_options(
        self, sample_bundle: Path, source: Path, tmp_path: Path, format_name: str
    ) -> None:
        table = tmp_path / "pairs.csv.gz"
        lines = source.read_text(encoding="utf-8").splitlines()[: 3 * WINDOW]
        rows = (f'{i},"{line}",{line[::-1]}\n' for i, line in enumerate(lines))
        table.write_bytes(gzip.compress(("id,film,guess\n" + "".join(rows)).encode()))
        folder = tmp_path / "out"
        folder.mkdir()
        # The output's name says its format; what lies beside it has a name of its own.
        arguments = [
            sample_bundle, "--input", table, "--column", "film", "--pair-column", "guess", "--columns", "id",
            "--top-k", "all", "--batch-size", "64", "--format", format_name, "--output",
        ]  # fmt: skip
        done(*arguments, tmp_path / "whole")
        stopped = stop([*arguments, folder / "out.jsonl"], folder, signal.SIGTERM)
        assert stopped.returncode == 143, stopped.stderr
        count = records_done(folder)
        assert f"going on after {count} texts" in done(*arguments, folder / "out.jsonl", "--resume")
        assert (folder / "out.jsonl").read_bytes() == (tmp_path / "whole").read_bytes()
        separator = {"csv": ",", "tsv": "\t"}[format_name]
        header = "text text_pair id label_1 score_1 label_2 score_2".replace(" ", separator)
        found = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")
        assert found.index(header) == 0
        assert found.count(header) == 1

    def test_by_a_broken_line_that_is_mended(self, sample_bundle: Path, tmp_path: Path) -> None:
        source, target = tmp_path / "texts.txt", tmp_path / "out.jsonl"
        good = b"a film\n" * WINDOW
        source.write_bytes(good + b"\xff\n")
        arguments = [sample_bundle, "--input", source, "--output", target]
        result = run(*arguments)
        assert result.returncode == 1
        assert f"error: {source}: line {WINDOW + 1}: byte 0xff" in result.stderr.splitlines()[0]
        assert f"{WINDOW} texts are done and kept" in result.stderr.splitlines()[1]
        source.write_bytes(good + "été\n".encode())
        done(*arguments, "--resume")
        texts = [json.loads(line)["text"] for line in target.read_text(encoding="utf-8").splitlines()]
        assert texts == ["a film"] * WINDOW + ["été"]

    def test_nothing_stays_where_nothing_is_done(self, sample_bundle: Path, tmp_path: Path) -> None:
        source = tmp_path / "texts.csv"
        source.write_text("text\n" + "word\n" * 100 + "word " * 600 + "\n", encoding="utf-8")
        result = run(sample_bundle, "--input", source, "--output", tmp_path / "out.jsonl", "--no-truncation")
        assert result.returncode == 1
        assert result.stderr == (
            f"error: {source}: line 102: this text has 602 tokens, the model's position table holds 512; "
            "leave out --no-truncation to cut it\n"
        )
        assert only(tmp_path) == ["texts.csv"]


class TestResume:
    @pytest.fixture
    def left(self, sample_bundle: Path, tmp_path: Path) -> list[str | Path]:
        """A run stopped by a line that is broken, in a folder with its input; the arguments of it."""
        source = tmp_path / "texts.txt"
        source.write_bytes(b"a film\n" * (WINDOW + 5) + b"\xff\n")
        arguments: list[str | Path] = [sample_bundle, "--input", source, "--output", tmp_path / "out.jsonl"]
        assert run(*arguments).returncode == 1
        assert only(tmp_path) == [*FOUND_BESIDE, "texts.txt"]
        source.write_bytes(b"a film\n" * (WINDOW + 5))
        return arguments

    def test_other_options(self, left: list[str | Path], tmp_path: Path) -> None:
        before = (tmp_path / FOUND_BESIDE[0]).read_bytes()
        for option, says in (
            (["--top-k", "2"], "done with no --top-k, and this run has --top-k 2;"),
            (["--variant", "fp32"], "done with variant int8, and this run has variant fp32;"),
            (["--batch-size", "7"], "done with no --batch-size, and this run has --batch-size 7;"),
            (["--column", "1"], "done with no --column, and this run has --column 1;"),
            (["--no-truncation"], "done with no --no-truncation, and this run has --no-truncation;"),
            (["--format", "csv"], "done with --format jsonl, and this run has --format csv;"),
        ):
            result = run(*left, *option, "--resume")
            assert result.returncode == 1
            assert says in result.stderr
            assert result.stderr.endswith("give the same, or leave out --resume to start anew\n")
            assert result.stderr.count("\n") == 1
        assert (tmp_path / FOUND_BESIDE[0]).read_bytes() == before
        assert f"going on after {WINDOW} texts" in done(*left, "--resume", "--threads", "1")

    def test_another_input(self, left: list[str | Path], tmp_path: Path) -> None:
        (tmp_path / "texts.txt").write_bytes(b"a book\n" * (WINDOW + 5))
        result = run(*left, "--resume")
        assert result.returncode == 1
        assert f"its first {WINDOW} records are not those that were done" in result.stderr.splitlines()[-1]

    def test_without_it_a_run_starts_anew(self, left: list[str | Path], tmp_path: Path) -> None:
        said = done(*left, "--top-k", "2")
        assert said.startswith(
            f"{tmp_path / 'out.jsonl'}: starting anew; {WINDOW} texts done earlier are thrown away\n"
        )
        assert only(tmp_path) == ["out.jsonl", "texts.txt"]

    def test_a_run_of_something_else_clears_it_too(self, left: list[str | Path], tmp_path: Path) -> None:
        assert run(left[0], "a film", "--output", tmp_path / "out.jsonl").returncode == 0
        assert only(tmp_path) == ["out.jsonl", "texts.txt"]

    def test_nothing_to_resume(self, sample_bundle: Path, tmp_path: Path) -> None:
        source, target = tmp_path / "texts.txt", tmp_path / "out.jsonl"
        source.write_text("a film\n")
        said = done(sample_bundle, "--input", source, "--output", target, "--resume")
        assert said.startswith(f"{target}: nothing to resume, starting from the beginning\n1 texts to {target} in ")

    @posix
    def test_two_runs_at_once(self, left: list[str | Path], tmp_path: Path) -> None:
        target = tmp_path / "out.jsonl"
        said = f"error: {target}: another run is writing it; wait for that, or give another --output\n"
        with contextlib.suppress(KeyboardInterrupt), ResumableFile(str(target), {}):
            for arguments in (left, [*left, "--resume"], [left[0], "a film", "--output", target]):
                result = run(*arguments)
                assert (result.returncode, result.stderr) == (1, said)
            raise KeyboardInterrupt  # so that the file is not finished

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["a text"], "--input"),
            (["a text", "--output", "out.jsonl"], "--input"),
            (["--input", "-", "--output", "out.jsonl"], "--input"),
            (["--input", "texts.txt"], "--output"),
            pytest.param(["--input", "texts.txt", "--output", "/dev/null"], "--output", marks=posix),
            pytest.param(["--input", "texts.txt", "--output", "/dev/stdout"], "--output", marks=posix),
            pytest.param(["--input", "pipe.txt", "--output", "out.jsonl"], "--input", marks=posix),
        ],
    )
    def test_needs_files(
        self, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        if "pipe.txt" in arguments:
            os.mkfifo("pipe.txt")
        with open("found", "wb") as stdout:  # where /dev/stdout is a regular file
            result = subprocess.run(
                command("no-such-bundle", *arguments, "--resume"),
                stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            )  # fmt: skip
        assert result.returncode == 2
        assert result.stderr.startswith("error: --resume ")
        assert says in result.stderr
        assert result.stderr.count("\n") == 1

    def test_a_missing_input_is_learned_from_the_disk(self, tmp_path: Path) -> None:
        result = run("no-such-bundle", "--input", tmp_path / "a.txt", "--output", tmp_path / "out", "--resume")
        assert result.returncode == 1
        assert "cannot be opened" in result.stderr


class TestWindows:
    """The records that are answered together."""

    def sizes(self, reader: RecordReader | None, texts: list[str], side: str, batch_size: int | None) -> list[int]:
        classify: Any = SimpleNamespace(tokenizer_spec=SimpleNamespace(padding_side=side))
        return [len(rows) for rows in windows(reader, texts, classify, batch_size)]

    def test_of_texts(self) -> None:
        assert self.sizes(None, ["a"] * 5000, "right", None) == [4096, 904]

    @pytest.mark.parametrize(
        ("side", "batch_size", "expected"),
        [
            ("right", None, [4096, 904]),
            ("right", 1000, [4096, 904]),
            ("left", None, [4096, 904]),
            ("left", 1000, [4000, 1000]),  # such a model answers by its batches: none may be torn
            ("left", 4999, [4999, 1]),
        ],
    )
    def test_of_a_file(self, tmp_path: Path, side: str, batch_size: int | None, expected: list[int]) -> None:
        (tmp_path / "a.txt").write_text("a\n" * 5000)
        with open_records(str(tmp_path / "a.txt")) as reader:
            assert self.sizes(reader, [], side, batch_size) == expected

    def test_of_long_texts(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(("a" * 99_999 + "\n") * 20)
        with open_records(str(tmp_path / "a.txt")) as reader:
            assert self.sizes(reader, [], "left", 3) == [12, 8]

    @pytest.mark.parametrize(("batch_size", "expected"), [(None, [32, 32, 6]), (7, [28, 28, 14]), (50, [50, 20])])
    def test_of_a_pipe(self, batch_size: int | None, expected: list[int]) -> None:
        reader = open_records("-", stdin=io.BytesIO(b"a\n" * 70))
        assert self.sizes(reader, [], "left", batch_size) == expected


def test_help_tells_how_to_go_on() -> None:
    said = run("--help").stdout
    assert "--resume" in said
    assert "torchless run sst2 --input texts.txt.gz --output labels.jsonl --resume" in said


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_memory_is_constant(sample_bundle: Path, tmp_path: Path) -> None:
    """Six times as many lines take 12 MB more at most: a third of what their answers alone would."""
    peaks = []
    script = (
        "import atexit, re\n"
        "say = lambda: print('peak', re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "atexit.register(say)\n"
        "from torchless.cli import main\n"
        "main()\n"
    )
    for lines in (4 * WINDOW, 24 * WINDOW):
        path = tmp_path / f"{lines}.txt"
        path.write_text("".join(f"a film {i} that is neither good nor bad\n" for i in range(lines)), encoding="utf-8")
        arguments = [sample_bundle, "--input", path, "--output", tmp_path / "out.jsonl", "--threads", "1"]
        result = subprocess.run(
            [sys.executable, "-c", script, *command(*arguments)[3:]],
            capture_output=True, text=True, timeout=300, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        peaks.append(int(result.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 12
