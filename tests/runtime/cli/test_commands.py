"""The commands as a person runs them: a process, its output, its exit status."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import torchless
from untraced import UNTRACED

Result = subprocess.CompletedProcess[str]


def run(*arguments: str | Path, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "torchless", *map(str, arguments)],
        input=stdin, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip


def answers(result: Result) -> list[dict[str, object]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def complaint(result: Result, status: int) -> str:
    """The one line that a failing command gives."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    path.write_text('id,text\n7,"a fine, funny film"\n8,it is dull\n9,' + "word " * 600 + "\n", encoding="utf-8")
    return path


class TestRun:
    def test_texts_given(self, sample_bundle: Path) -> None:
        result = run("run", sample_bundle, "I love this.", "I hate this.")
        assert [a["label"] for a in answers(result)] == ["POSITIVE", "NEGATIVE"]
        assert list(answers(result)[0]) == ["text", "label", "score"]
        assert result.stderr == ""

    def test_same_as_the_library(self, sample_bundle: Path) -> None:
        given = ["I love this.", "a dull film"]
        found = answers(run("run", sample_bundle, *given, "--variant", "fp32", "--top-k", "all"))
        with torchless.pipeline(model=sample_bundle, variant="fp32") as classify:
            assert [a["scores"] for a in found] == classify(given, top_k=None)

    def test_file(self, sample_bundle: Path, texts: Path, tmp_path: Path) -> None:
        target = tmp_path / "out.csv"
        result = run("run", sample_bundle, "--input", texts, "--columns", "id", "--output", target)
        assert result.returncode == 0
        assert result.stdout == ""
        assert f"3 texts to {target}" in result.stderr
        assert "1 cut at 512 tokens" in result.stderr
        with target.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == ["7", "8", "9"]
        assert [row["label"] for row in rows[:2]] == ["POSITIVE", "NEGATIVE"]
        assert os.listdir(tmp_path) == ["out.csv"]

    def test_standard_input(self, sample_bundle: Path) -> None:
        found = answers(run("run", sample_bundle, "--input", "-", stdin="I love this.\n\nI hate this.\n"))
        assert [a["text"] for a in found] == ["I love this.", "", "I hate this."]

    @pytest.mark.parametrize(
        "given", [["a.txt", "--column", "2"], ["-", "--columns", "id"], ["a.csv", "--column", "0"]]
    )
    def test_columns_that_no_such_file_has(self, sample_bundle: Path, given: list[str]) -> None:
        assert "column" in complaint(run("run", sample_bundle, "--input", *given), 2)

    @pytest.mark.parametrize("source", [["a film"], ["--input", "-"]])
    def test_standard_output_by_its_name(
        self, sample_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = run("run", sample_bundle.resolve(), *source, "--output", "-", stdin="a film")
        [found] = answers(result)
        assert found["text"] == "a film"
        assert " to -" not in result.stderr
        assert os.listdir() == []

    def test_pairs_and_compression(self, sample_bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "pairs.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"premise": "a film", "guess": "a good one"}\n'))
        arguments = ["--column", "premise", "--pair-column", "guess", "--variant", "fp32"]
        [found] = answers(run("run", sample_bundle, "--input", path, *arguments))
        with torchless.pipeline(model=sample_bundle, variant="fp32") as classify:
            wanted = classify({"text": "a film", "text_pair": "a good one"})
        assert found == {"text": "a film", "text_pair": "a good one"} | wanted

    def test_no_truncation_refuses(self, sample_bundle: Path, texts: Path, tmp_path: Path) -> None:
        result = run("run", sample_bundle, "--input", texts, "--no-truncation", "--output", tmp_path / "out.jsonl")
        assert f"{texts}: line 4: this text has 602 tokens" in complaint(result, 1)
        assert list(tmp_path.iterdir()) == []

    def test_reader_that_stops(self, sample_bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "many.txt"
        path.write_text("a film\n" * 20_000, encoding="utf-8")
        command = [sys.executable, "-m", "torchless", "run", str(sample_bundle), "--input", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 1

    @pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_interrupted_standard_input(
        self, sample_bundle: Path, tmp_path: Path, number: signal.Signals, status: int
    ) -> None:
        """It cannot be read again, so nothing stays; `test_run.py` has the files."""
        path, target = tmp_path / "many.txt", tmp_path / "out" / "answers.jsonl"
        target.parent.mkdir()
        path.write_text("a film that is neither good nor bad\n" * 400_000, encoding="utf-8")
        command = [sys.executable, "-m", "torchless", "run", sample_bundle, "--input", "-", "--output", target]
        with path.open() as stdin, subprocess.Popen(list(map(str, command)), stdin=stdin, env=UNTRACED) as process:
            end = time.monotonic() + 60
            while not any(entry.stat().st_size for entry in target.parent.iterdir()) and time.monotonic() < end:
                time.sleep(0.05)
            process.send_signal(number)
            assert process.wait(60) == status
        assert list(target.parent.iterdir()) == []


class TestWrongUsage:
    """Exit status 2: the command line alone shows it."""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ([], "nothing to classify"),
            (["a text", "--input", "x.txt"], "not both"),
            (["--input", "x.docx"], "extension '.docx'"),
            (["a text", "--column", "text"], "give --input"),
            (["a text", "--top-k", "0"], "--top-k"),
            (["a text", "--batch-size", "0"], "--batch-size"),
            (["a text", "--threads", "many"], "--threads"),
            (["a text", "--device", "tpu"], "device is 'tpu'"),
            (["a text", "--format", "xml"], "--format"),
            (["a text", "--fast"], "--fast"),
            (["--input", "x.csv", "--columns", "label"], "'label'"),
            (["a text", "--output", "x.csv.GZ"], "--output: 'x.csv.GZ' would not be compressed"),
        ],
    )
    def test_run(self, arguments: list[str], says: str) -> None:
        assert says in complaint(run("run", "no-such-bundle", *arguments), 2)

    def test_run_over_its_input(self, texts: Path, tmp_path: Path) -> None:
        before = texts.read_bytes()
        (tmp_path / "link.csv").symlink_to(texts)
        for target in (texts, texts.parent / "." / ".." / texts.parent.name / texts.name, tmp_path / "link.csv"):
            said = complaint(run("run", "no-such-bundle", "--input", texts, "--output", target), 2)
            assert "is the input, which would be lost" in said
        assert texts.read_bytes() == before

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--task", "translation"], "--task"),
            (["--variant", "int3"], "--variant"),
            (["--min-agreement", "2"], "--min-agreement"),
            (["--converter", "magic"], "--converter"),
        ],
    )
    def test_export(self, arguments: list[str], says: str, tmp_path: Path) -> None:
        assert says in complaint(run("export", "checkpoint", tmp_path / "out", *arguments), 2)

    def test_unknown_command(self) -> None:
        assert "paint" in complaint(run("paint"), 2)


