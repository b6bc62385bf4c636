"""`torchless export`, as a person calls it: each wrong input is one line, an exit status, and nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless.manifest import MANIFEST_NAME
from torchless_export.checkpoint import open_checkpoint
from torchless_export.pytorch_reference import PyTorchReference
from torchless_export.texts import default_texts
from untraced import UNTRACED

pytest.importorskip("onnx")

PROGRESS = re.compile(r"[a-z ]+(ONNX|int8|checkpoint|reference|original|bundle)? \.\.\.")
FEW = "a good film\na bad film\nwhat a waste of time\nfine\nnever again\n"


def command(*arguments: object, before: str = "") -> list[str]:
    script = Path(sys.executable).with_name("torchless")
    if script.exists() and not before:
        return [str(script), "export", *map(str, arguments)]
    return [sys.executable, "-c", f"{before}; from torchless.cli import main; main()", "export", *map(str, arguments)]


def torchless_export(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, before=before), capture_output=True, text=True, timeout=300, check=False)


def assert_one_line(done: subprocess.CompletedProcess[str], status: int, message: str) -> None:
    """Progress, then one line that begins with `error:`, and no other."""
    *progress, line = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert re.match(f"error: {message}", line), line
    assert all(PROGRESS.fullmatch(told) for told in progress), done.stderr
    assert done.stdout == ""


@pytest.fixture
def checkpoint(sample_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the sample checkpoint that a test may damage."""
    return Path(shutil.copytree(sample_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where bundles are to be written: an empty directory."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def change_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickle_only(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x02.")


def truncate(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


# Found before PyTorch is loaded.
DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (shutil.rmtree, r".*checkpoint: no such directory; give the directory that save_pretrained wrote"),
    "no config": (lambda c: (c / "config.json").unlink(), r".*config\.json: missing"),
    "no tokenizer": (lambda c: (c / "tokenizer.json").unlink(), r".*tokenizer\.json: missing"),
    "pickle": (pickle_only, r".*checkpoint: its weights are a pickle \(pytorch_model\.bin\)"),
    "truncated": (truncate, r".*model\.safetensors: 1000 bytes, not a safetensors file or cut short"),
    "labels with a gap": (
        lambda c: change_config(c, id2label={"0": "A", "5": "B"}), r".*config\.json: id2label has the ids \[0, 5\]"
    ),
    "a name that plays with the terminal": (
        lambda c: change_config(c, architectures=["\x1b[31mEvil\nModel"]), r".*config\.json: \\x1b\[31mEvil Model fits"
    ),
    "a bundle": (lambda c: (c / MANIFEST_NAME).write_text("{}"), r".*checkpoint: a bundle that was exported already"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_wrong_checkpoint(checkpoint: Path, place: Path, case: str):
    damage, message = DAMAGED[case]
    damage(checkpoint)
    assert_one_line(torchless_export(checkpoint, place / "new" / "bundle"), 1, message)
    assert os.listdir(place) == []


# Found with PyTorch and optimum at hand.
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown architecture": (
        {"model_type": "perceptron-9000"},
        r".*config\.json: (optimum cannot export|model_type) .*'?perceptron-9000'"
    ),
    "a label too many": (
        {"id2label": {"0": "A", "1": "B", "2": "C"}},
        r".*checkpoint: the tensor classifier\.(bias|weight) is \[2.*config"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_a_checkpoint_that_does_not_fit(checkpoint: Path, place: Path, case: str):
    changes, message = UNFIT[case]
    change_config(checkpoint, **changes)
    assert_one_line(torchless_export(checkpoint, place / "bundle"), 1, message)
    assert os.listdir(place) == []


def _file(target: Path) -> None:
    target.write_text("mine")


def _link(target: Path) -> None:
    (target.parent / "elsewhere").mkdir()
    target.symlink_to(target.parent / "elsewhere")


def _full_directory(target: Path) -> None:
    target.mkdir()
    (target / "thesis.txt").write_text("mine")


def _bundle(target: Path) -> None:
    target.mkdir()
    (target / MANIFEST_NAME).write_text("{}")


@pytest.mark.parametrize(
    ("occupy", "options", "message"),
    [
        (_file, ["--force"], r".*bundle: exists and is not a directory"),
        (_link, ["--force"], r".*bundle: exists and is not a directory"),
        (_full_directory, ["--force"], r".*bundle: exists, is not empty and not a bundle, so it is never replaced"),
        (_bundle, [], r".*bundle: exists; pass --force to replace it"),
    ],
)
def test_a_target_that_is_taken(
    sample_checkpoint: Path, place: Path, occupy: Callable[[Path], None], options: list[str], message: str
):
    occupy(place / "bundle")
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    assert_one_line(torchless_export(sample_checkpoint, place / "bundle", *options), 1, message)
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before


def test_a_target_that_cannot_be_made(sample_checkpoint: Path, place: Path):
    (place / "file").write_text("mine")
    done = torchless_export(sample_checkpoint, place / "file" / "bundle")
    assert_one_line(done, 1, r".*bundle: cannot be written: Not a directory; free space or choose another place")
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r".*texts\.txt: .*[Nn]o such file"),
        ("the same\nthe same\n", r"texts\.txt: 1 different texts, at least 2 are needed"),
        (b"\xff\xfe\x00a", r".*texts\.txt"),
    ],
)
def test_wrong_texts(sample_checkpoint: Path, place: Path, tmp_path: Path, content: Any, message: str):
    if content is not None:
        (tmp_path / "texts.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    done = torchless_export(sample_checkpoint, place / "bundle", "--calibration", tmp_path / "texts.txt")
    assert_one_line(done, 1, message)
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variant", "fp64"], r"Invalid value for '--variant'.*; see `torchless export --help`"),
        (["--min-agreement", "2"], r"Invalid value for '--min-agreement'"),
        (["--task", "translation"], r"Invalid value for '--task'"),
        (["--fast"], r"No such option.*--fast"),
    ],
)
def test_a_wrong_command_line(sample_checkpoint: Path, place: Path, options: list[str], message: str):
    done = torchless_export(sample_checkpoint, place / "bundle", *options)
    assert_one_line(done, 2, message)
    assert os.listdir(place) == []


