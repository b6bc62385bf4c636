"""`torchless_export.originals`: what judges an export, with PyTorch and without."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("safetensors")

import torchless
from json_files import change_json
from torchless.errors import CheckpointError, InputError
from torchless_export import export, exporter, originals, pytorch_reference
from torchless_export.checkpoint import open_checkpoint

TEXTS = ["a good film", "Bad, bad, bad.", "what a waste of life!", ("fine", "dull"), "", "é ü 中文 😀"]


@pytest.fixture
def without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch_reference, "AVAILABLE", False)
    monkeypatch.setattr(exporter, "default_texts", lambda: TEXTS)


@pytest.mark.usefixtures("without_pytorch")
def test_numpy_judges_where_pytorch_is_not(sample_checkpoint: Path, tmp_path: Path) -> None:
    report = export(sample_checkpoint, tmp_path / "bundle", calibration=TEXTS, min_agreement=0)
    manifest = json.loads((tmp_path / "bundle" / "torchless.json").read_bytes())
    assert manifest["provenance"]["reference"] == "numpy"
    for variant in manifest["variants"].values():
        assert (variant["parity"]["reference"], variant["converter"]) == ("numpy", "graph")
    assert "against numpy on" in str(report)


@pytest.mark.parametrize("pytorch", [True, False])
def test_a_tokenizer_without_special_tokens(
    sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytorch: bool
) -> None:
    """Some texts have no tokens then, and the original fails on them: they do not judge."""
    if pytorch:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    monkeypatch.setattr(pytorch_reference, "AVAILABLE", pytorch)
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(sample_checkpoint, checkpoint)
    change_json(checkpoint / "tokenizer.json", post_processor=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers 5 would put one in
        report = export(
            checkpoint, tmp_path / "bundle", variants=["fp32"], calibration=["", " ", *TEXTS], min_agreement=0
        )
    assert 1 < report.variants["fp32"].parity.texts <= len(TEXTS)
    with torchless.pipeline(model=tmp_path / "bundle", device="cpu") as classify:
        assert classify.preprocess("a good film")["input_ids"].shape == (1, 3)
        with pytest.raises(InputError, match="text 1 has no tokens"):
            classify(["a good film", ""])


def test_half_a_text_without_tokens_chooses_no_recipe(
    sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole batch of them would be no columns wide, which no graph can run."""
    monkeypatch.setattr(pytorch_reference, "AVAILABLE", False)
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(sample_checkpoint, checkpoint)
    change_json(checkpoint / "tokenizer.json", post_processor=None)
    nothing = "\u200b"
    texts = [f"film {i} {nothing * (i + 1)} {nothing}" for i in range(240)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers 5 would put special tokens in
        report = export(checkpoint, tmp_path / "bundle", variants=["int8"], calibration=texts, min_agreement=0.5)
    search = (report.variants["int8"].quantization or {})["search"]
    assert search["texts"] == len(texts) // 5


def test_both_originals_say_the_same(sample_checkpoint: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    checkpoint = open_checkpoint(sample_checkpoint)
    one, other = originals.NumPyOriginal(checkpoint), originals.open_original(checkpoint)
    assert (one.name, other.name) == ("numpy", "pytorch")
    for texts, length in ((TEXTS, None), (TEXTS, 5), (TEXTS[:1], None)):
        ours, theirs = one.encode(texts, length), other.encode(texts, length)
        for name in theirs.keys() & ours.keys():
            np.testing.assert_array_equal(ours[name], theirs[name])
        np.testing.assert_allclose(one.forward(ours), other.forward(theirs), rtol=0, atol=1e-5)


def test_a_text_that_numpy_cannot_answer(sample_checkpoint: Path) -> None:
    original = originals.NumPyOriginal(open_checkpoint(sample_checkpoint))
    with pytest.raises(CheckpointError, match=r"sst2-tiny: the original fails .*position_ids holds 512"):
        original.forward({"input_ids": np.zeros((1, 513), np.int64)})


@pytest.mark.usefixtures("without_pytorch")
def test_the_bundle_is_the_same_either_way(
    sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge changes; the graphs and the token ids do not."""
    pytest.importorskip("transformers")
    export(sample_checkpoint, tmp_path / "numpy", calibration=TEXTS, min_agreement=0)
    monkeypatch.setattr(pytorch_reference, "AVAILABLE", True)
    export(sample_checkpoint, tmp_path / "pytorch", calibration=TEXTS, min_agreement=0)
    for name in ("model.onnx", "model_int8.onnx"):
        assert (tmp_path / "numpy" / name).read_bytes() == (tmp_path / "pytorch" / name).read_bytes()
    with (
        torchless.pipeline(model=tmp_path / "numpy", device="cpu") as one,
        torchless.pipeline(model=tmp_path / "pytorch", device="cpu") as other,
    ):
        assert one(TEXTS[:3] + TEXTS[4:]) == other(TEXTS[:3] + TEXTS[4:])
        assert one.tokenizer_spec == other.tokenizer_spec


@pytest.mark.usefixtures("without_pytorch")
def test_what_the_tokenizer_s_class_adds_is_in_the_manifest(sample_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(sample_checkpoint, tmp_path / "checkpoint"))
    # As many are published: what pads is left to the class.
    config = {"model_max_length": 99, "tokenizer_class": "DistilBertTokenizer"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    (checkpoint / "special_tokens_map.json").unlink()
    export(checkpoint, tmp_path / "bundle", variants="fp32", calibration=TEXTS)
    with torchless.pipeline(model=tmp_path / "bundle", device="cpu") as pipeline:
        assert (pipeline.tokenizer_spec.pad_id, pipeline.tokenizer_spec.max_length) == (0, 99)
        assert pipeline.preprocess(["a", "a good film"])["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


def test_an_export_imports_nothing_heavy(sample_checkpoint: Path, tmp_path: Path) -> None:
    """With a finder that hides them, as if they were not installed."""
    program = f"""
import importlib.abc, sys
HIDDEN = {{"torch", "transformers", "optimum", "tensorflow", "jax"}}
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name, name=name)
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in HIDDEN else find(name, package)
sys.meta_path.insert(0, Hide())
from torchless_export import export
report = export({str(sample_checkpoint)!r}, {str(tmp_path / "bundle")!r}, variants="fp32", calibration={TEXTS!r})
print(report.passed, report.variants["fp32"].parity.reference, *(HIDDEN & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "True numpy\n", done.stderr
