"""A bundle's tokenizer gives the ids that the checkpoint's gives, whatever its files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import torchless

pytest.importorskip("onnx")
pytest.importorskip("optimum")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import transformers

from exports import LONG, MAX_LENGTH, TEXTS, encode, fast_export
from json_files import change_json
from torchless_export import export

CASED = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "The",
    "the",
    "café",
    "cafe",
    "CAFÉ",
    "CAFE",
    "film",
    "Film",
    "##s",
]
TRICKY = ["The Film", "the film", "café CAFÉ cafe", "THE films", "Cafés", ("The film", "café")]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True},
    ],
)
def test_tokenizer_options_are_resolved(
    make_checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, bool], stored: bool
):
    checkpoint = make_checkpoint("bert", vocab_size=200)
    (tmp_path / "vocab.txt").write_text("\n".join(CASED), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=MAX_LENGTH, **options)
    tokenizer.save_pretrained(checkpoint)
    # What tokenizer.json says of it is not what tokenizer_config.json says, and transformers heeds the latter.
    document = json.loads((checkpoint / "tokenizer.json").read_text())
    document["normalizer"] |= {"lowercase": stored, "strip_accents": stored}
    (checkpoint / "tokenizer.json").write_text(json.dumps(document))
    fast_export(checkpoint, tmp_path / "bundle", calibration=TRICKY)
    resolved = json.loads((tmp_path / "bundle" / "tokenizer.json").read_text())["normalizer"]
    assert resolved["lowercase"] is options["do_lower_case"]
    with torchless.pipeline(model=str(tmp_path / "bundle")) as pipeline:
        found = pipeline.preprocess(TRICKY)["input_ids"]
    np.testing.assert_array_equal(found, encode(checkpoint, TRICKY, padding=True)["input_ids"])


def test_stored_padding_and_truncation_do_not_survive(changed: Path, tmp_path: Path):
    change_json(
        changed / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 32}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    )  # fmt: skip
    fast_export(changed, tmp_path / "bundle")
    document = json.loads((tmp_path / "bundle" / "tokenizer.json").read_text())
    assert document["padding"] is None
    assert document["truncation"] is None
    with torchless.pipeline(model=str(tmp_path / "bundle")) as pipeline:
        found = pipeline.preprocess(["a good film is never too long", "x"])["input_ids"]
    wanted = encode(changed, ["a good film is never too long", "x"], padding=True)["input_ids"]
    assert found.shape == (2, 9)
    np.testing.assert_array_equal(found, wanted)


def test_the_side_that_loses_tokens_comes_along(make_checkpoint: Callable[..., Path], tmp_path: Path):
    checkpoint = make_checkpoint("bert", tokenizer={"truncation_side": "left"})
    report = export(checkpoint, tmp_path / "bundle", variants=("fp32",), calibration=TEXTS)
    assert report.passed
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    with torchless.pipeline(model=tmp_path / "bundle") as classify:
        found = classify.preprocess(LONG, truncation=True)["input_ids"][0].tolist()
    assert found == tokenizer(LONG, truncation=True)["input_ids"]
    assert (
        found
        != transformers.AutoTokenizer.from_pretrained(checkpoint, truncation_side="right")(LONG, truncation=True)[
            "input_ids"
        ]
    )


def test_a_tokenizer_without_token_types(make_checkpoint: Callable[..., Path], tmp_path: Path):
    """Its pairs have zeros, though the graph takes types and the template in tokenizer.json names them."""
    names = ["input_ids", "attention_mask"]
    export(
        make_checkpoint("bert", tokenizer={"model_input_names": names}),
        tmp_path / "bundle",
        converter="optimum",
        variants=("fp32",),
        calibration=TEXTS,
    )
    with torchless.pipeline(model=tmp_path / "bundle", device="cpu") as pipe:
        assert pipe.tokenizer_spec.inputs == ("input_ids", "attention_mask")
        inputs = pipe.preprocess(("a good film", "is it good?"))
        assert not inputs["token_type_ids"].any()