class TestWrongFiles:
    """Exit status 1: learned from the disk."""

    def test_no_bundle(self, tmp_path: Path) -> None:
        assert "no such directory" in complaint(run("run", tmp_path / "nothing", "a text"), 1)

    def test_changed_byte(self, bundle_copy: Path) -> None:
        path = bundle_copy / "model.onnx"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert "model.onnx: sha256" in complaint(run("run", bundle_copy, "a text", "--variant", "fp32"), 1)
        assert "model.onnx: sha256" in complaint(run("inspect", bundle_copy), 1)

    def test_newer_format(self, bundle_copy: Path) -> None:
        manifest = bundle_copy / "torchless.json"
        manifest.write_text(manifest.read_text(encoding="utf-8").replace('"format": "1.0"', '"format": "2.0"'))
        assert "format 2.0, this torchless reads up to 1.x; upgrade" in complaint(run("run", bundle_copy, "a text"), 1)

    @pytest.mark.parametrize("name", ["model_int8.onnx", "tokenizer.json", "config.json"])
    def test_missing_file(self, bundle_copy: Path, name: str) -> None:
        (bundle_copy / name).unlink()
        assert f"{name}: missing" in complaint(run("run", bundle_copy, "a text", "--variant", "int8"), 1)

    def test_missing_column(self, sample_bundle: Path, texts: Path) -> None:
        line = complaint(run("run", sample_bundle, "--input", texts, "--column", "review"), 1)
        assert "'review'" in line
        assert "id" in line

    @pytest.mark.parametrize(
        ("content", "says"), [(b"", "no record"), (b"\xff\xfea\0", "UTF-8"), (b"a\n\xe9t\xe9\n", "UTF-8")]
    )
    def test_broken_input(self, sample_bundle: Path, tmp_path: Path, content: bytes, says: str) -> None:
        path = tmp_path / "texts.txt"
        path.write_bytes(content)
        assert says in complaint(run("run", sample_bundle, "--input", path, "--output", tmp_path / "out.jsonl"), 1)
        assert os.listdir(tmp_path) == ["texts.txt"]

    def test_unwritable_output(self, sample_bundle: Path, texts: Path, tmp_path: Path) -> None:
        target = tmp_path / "no-such-folder" / "out.jsonl"
        assert str(target) in complaint(run("run", sample_bundle, "--input", texts, "--output", target), 1)

    def test_cuda_is_never_replaced_silently(self, sample_bundle: Path) -> None:
        result = run("run", sample_bundle, "a text", "--device", "cuda:99")
        assert "error: " in result.stderr
        assert result.returncode == 1
        assert result.stdout == ""

    def test_traceback_only_when_asked(self, tmp_path: Path) -> None:
        assert "Traceback" not in run("run", tmp_path / "nothing", "a text").stderr
        assert "Traceback" in run("run", tmp_path / "nothing", "a text", "--debug").stderr


