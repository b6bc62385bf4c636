"""Exports for feature-extraction, of headed and of bare checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from torchless.errors import CheckpointError, ParityError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum")
pytest.importorskip("onnx")

from torchless_export import export, exporter, parity  # noqa: E402  # needs onnx
from torchless_export.pytorch_reference import PyTorchReference  # noqa: E402

TEXTS = [f"the {a} is {b} and {b}" for a in ("film", "book", "plot") for b in ("good", "bad", "dull", "sad")]


@pytest.fixture(autouse=True)
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "default_texts", lambda: TEXTS)


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def headed(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(request.param, labels=3)


@pytest.fixture
def bare(headed: Path, tmp_path: Path) -> Path:
    """The same checkpoint as its base model saves it."""
    folder = tmp_path / "bare"
    options = {"add_pooling_layer": False} if "distilbert" not in headed.name else {}
    transformers.AutoModel.from_pretrained(headed, **options).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(headed).save_pretrained(folder)
    return folder


def test_the_bundle_gives_the_base_models_hidden_states(headed: Path, tmp_path: Path) -> None:
    report = export(headed, tmp_path / "bundle", task="feature-extraction", calibration=TEXTS, min_agreement=0)
    manifest = json.loads((tmp_path / "bundle" / "torchless.json").read_bytes())
    assert (manifest["task"], manifest["labels"], manifest["problem_type"]) == ("feature-extraction", [], None)
    output = {"name": "last_hidden_state", "dtype": "float32", "axes": ["batch", "sequence", "hidden"]}
    for variant in manifest["variants"].values():
        assert variant["output"] == output
        measured = variant["parity"]
        assert {"max_hidden", "max_cosine_distance", "mean_cosine_distance", "agreement"} <= measured.keys()
        assert measured["batch_drift"].keys() == {"texts", "max_cosine_distance", "mean_cosine_distance"}
    assert manifest["variants"]["fp32"]["parity"]["tolerance"] == {"hidden": 1e-4, "agreement": 1.0, "cosine": 0.98}
    assert manifest["variants"]["int8"]["parity"]["tolerance"] == {"agreement": 0.0, "cosine": 0.98}
    head = str(report).splitlines()[0]
    assert " ".join(head.split()) == (
        "variant MB ids max |hidden| max 1 - cosine mean 1 - cosine agreement at least verdict"
    )
    base = transformers.AutoModel.from_pretrained(headed, dtype=torch.float32).eval()
    with torchless.pipeline(model=tmp_path / "bundle", variant="fp32", device="cpu") as features:
        inputs = features.preprocess(TEXTS)
        with torch.inference_mode():
            wanted = base(**{k: torch.from_numpy(v) for k, v in inputs.items()}).last_hidden_state.numpy()
        np.testing.assert_allclose(features.forward(inputs), wanted, rtol=0, atol=1e-5)


def test_a_bare_checkpoint_is_for_it_unasked(headed: Path, bare: Path, tmp_path: Path) -> None:
    """Without a pooler, too: the hidden state comes before it."""
    report = export(bare, tmp_path / "bundle", variants=("fp32",), calibration=TEXTS)
    assert (report.task, report.passed) == ("feature-extraction", True)
    export(headed, tmp_path / "other", task="feature-extraction", variants=("fp32",), calibration=TEXTS)
    with (
        torchless.pipeline(model=tmp_path / "bundle", device="cpu") as one,
        torchless.pipeline(model=tmp_path / "other", device="cpu") as other,
    ):
        np.testing.assert_allclose(one(TEXTS, pooling="mean"), other(TEXTS, pooling="mean"), rtol=0, atol=1e-6)


def test_a_bare_checkpoint_has_no_labels(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"its weights lack .*, which text-classification needs"):
        export(bare, tmp_path / "bundle", task="text-classification", calibration=TEXTS)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("broken", ["one element", "another direction"])
def test_the_gate_refuses_other_hidden_states(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    forward = PyTorchReference.forward

    def other(self: PyTorchReference, inputs: dict[str, Any]) -> np.ndarray:
        hidden = forward(self, inputs).copy()
        if broken == "one element":
            hidden[0, 0, 0] += 2e-4
        else:
            hidden[0] = hidden[0, :, ::-1]
        return hidden

    monkeypatch.setattr(PyTorchReference, "forward", other)
    with pytest.raises(ParityError, match="fp32 refused: an element of the hidden state differs by") as caught:
        export(
            make_checkpoint("bert"), tmp_path / "bundle", task="feature-extraction", variants=("fp32",),
            calibration=TEXTS,
        )  # fmt: skip
    verdict = caught.value.report.variants["fp32"].parity
    assert isinstance(verdict, parity.Parity)
    assert (verdict.agreement < 1) == (broken == "another direction")
    assert not (tmp_path / "bundle").exists()
