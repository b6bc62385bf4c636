"""The fp16 variant from end to end, where no GPU is: what is written, how it is judged, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from torchless.bundle import Bundle
from torchless.devices import Device
from torchless.errors import ParityError, ProviderError, TorchlessWarning
from torchless.pipelines.variants import choose_variant
from torchless.session import cuda_problem

onnx = pytest.importorskip("onnx")
pytest.importorskip("safetensors")

import safetensors.numpy  # noqa: E402

from torchless_export import export, exporter  # noqa: E402
from torchless_export.comparison import LogitComparison  # noqa: E402
from torchless_export.parity import FP16_AGREEMENT, FP16_CHANGE, _verdict  # noqa: E402

TEXTS = ["a good film", "Bad, bad, bad.", "what a waste of life!", "fine", "", "a film , a plot and an actor " * 9]

pytestmark = pytest.mark.skipif(cuda_problem(0) is None, reason="a GPU is here: tests/gpu judges on it")


@pytest.fixture(scope="module")
def bundle(sample_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("fp16") / "bundle"
    report = export(sample_checkpoint, target, variants=("fp32", "fp16"), calibration=TEXTS)
    assert "fp16: judged by an emulation of its arithmetic on the CPU, not yet run on a GPU" in str(report)
    return target


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_what_the_manifest_says(bundle: Path) -> None:
    variant = json.loads((bundle / "torchless.json").read_text())["variants"]["fp16"]
    parity = variant.pop("parity")
    assert (variant["files"], variant["precision"], variant["device"]) == (["model_fp16.onnx"], "fp16", "cuda")
    assert variant["output"] == {"name": "logits", "dtype": "float32", "axes": ["batch", "labels"]}
    assert variant["session"] == {"cuda_graphs": True}
    assert parity["device"] == "cpu"
    assert parity["tolerance"] == {"agreement": FP16_AGREEMENT, "max_probability": FP16_CHANGE}
    assert parity["agreement"] == 1
    # Rounded to float16 on the way, but no further than that.
    assert 1e-6 < parity["max_probability"] < FP16_CHANGE


def test_what_is_written(bundle: Path) -> None:
    assert (bundle / "model_fp16.onnx").stat().st_size < 0.52 * (bundle / "model.onnx").stat().st_size
    assert {"MultiHeadAttention", "SkipLayerNormalization", "BiasGelu"} < operators(bundle / "model_fp16.onnx")
    assert sorted(path.name for path in bundle.iterdir() if path.name.startswith(".")) == []


def test_it_never_runs_on_a_cpu(bundle: Path) -> None:
    with torchless.pipeline(model=bundle, device="cpu") as pipeline:
        assert pipeline.variant == "fp32"
    with pytest.raises(ProviderError, match="variant 'fp16' is for cuda, not for cpu"):
        torchless.pipeline(model=bundle, device="cpu", variant="fp16")


@pytest.mark.parametrize("name", [None, "fp16"])
def test_on_a_gpu_it_runs_unasked_and_says_that_no_gpu_judged_it(bundle: Path, name: str | None) -> None:
    variants = Bundle.open(bundle).manifest.variants
    with pytest.warns(TorchlessWarning, match="variant 'fp16' was judged by an emulation on a CPU, not yet on a GPU"):
        assert choose_variant(variants, Device("cuda"), name) == "fp16"
    proven = {"fp16": replace(variants["fp16"], parity={**variants["fp16"].parity, "device": "cuda"})}
    assert choose_variant(proven, Device("cuda"), name) == "fp16"


def test_a_left_padded_model_keeps_its_mask(sample_checkpoint: Path, tmp_path: Path) -> None:
    """Lengths say nothing of tokens that do not come first."""
    checkpoint = tmp_path / "left"
    checkpoint.mkdir()
    for file in sample_checkpoint.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    config = checkpoint / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"padding_side": "left"}))
    export(checkpoint, tmp_path / "bundle", variants="fp16", calibration=TEXTS)
    attends = [
        n for n in onnx.load(tmp_path / "bundle/model_fp16.onnx").graph.node if n.op_type == "MultiHeadAttention"
    ]
    assert attends
    assert all(len(node.input) == 6 and not node.input[4] and node.input[5] for node in attends)


def test_tuning_without_a_gpu_writes_the_default_form(sample_checkpoint: Path, tmp_path: Path) -> None:
    report = export(sample_checkpoint, tmp_path / "bundle", variants="fp16", calibration=TEXTS, tune="1x4")
    assert report.variants["fp16"].tuning is None


def test_what_would_overflow_on_a_gpu_is_refused(sample_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "large"
    checkpoint.mkdir()
    for file in sample_checkpoint.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    weights = safetensors.numpy.load_file(sample_checkpoint / "model.safetensors")
    inner = "distilbert.transformer.layer.0.ffn.lin1.weight"
    # Products of tens of thousands inside, and the same answers in float32: the next layer takes them back.
    weights[inner] = weights[inner] * np.float32(2**16)
    weights["distilbert.transformer.layer.0.ffn.lin2.weight"] *= np.float32(2**-16)
    safetensors.numpy.save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(ParityError, match="fp16 refused: a logit is not finite; nothing was written"):
        export(checkpoint, tmp_path / "bundle", variants="fp16", calibration=TEXTS)
    assert not (tmp_path / "bundle").exists()


def test_on_a_machine_with_a_gpu_the_gpu_judges(
    sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchless_export import bundling

    asked: list[str] = []
    monkeypatch.setattr(bundling, "cuda_problem", lambda index: None)
    monkeypatch.setattr("torchless.session.choose_device", lambda device: asked.append(str(device)) or device)
    # There is none, so that the runtime's own line on it is what comes of it.
    with pytest.raises(ProviderError):
        export(sample_checkpoint, tmp_path / "bundle", variants="fp16", calibration=TEXTS)
    assert asked == ["cuda:0"]


def verdict(change: float, flips: int, problem_type: str, texts: int = 2000) -> Any:
    chance = np.random.default_rng(0)
    comparison = LogitComparison(problem_type)
    for number in range(texts):
        row = np.array([2.0, -2.0], np.float32) * chance.choice([-1, 1])
        found = -row if number < flips else row + np.array([change, 0], np.float32)
        comparison.add(number, row, found.astype(np.float32))
    comparison.add_again(0, comparison._found[0])
    return _verdict(
        precision="fp16", reference="numpy", source="made up", comparison=comparison, alone=1, min_agreement=0.5,
        wrong_ids=[], device="cpu", labels=None, batch_invariant=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "flips", "problem_type", "failures"),
    [
        (0.01, 0, "single_label_classification", []),
        (0.5, 0, "single_label_classification", ["max_probability is 0.011, more than 0.005"]),
        # A flipped label moves its score as well.
        (0.0, 3, "single_label_classification",
         ["max_probability is 0.96, more than 0.005", "agreement 0.9985 on 2000 texts, less than 0.999"]),
        (0.01, 0, "multi_label_classification", []),
        # The values of a regression have no scale of their own.
        (0.05, 0, "regression", []),
        (0.9, 0, "regression", ["agreement 0.0000 on 2000 texts, less than 0.999"]),
    ],
)  # fmt: skip
def test_the_tolerance_is_its_own(change: float, flips: int, problem_type: str, failures: list[str]) -> None:
    assert list(verdict(change, flips, problem_type).failures) == failures


def test_fp16_is_made_when_asked_for_alone(sample_checkpoint: Path, tmp_path: Path) -> None:
    assert exporter.VARIANTS == ("fp32", "int8", "fp16")
    report = export(sample_checkpoint, tmp_path / "bundle", calibration=TEXTS)
    assert list(report.variants) == ["fp32", "int8"]
