"""`torchless export --batch-invariant --report`: what the command line adds to the search."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="exporting needs the extra `export`")
pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("safetensors", reason="exporting needs the extra `export`")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchless", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)


def test_a_batch_invariant_export_with_its_report(sample_checkpoint: Path, tmp_path: Path):
    texts = tmp_path / "texts.csv"
    rows = [f"a film of {i} good and {i * 7 % 5} bad scenes,{i % 2}" for i in range(30)]
    texts.write_text("\n".join(["text,label", *rows]) + "\n")
    bundle = tmp_path / "bundle"
    report = bundle / "report"  # which must not be in the bundle's way
    done = run(
        "export", sample_checkpoint, bundle, "--variant", "int8", "--calibration", texts, "--min-agreement", "0.5",
        "--batch-invariant", "--shapes", "1x4", "--report", report,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "int8: accuracy " in done.stdout
    assert {path.name for path in report.iterdir()} == {
        "report.json", "report.txt", "frontier.svg", "sensitivity.svg",
    }  # fmt: skip
    assert "int8 alone in" in (report / "report.txt").read_text()
    made = json.loads((report / "report.json").read_text())["variants"]["int8"]
    assert made["quantization"]["search"]["batch_invariant"] is True
    assert all(set(trial["milliseconds"]) == {"1x4"} for trial in made["quantization"]["search"]["tried"])
    assert made["parity"]["batch_drift"]["max_probability"] <= 1e-6
    assert "batch-invariant: a text's score does not change" in run("inspect", bundle).stdout


def test_shapes_that_are_none_are_refused(sample_checkpoint: Path, tmp_path: Path):
    refused = run("export", sample_checkpoint, tmp_path / "bundle", "--shapes", "16")
    assert refused.returncode == 2
    assert "is not batch times tokens" in refused.stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_work(sample_checkpoint: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    bundle, report = tmp_path / "bundle", tmp_path / "file" / "report"
    refused = run("export", sample_checkpoint, bundle, "--report", report)
    assert refused.returncode == 1
    assert refused.stderr == f"error: {report}: the report cannot be written: Not a directory\n"
    assert not bundle.exists()


def test_an_export_that_fails_leaves_no_directory_for_its_report(tmp_path: Path):
    refused = run("export", tmp_path / "none", tmp_path / "bundle", "--report", tmp_path / "bundle" / "report")
    assert refused.returncode == 1
    assert "no such directory" in refused.stderr
    assert list(tmp_path.iterdir()) == []
