"""An export that answers otherwise than PyTorch, or that is interrupted, leaves nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchless.errors import ParityError
from torchless.manifest import MANIFEST_NAME

pytest.importorskip("onnx")
pytest.importorskip("optimum")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnx

from exports import TEXTS, digests, fast_export
from quantized_graphs import negate_int8
from torchless_export import converters, export, exporter
from torchless_export.pytorch_reference import PyTorchReference


def _move(tensor: Any, by: float) -> None:
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] += by
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _sabotage_graph(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    build = converters.graph.build

    def sabotaged(*arguments: Any, **options: Any) -> Any:
        model = build(*arguments, **options)
        _move(next(t for t in model.graph.initializer if t.name == "classifier.bias"), by)
        return model

    monkeypatch.setattr(converters.graph, "build", sabotaged)


def _sabotage_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = PyTorchReference.tokenizer_json

    def sabotaged(self: Any) -> str:
        return resolve(self).replace('"lowercase": true', '"lowercase": false')

    monkeypatch.setattr(PyTorchReference, "tokenizer_json", sabotaged)


SABOTAGE: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = {
    "a weight of the graph": (lambda patch: _sabotage_graph(patch, 0.5), "fp32", "a logit differs by 0.5"),
    "a weight by 2e-4": (lambda patch: _sabotage_graph(patch, 2e-4), "fp32", "a logit differs by 0.0002"),
    "a weight is NaN": (lambda patch: _sabotage_graph(patch, float("nan")), "fp32", "a logit is not finite"),
    "the int8 graph": (negate_int8, "int8", "agreement 0.0000 on 10 texts, less than 0.5"),
    "the tokenizer": (_sabotage_tokenizer, "fp32", "token ids differ"),
    "the tolerance": (
        lambda patch: patch.setattr("torchless_export.parity.FP32_LOGITS", 0.0),
        "fp32",
        "a logit differs",
    ),
}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("what", SABOTAGE)
def test_a_variant_that_fails_fails_the_export(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, exists: bool
):
    sabotage, variant, message = SABOTAGE[what]
    target = tmp_path / "place" / "bundle"
    if exists:
        target.mkdir(parents=True)
        (target / MANIFEST_NAME).write_text("the old bundle")
    before = digests(target) if exists else {}
    sabotage(monkeypatch)
    texts = [text for text in TEXTS if text] if what == "the int8 graph" else TEXTS
    variants = ["fp32", "int8"] if variant == "int8" else ["fp32"]
    with pytest.raises(ParityError, match=f"{tiny.name}: {variant} refused: {re.escape(message)}") as caught:
        export(tiny, target, calibration=[*texts, "one more"], variants=variants, min_agreement=0.5, force=True)
    report = caught.value.report
    assert len(str(caught.value).splitlines()) == 1
    assert (report.bundle, report.passed) == (None, False)
    assert message in str(report)
    assert [name for name, v in report.variants.items() if not v.parity.passed] == [variant]
    if exists:
        assert digests(target) == before
        assert os.listdir(target.parent) == ["bundle"]
    else:
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupted_export_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(exporter.parity, "judge", interrupt)
    with pytest.raises(error):
        fast_export(tiny, tmp_path / "place" / "bundle")
    assert os.listdir(tmp_path) == []