class TestOthers:
    def test_explain(self, sample_bundle: Path) -> None:
        result = run("explain", sample_bundle, "What a fine film!", "--variant", "fp32")
        assert result.returncode == 0, result.stderr
        for part in (
            "fp32 on CPUExecutionProvider",
            "[CLS]",
            "fine",
            "logit",
            "POSITIVE",
            "1 preprocess",
            "3 postprocess",
        ):
            assert part in result.stdout

    def test_explain_a_pair(self, sample_bundle: Path) -> None:
        result = run("explain", sample_bundle, "a film", "--pair", "a book")
        assert result.stdout.count("[SEP]") == 2

    def test_explain_a_pair_of_which_one_is_empty_as_run_does(self, sample_bundle: Path) -> None:
        result = run("explain", sample_bundle, "a film", "--pair", "", "--variant", "fp32")
        assert result.stdout.count("[SEP]") == 1

    def test_inspect(self, sample_bundle: Path) -> None:
        result = run("inspect", sample_bundle)
        assert result.returncode == 0, result.stderr
        for part in (
            "NEGATIVE, POSITIVE",
            "agreement 1.0000 with ",
            "95 % confidence",
            "unchanged",
            "fp32",
            "int8",
        ):
            assert part in result.stdout

    def test_inspect_says_how_far_each_variant_can_be_trusted(self, bundle_copy: Path) -> None:
        path = bundle_copy / "torchless.json"
        manifest = json.loads(path.read_text())
        parity = manifest["variants"]["int8"]["parity"]
        parity |= {"agreement_low95": 0.99559, "accuracy": {"original": 0.88, "variant": 0.879, "texts": 800}}
        parity["tolerance"]["batch_drift"] = 1e-6
        recipe = {"name": "fixed ranges", "fp32": ["layer 0 feed-forward out"]}
        # fp32 is timed beside the recipes, and is none.
        tried = [{"name": "plain", "accepted": False}, {"name": "fixed ranges", "accepted": False}, {"name": "fp32"}]
        search = {"accepted": False, "tried": tried}
        manifest["variants"]["int8"]["quantization"] |= {"recipe": recipe, "search": search}
        path.write_text(json.dumps(manifest))
        shown = run("inspect", bundle_copy).stdout
        # A bound is not to be rounded up.
        assert "  int8: trust it: at least 99.5 of 100 answers are the original's, on texts like those below\n" in shown
        assert "accuracy 0.8790 on 800 labelled texts, the original's 0.8800" in shown
        assert "batch-invariant: a text's score does not change with its company" in shown
        assert (
            "the best that was found, though not expected to keep the promise; in fp32: layer 0 feed-forward" in shown
        )
        tried[1] |= {"accepted": True, "expected_agreement": 0.99451}
        search["accepted"] = True
        path.write_text(json.dumps(manifest))
        assert (
            "'fixed ranges', one of 1 that are expected to keep the promise, of 2 tried; expected agreement on texts "
            "not seen 0.9945; in fp32: layer 0"
        ) in run("inspect", bundle_copy).stdout
        parity["agreement_low95"] = 0.97
        path.write_text(json.dumps(manifest))
        assert "int8: compare it on your texts: at least 97.0 of 100" in run("inspect", bundle_copy).stdout
        parity["proven"] = False
        path.write_text(json.dumps(manifest))
        assert f"int8: unproven: {parity['texts']} texts judged" in run("inspect", bundle_copy).stdout

    def test_inspect_of_a_tuned_variant(self, bundle_copy: Path) -> None:
        manifest = json.loads((bundle_copy / "torchless.json").read_bytes())
        form = {"qkv": "one"}
        manifest["variants"]["fp32"]["tuning"] = {
            "processor": "a\x1b[31m processor", "threads": 2, "form": form,
            "tried": [
                {"form": {}, "milliseconds": {"1x16": 3}}, {"form": form, "milliseconds": {"1x16": 2.5, "8x32": 9}},
            ],
        }  # fmt: skip
        (bundle_copy / "torchless.json").write_text(json.dumps(manifest))
        result = run("inspect", bundle_copy)
        assert result.returncode == 0, result.stderr
        said = r"tuned on a\x1b[31m processor with 2 threads, the fastest of 2 forms: 1x16 2.5 ms, 8x32 9 ms"
        assert said in result.stdout
        manifest["variants"]["fp32"]["tuning"] = {"from": "the future"}
        (bundle_copy / "torchless.json").write_text(json.dumps(manifest))
        assert run("inspect", bundle_copy).returncode == 0

    def test_inspect_json(self, sample_bundle: Path) -> None:
        shown = json.loads(run("inspect", sample_bundle, "--json").stdout)
        assert shown == json.loads((sample_bundle / "torchless.json").read_text(encoding="utf-8"))

    def test_doctor(self) -> None:
        result = run("doctor")
        assert result.returncode == 0, result.stdout
        assert "CPUExecutionProvider: runs a node" in result.stdout
        assert "FAULT" not in result.stdout

    def test_doctor_sees_two_runtimes(self, tmp_path: Path) -> None:
        for name in ("onnxruntime", "onnxruntime_gpu"):
            folder = tmp_path / f"{name}-9.9.9.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.9.9\n")
        result = run("doctor", env={"PYTHONPATH": str(tmp_path)})
        assert result.returncode == 1
        assert "overwrite each other's files" in result.stdout

    @pytest.mark.parametrize("command", ["export", "run", "explain", "inspect", "doctor", "bench"])
    def test_help_shows_examples(self, command: str) -> None:
        result = run(command, "--help")
        assert result.returncode == 0
        assert "Example" in result.stdout
        assert f"  torchless {command}" in result.stdout

    def test_no_command_shows_help(self) -> None:
        result = run()
        assert result.returncode == 0
        assert "doctor" in result.stdout

    def test_version(self) -> None:
        assert run("--version").stdout.split()[-1] == torchless.__version__


@pytest.mark.parametrize("command", ["run", "explain"])
def test_a_bundle_without_labels(features_bundle: Path, command: str) -> None:
    said = complaint(run(command, features_bundle, "a fine film"), 1)
    assert said.startswith(f"error: {features_bundle}: a bundle for feature-extraction"), said
