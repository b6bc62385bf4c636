"""`TokenizersReference`: batches as transformers gives them, from the checkpoint's own files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless.errors import CheckpointError, InputError
from torchless_export.checkpoint import open_checkpoint
from torchless_export.tokenizer import TokenizersReference

Families = Mapping[str, dict[str, Any]]
Write = Callable[..., Path]


def reference(write: Write, family: dict[str, Any], name: str = "bert", **config: Any) -> TokenizersReference:
    merged = {key: value for key, value in (family["config"] | config).items() if value != "absent"}
    return TokenizersReference(open_checkpoint(write(name, family["document"], merged)))


def test_arrays(families: Families, write: Write):
    found = reference(write, families["bert"]).encode(["a film", ("good", "bad movie"), ""], None)
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == dict.fromkeys(
        ("input_ids", "token_type_ids", "attention_mask"), ((3, 6), np.dtype(np.int64))
    )
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]]
    assert found["token_type_ids"].tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], [0] * 6]
    pad = next(t["id"] for t in families["bert"]["document"]["added_tokens"] if t["content"] == "[PAD]")
    assert found["input_ids"][found["attention_mask"] == 0].tolist() == [pad] * 6


def test_the_left_side(families: Families, write: Write):
    sided = reference(write, families["bert"], padding_side="left", truncation_side="left")
    right = reference(write, families["bert"])
    found = sided.encode(["a", "the good film"], 4)
    assert found["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert found["input_ids"][1].tolist() == right.encode(["good film"], None)["input_ids"][0].tolist()


def test_one_call_leaves_no_trace_in_the_next(families: Families, write: Write):
    one = reference(write, families["bert"])
    before = one.encode(["the good film"], None)
    one.encode(["the good film", "a"], 3)
    np.testing.assert_equal(one.encode(["the good film"], None), before)


def test_without_a_pad_token(families: Families, write: Write):
    bare = reference(write, families["modernbert"], "modernbert", pad_token="absent")
    assert bare.encode(["hello"], None)["input_ids"].shape[0] == 1
    with pytest.raises(InputError, match="2 texts at once, and the tokenizer has no pad token; give them one by one"):
        bare.encode(["hello", "a film"], None)


@pytest.mark.parametrize("names", [["attention_mask"], ["input_ids"], ["token_type_ids", "pixel_values"]])
def test_ids_and_mask_are_always_given(families: Families, write: Write, names: list[str]):
    found = reference(write, families["bert"], model_input_names=names).encode(["a"], None)
    assert found.keys() == {"input_ids", "attention_mask", *names} - {"pixel_values"}


def test_it_reads_the_checkpoint_s_config(families: Families, write: Write):
    lower, kept = (reference(write, families["bert"], do_lower_case=value) for value in (True, False))
    assert lower.encode(["Hello"], None)["input_ids"].tolist() == lower.encode(["hello"], None)["input_ids"].tolist()
    assert kept.encode(["Hello"], None)["input_ids"].tolist() != kept.encode(["hello"], None)["input_ids"].tolist()


def test_what_transformers_4_cannot_load(families: Families, write: Write):
    five = reference(write, families["modernbert"], "modernbert", tokenizer_class="TokenizersBackend")
    four = reference(write, families["modernbert"], "modernbert")
    np.testing.assert_equal(five.encode(["Hello the film", "x"], 5), four.encode(["Hello the film", "x"], 5))
    with pytest.raises(CheckpointError, match="no version of transformers can load the tokenizer"):
        reference(write, families["bert"], padding_side="up")


def test_the_file_is_not_changed(families: Families, write: Write):
    folder = write("bert", families["bert"]["document"], families["bert"]["config"] | {"do_lower_case": False})
    before = (folder / "tokenizer.json").read_bytes()
    TokenizersReference(open_checkpoint(folder)).encode(["a", "b"], 3)
    assert (folder / "tokenizer.json").read_bytes() == before
    assert json.loads(before) == families["bert"]["document"]
