"""The one seam to optimum: what it knows is converted, and what goes wrong in it is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchless.errors import CheckpointError
from torchless_export import optimum_converter
from torchless_export.checkpoint import Checkpoint, open_checkpoint
from torchless_export.pytorch_reference import PyTorchReference

pytest.importorskip("optimum")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Checkpoint:
    return open_checkpoint(make_checkpoint())


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> PyTorchReference:
    return PyTorchReference(checkpoint)


def of(checkpoint: Checkpoint, architecture: str) -> Checkpoint:
    return replace(checkpoint, config={**checkpoint.config, "model_type": architecture})


@pytest.mark.parametrize(
    "architecture",
    ["distilbert", "bert", "roberta", "xlm-roberta", "deberta-v2", "albert", "mpnet", "electra", "modernbert"],
)
def test_what_optimum_knows_is_supported(checkpoint: Checkpoint, architecture: str):
    optimum_converter.check_supported(of(checkpoint, architecture))


@pytest.mark.parametrize("architecture", ["fnet", "perceptron-9000", "clip", "whisper"])
def test_what_optimum_does_not_know_is_refused(checkpoint: Checkpoint, architecture: str):
    with pytest.raises(
        CheckpointError, match=f"cannot export the architecture '{architecture}' for text-classif"
    ) as caught:
        optimum_converter.check_supported(of(checkpoint, architecture))
    assert str(caught.value).startswith(str(checkpoint.path / "config.json"))


def test_without_optimum_the_way_to_get_it_is_told(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimum_converter, "AVAILABLE", False)
    with pytest.raises(CheckpointError, match=r"needs optimum and PyTorch: pip install 'torchless\[cpu,optimum\]'"):
        optimum_converter.check_supported(checkpoint)


def test_the_graph_takes_free_axes_and_gives_logits(
    checkpoint: Checkpoint, reference: PyTorchReference, tmp_path: Path
):
    path = optimum_converter.convert(reference, checkpoint, tmp_path)
    assert path.parent == tmp_path
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask"]
    assert [o.name for o in graph.output] == ["logits"]
    for value in graph.input:
        assert all(axis.dim_param for axis in value.type.tensor_type.shape.dim)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "distilbert"


@pytest.mark.parametrize(
    ("raised", "wanted", "message"),
    [
        (
            RuntimeError("no such operator\nand a long story"),
            CheckpointError,
            "optimum cannot export it: no such operator and",
        ),
        (AssertionError(), CheckpointError, "optimum cannot export it: AssertionError"),
        (OSError(28, "No space left on device"), OSError, "No space left"),
        (Exception("No space left on device (os error 28)"), OSError, "No space left"),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
    ],
)
def test_what_goes_wrong_in_it_is_told(
    checkpoint: Checkpoint,
    reference: PyTorchReference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    wanted: type[BaseException],
    message: str,
):
    import optimum.exporters.onnx

    def fail(*arguments: Any, **options: Any) -> None:
        raise raised

    monkeypatch.setattr(optimum.exporters.onnx, "onnx_export_from_model", fail)
    with pytest.raises(wanted, match=message) as caught:
        optimum_converter.convert(reference, checkpoint, tmp_path)
    assert len(str(caught.value).splitlines()) <= 1
