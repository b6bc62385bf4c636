"""The tokenizer of distilbert-base-uncased-finetuned-sst-2-english, read from its published files alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from contract_inputs import texts
from torchless.batching import pad
from torchless.hub_layout import read_tokenizer_spec
from torchless.limits import position_limit
from torchless.tokenization import Tokenizer, Truncation

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FOLDER = SHARED / "checkpoints" / "distilbert-sst2-files"

# The two sentences of the Hugging Face course.
SENTENCES = ("I've been waiting for a HuggingFace course my whole life.", "I hate this so much!")
IDS = (
    (101, 1045, 1005, 2310, 2042, 3403, 2005, 1037, 17662, 12172, 2607, 2026, 2878, 2166, 1012, 102),
    (101, 1045, 5223, 2023, 2061, 2172, 999, 102),
)
PAIRS = [
    ("A film.", "A good one, née 1999…"),
    ("", "second alone"),
    ("映画はとても面白かった。", "👩‍👩‍👧 \u200d [SEP]"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    if not FOLDER.is_dir():
        pytest.skip("the published tokenizer's files lie beside this repository, in shared/checkpoints")
    names = ("tokenizer.json", "tokenizer_config.json", "config.json")
    data, tokenizer_config, config = ((FOLDER / name).read_bytes() for name in names)
    model = json.loads(config)
    spec = read_tokenizer_spec(json.loads(data), json.loads(tokenizer_config), model, position_limit(model))
    # What is too long for the model is compared too.
    return Tokenizer(data, dataclasses.replace(spec, position_limit=None))


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer) -> Any:
    """The same files, loaded by transformers."""
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(FOLDER)


def test_ids(tokenizer: Tokenizer) -> None:
    assert [tuple(encoding.ids) for encoding in tokenizer.encode(SENTENCES)] == list(IDS)
    assert [tuple(tokenizer.encode([text])[0].ids) for text in SENTENCES] == list(IDS)
    assert tokenizer.spec.max_length == 512


def test_a_padded_batch(tokenizer: Tokenizer) -> None:
    ids = [encoding.ids for encoding in tokenizer.encode(SENTENCES)]
    assert tokenizer.spec.pad_id == 0
    batch = pad(ids, tokenizer.spec.pad_id, side=tokenizer.spec.padding_side)
    mask = pad([[1] * len(row) for row in ids], 0, side=tokenizer.spec.padding_side)
    assert batch.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(batch, [IDS[0], (*IDS[1], *[0] * 8)])
    np.testing.assert_array_equal(mask, [[1] * 16, [1] * 8 + [0] * 8])


def test_the_sentences_of_sst2(tokenizer: Tokenizer, theirs: Any) -> None:
    lines = (SHARED / "data" / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t")[0] for line in lines]
    assert len(sentences) == 872
    wanted = theirs(sentences)["input_ids"]
    assert [encoding.ids for encoding in tokenizer.encode(sentences)] == wanted


def test_texts_of_many_languages(tokenizer: Tokenizer, theirs: Any) -> None:
    given = [*pytest.importorskip("torchless_export.texts").default_texts(), *PAIRS]
    assert len(given) > 500
    for truncation, cut in ((None, {}), (Truncation(9), {"truncation": True, "max_length": 9})):
        wanted = theirs(given, **cut)
        found = tokenizer.encode(given, truncation=truncation)
        assert [encoding.ids for encoding in found] == wanted["input_ids"]
        assert [len(encoding) for encoding in found] == [sum(mask) for mask in wanted["attention_mask"]]


@hypothesis.settings(
    max_examples=200, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(given=st.one_of(texts, st.tuples(texts, texts)), length=st.integers(4, 40))
def test_any_text(tokenizer: Tokenizer, theirs: Any, given: Any, length: int) -> None:
    cut = given if isinstance(given, str) else tuple(part[:60] for part in given)
    assert tokenizer.encode([given])[0].ids == theirs([given])["input_ids"][0]
    wanted = theirs([cut], truncation=True, max_length=length)["input_ids"][0]
    assert tokenizer.encode([cut], truncation=Truncation(length))[0].ids == wanted