def test_a_variant_that_fails(make_checkpoint: Callable[..., Path], place: Path, tmp_path: Path):
    """The two labels are balanced over the texts, so that quantization turns some answers over."""
    pytest.importorskip("optimum")
    safetensors = pytest.importorskip("safetensors.numpy")
    texts = [text for text in default_texts() if isinstance(text, str)][:200]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    folder = make_checkpoint()
    reference = PyTorchReference(open_checkpoint(folder))
    leads = np.diff(np.concatenate([reference.forward(reference.encode([text], 62)) for text in texts]))
    weights = safetensors.load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] += np.median(leads)
    safetensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    options = ("--min-agreement", "1", "--calibration", tmp_path / "texts.jsonl", "--report", tmp_path / "report")
    done = torchless_export(folder, place / "bundle", *options)
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(
        rf"error: {folder.name}: int8 refused: agreement 0\.\d+ on \d+ texts, less than 1 with the best of \d+ recipes "
        r".*; --min-agreement 0\.\d+ would take it, --variant fp32 keeps every answer; nothing was written",
        lines[-1],
    )
    assert sum(line.startswith("error:") for line in lines) == 1
    assert "Traceback" not in done.stderr
    assert any(line.startswith("int8 ") and line.endswith("FAILED") for line in lines)
    assert os.listdir(place) == []
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["passed"], report["bundle"]) == (False, None)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX's")
def test_a_full_disk(sample_checkpoint: Path, place: Path, tmp_path: Path):
    (tmp_path / "few.txt").write_text(FEW)
    _bundle(place / "bundle")
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))"
    done = torchless_export(
        sample_checkpoint, place / "bundle", "--force", "--calibration", tmp_path / "few.txt", before=before
    )
    assert_one_line(done, 1, r".*bundle: cannot be written: File too large; free space or choose another place")
    assert os.listdir(place) == ["bundle"]
    assert (place / "bundle" / MANIFEST_NAME).read_text() == "{}"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("number", "step", "status"),
    [
        (signal.SIGINT, "reading the checkpoint", 130),
        (signal.SIGINT, "writing the graph", 130),
        (signal.SIGTERM, "comparing with the original", 143),
    ],
)
def test_a_signal(sample_checkpoint: Path, place: Path, number: signal.Signals, step: str, status: int):
    _bundle(place / "bundle")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(sample_checkpoint, place / "bundle", "--force"), stdout=pipe, stderr=pipe, text=True, env=UNTRACED
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith(step):
                break
        process.send_signal(number)
        rest = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == status, rest
    assert "Traceback" not in rest
    assert "error" not in rest
    assert os.listdir(place) == ["bundle"]
    assert os.listdir(place / "bundle") == [MANIFEST_NAME]
