"""`torchless bench` as a person runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchless_bench.contenders import CONTENDERS
from torchless_bench.targets import TARGETS
from torchless_bench.workloads import WORKLOADS
from untraced import UNTRACED

Result = subprocess.CompletedProcess[str]
QUICK = ("--rounds", "2", "--seconds", "0.01", "--threads", "1")


def bench(*arguments: str | Path) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "torchless", "bench", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def complaint(result: Result, status: int) -> str:
    """The one line that a failing command gives."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_plain_run(sample_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    given = ["--contenders", "torchless-fp32,torchless-int8,torchless-cuda", "--workloads", "1x8,texts"]
    result = bench(sample_bundle, *given, *QUICK, "--baseline", "torchless-int8", "--output", target)
    assert result.returncode == 0, result.stderr
    assert "times as fast as torchless-int8" in result.stdout
    assert "1x8: forward pass alone: 1 row of 8 token ids to logits; ms" in result.stdout
    assert "texts/s" in result.stdout
    assert "Traceback" not in result.stderr
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["command"][:3] == ["torchless", "bench", str(sample_bundle)]
    assert report["settings"]["threads"] == 1
    assert {row["name"]: len(row["results"]) for row in report["workloads"]}.keys() == {"1x8", "texts"}
    for workload in report["workloads"]:
        for result_ in workload["results"]:
            assert len(result_["samples"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_peer_that_is_not_installed_is_skipped_by_name(sample_bundle: Path, tmp_path: Path) -> None:
    # An interpreter of its own without ONNX Runtime: a virtual environment with nothing in it.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    python = tmp_path / "empty" / "bin" / "python"
    given = ["--contenders", "torchless-fp32,bare-fp32", "--workloads", "1x8", "--python", f"bare={python}"]
    result = bench(sample_bundle, *given, *QUICK)
    assert result.returncode == 0, result.stderr
    assert f"skipped: bare-fp32: onnxruntime, tokenizers, numpy not installed in {python}" in result.stdout
    assert "torchless-fp32" in result.stdout


def test_a_graph_of_ones_own(sample_bundle: Path) -> None:
    given = ["--onnx", f"mine={sample_bundle / 'model.onnx'}", "--contenders", "mine", "--workloads", "1x8,text8"]
    result = bench(sample_bundle, *given, *QUICK)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("times as fast as mine") == 2


def test_a_failure_is_told_and_is_the_status(bundle_copy: Path) -> None:
    path = bundle_copy / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    result = bench(bundle_copy, "--contenders", "torchless-fp32,torchless-int8", "--workloads", "1x8", *QUICK)
    assert result.returncode == 1
    assert "failed: torchless-fp32: BundleError: " in result.stdout
    assert "times as fast as torchless-int8" in result.stdout
    assert "Traceback" not in result.stderr


def test_targets(sample_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "optimum").symlink_to(sample_bundle)
    given = ["--peers", tmp_path, "--targets", "--contenders", "torchless-throughput-fp32,bare-optimum-fp32"]
    result = bench(sample_bundle, *given, *QUICK)
    assert result.returncode == 0, result.stderr
    said = result.stdout.splitlines()
    [line] = [line for line in said if line.startswith("32x32: torchless-throughput-fp32 against ")]
    assert line.split()[4:7] == ["at", "least", "1.25x"]
    assert "  met" in line or "  not met" in line


def test_read_again_measures_nothing(sample_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    given = ["--contenders", "torchless-int8", "--workloads", "1x8", "--price", "cpu=0.10"]
    first = bench(sample_bundle, *given, *QUICK, "--output", target)
    assert first.returncode == 0, first.stderr
    assert "cpu per million" in first.stdout
    again = bench("--read", target)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == first.stdout
    assert "loading" not in again.stderr


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_page(sample_bundle: Path, tmp_path: Path) -> None:
    given = ["--contenders", "torchless-int8,torchless-fp32", "--workloads", "text8,text16", "--report", tmp_path / "r"]
    result = bench(sample_bundle, *given, *QUICK)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["latency.png", "report.html"]
    assert result.stderr.splitlines()[-1] == f"wrote {tmp_path / 'r' / 'report.html'}, its figures beside it"


def test_without_a_gpu_the_cpu_goes_on(sample_bundle: Path) -> None:
    given = ["--devices", "cpu,cuda", "--workloads", "1x8"]
    result = bench(sample_bundle, *given, *QUICK)
    assert result.returncode == 0, result.stderr
    if "skipped: torchless-cuda" in result.stdout:
        assert result.stdout.count("torchless-cuda") == 1
        assert "times as fast as torchless-fp32" in result.stdout
    else:
        assert "the GPU wins" in result.stdout


def test_list() -> None:
    result = bench("--list")
    assert result.returncode == 0, result.stderr
    for name in (*(row.name for row in (*CONTENDERS, *WORKLOADS)), *map(str, TARGETS)):
        assert f"  {name} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a bundle, --read or --list"),
        (["b", "--contenders", "tensorflow"], "'tensorflow' is unknown, wanted torchless-fp32"),
        (["b", "--baseline", "tensorflow"], "'tensorflow' is unknown"),
        (["b", "--workloads", "1x17"], "'1x17' is unknown"),
        (["b", "--price", "cpu=free"], "wanted a device and a price per hour"),
        (["b", "--read", "f"], "give it no bundle"),
        (["b", "--devices", "tpu"], "device is 'tpu'"),
        (["b", "--devices", "cuda:0,cuda:1"], "one kind of device twice"),
        (["b", "--python", "here"], "--python is 'here', wanted NAME=PATH"),
        (["b", "--onnx", "=x"], "--onnx is '=x', wanted NAME=PATH"),
        (["b", "--rounds", "0"], "--rounds"),
        (["b", "--seconds", "0"], "--seconds"),
        (["x/b", "y/c", "z/c"], "two contenders are called torchless-fp32@c"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str) -> None:
    assert says in complaint(bench(*arguments), 2)


def test_wrong_files(sample_bundle: Path, tmp_path: Path) -> None:
    assert "no such directory" in complaint(bench(tmp_path / "nothing"), 1)
    target = tmp_path / "no-such-folder" / "bench.json"
    assert str(target) in complaint(bench(sample_bundle, "--output", target), 1)
    assert "nothing to measure" in complaint(bench(sample_bundle, "--contenders", "optimum-fp32"), 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_interrupted(sample_bundle: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    given = ["--contenders", "torchless-fp32,torchless-int8", "--workloads", "1x8", "--rounds", "100000"]
    command = [sys.executable, "-m", "torchless", "bench", sample_bundle, *given, "--output", tmp_path / "bench.json"]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=UNTRACED
    ) as process:
        assert process.stderr is not None
        while b"100000 rounds" not in process.stderr.readline():
            assert process.poll() is None
        workers = [pid for pid, parent in processes() if parent == process.pid]
        assert len(workers) == 2
        time.sleep(0.5)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(60) == status
    end = time.monotonic() + 20
    while set(workers) & {pid for pid, _ in processes()}:
        assert time.monotonic() < end, "workers are left"
        time.sleep(0.02)
    assert b"Traceback" not in said
    if number != signal.SIGKILL:
        assert not os.listdir(tmp_path)


def processes() -> Iterator[tuple[int, int]]:
    """Yield (pid, parent) of all processes that have not ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            yield int(path.parent.name), int(parent)
