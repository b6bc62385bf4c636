"""`torchless_bench.inputs`: the same ids and texts for everybody, of the lengths asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless import Bundle
from torchless.errors import InputError
from torchless.tokenization import Tokenizer
from torchless_bench.inputs import Inputs, sentences
from torchless_bench.workloads import WORKLOADS

ROWS = {row.name: row for row in WORKLOADS}


@pytest.fixture(scope="module")
def bundle(sample_bundle: Path) -> Bundle:
    return Bundle.open(sample_bundle)


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> Tokenizer:
    return Tokenizer(bundle.read("tokenizer.json"), bundle.manifest.tokenizer)


def limited(bundle: Bundle, **changes: int | None) -> Bundle:
    """`bundle` whose model takes other lengths."""
    spec = dataclasses.replace(bundle.manifest.tokenizer, **changes)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, tokenizer=spec))


@pytest.mark.parametrize("row", [row for row in WORKLOADS if row.kind == "forward"], ids=lambda row: row.name)
def test_ids_have_the_shape_and_no_padding(bundle, row):
    ids = np.array(Inputs(bundle).arguments(row)["ids"])
    assert ids.shape == (row.rows, row.tokens)
    assert (ids != bundle.manifest.tokenizer.pad_id).all()
    assert ids.min() >= 0
    assert ids.max() < bundle.config()["vocab_size"]
    if ids.size > 1000:
        assert len(np.unique(ids)) > min(ids.size, bundle.config()["vocab_size"]) / 2


def test_ids_are_all_of_the_vocabulary_but_the_pad_token(bundle):
    small = dataclasses.replace(bundle)
    assert small.manifest.tokenizer.pad_id == 0
    small.config()["vocab_size"] = 4
    assert set(np.array(Inputs(small).arguments(ROWS["32x32"])["ids"]).flat) == {1, 2, 3}


@pytest.mark.parametrize("row", [row for row in WORKLOADS if row.name.startswith("text") and row.tokens], ids=str)
def test_text_has_exactly_so_many_tokens(bundle, tokenizer, row):
    given = Inputs(bundle).arguments(row)
    [text] = given["texts"]
    assert len(tokenizer.encode([text])[0]) == row.tokens
    assert given["batch_size"] == 1


def test_same_seed_same_inputs(bundle):
    for name in ("32x32", "text32", "texts"):
        first, second, other = (Inputs(bundle, seed=seed).arguments(ROWS[name]) for seed in (1, 1, 2))
        assert first == second
        assert first != other


def test_texts_of_the_user_replace_the_sentences(bundle):
    inputs = Inputs(bundle, texts=["film", "movie"])
    assert inputs.arguments(ROWS["texts"]) == {"texts": ["film", "movie"], "batch_size": 32}
    assert inputs.work(ROWS["texts"]) == 2
    assert inputs.work(ROWS["32x32"]) == 32
    assert inputs.work(ROWS["text16"]) == 1
    assert inputs.lengths(ROWS["texts"]) == [3, 3]
    assert inputs.lengths(ROWS["32x128"]) == [128] * 32


def test_texts_of_the_user_may_be_longer_than_the_model_takes(bundle):
    inputs = Inputs(limited(bundle, max_length=None, position_limit=20), texts=["film", "film " * 30])
    assert inputs.lengths(ROWS["texts"]) == [3, 20]


def test_what_is_beside_the_graph(bundle):
    inputs = Inputs(bundle)
    [text] = inputs.arguments(ROWS["text16"])["texts"]
    assert inputs.arguments(ROWS["beside16"]) == {"text": text, "tokenizer": True}
    assert inputs.arguments(ROWS["python16"]) == {"text": text, "tokenizer": False}


@pytest.mark.parametrize("changes", [{"max_length": 100}, {"max_length": None, "position_limit": 100}])
def test_longer_than_the_model_takes(bundle, changes):
    inputs = Inputs(limited(bundle, **changes))
    inputs.arguments(ROWS["1x32"])
    for name in ("1x128", "text128"):
        with pytest.raises(InputError, match="128 tokens, the model takes at most 100"):
            inputs.arguments(ROWS[name])


def test_a_length_that_no_text_has(bundle):
    inputs = Inputs(bundle)
    with pytest.raises(InputError, match="no text of 1 tokens"):  # [CLS] and [SEP] are two already
        inputs.arguments(dataclasses.replace(ROWS["text8"], tokens=1))


@given(st.integers(1, 300), st.integers(0, 5))
def test_as_many_sentences_as_asked_for(count, seed):
    made = sentences(count, seed)
    assert len(made) == count
    assert all(1 <= len(sentence.split()) <= 47 for sentence in made)


def test_sentences_are_as_long_as_those_of_sst2():
    lengths = [len(sentence.split()) for sentence in sentences(872)]
    # Of SST-2's dev set: 18.7 on average, half of them between 12 and 25.
    assert np.mean(lengths) == pytest.approx(18.7, abs=0.5)
    assert np.percentile(lengths, (25, 50, 75)) == pytest.approx((12, 18, 25), abs=1)
