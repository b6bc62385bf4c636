"""A bundle is a directory that Hugging Face's tools read too, and they give the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import torchless
from torchless.manifest import MANIFEST_NAME
from torchless_export import export

transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.onnxruntime")

TEXTS = ["a good film", "bad", "what a waste of life !", "", "waiting " * 90]


@pytest.fixture(scope="module", params=["distilbert", "bert"])
def bundle(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "bundle"
    export(make_checkpoint(request.param, labels=3), target, calibration=TEXTS, min_agreement=0)
    return target


@pytest.mark.parametrize(
    ("variant", "file_name"), [("fp32", None), ("fp32", "model.onnx"), ("int8", "model_int8.onnx")]
)
def test_optimum_and_transformers_answer_as_torchless_does(bundle: Path, variant: str, file_name: str | None):
    from optimum.onnxruntime import ORTModelForSequenceClassification

    named = {"file_name": file_name} if file_name else {}
    model = ORTModelForSequenceClassification.from_pretrained(bundle, **named)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    with torchless.pipeline(model=str(bundle), variant=variant) as ours:
        for text in TEXTS:
            inputs = tokenizer(text, truncation=True, return_tensors="np")
            found = ours.preprocess(text, truncation=True)
            for name, array in found.items():
                np.testing.assert_array_equal(array, inputs[name])
            # int8 leaves the order of float32 sums to the fusions that each session allows.
            np.testing.assert_allclose(
                ours.forward(found), model(**inputs).logits, rtol=0, atol=1e-5 if variant == "fp32" else 1e-2
            )
        theirs = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        wanted = theirs(TEXTS, truncation=True, batch_size=1)
        answers = ours(TEXTS, truncation=True, batch_size=1)
        assert [row["label"] for row in answers] == [row["label"] for row in wanted]
        assert [row["score"] for row in answers] == pytest.approx([row["score"] for row in wanted], abs=1e-2)
    assert model.config.id2label == dict(enumerate(json.loads((bundle / MANIFEST_NAME).read_text())["labels"]))


def test_a_config_and_a_fast_tokenizer_are_found(bundle: Path):
    assert transformers.AutoConfig.from_pretrained(bundle).num_labels == 3
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    assert tokenizer.is_fast
    assert tokenizer.model_max_length == 62
    assert tokenizer.pad_token == "[PAD]"
