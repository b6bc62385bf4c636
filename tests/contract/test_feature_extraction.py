"""Feature extraction against transformers' own at batch size 1, on the same checkpoints.

What differs on purpose stands in `TestOnPurpose`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

import torchless
from comparison import Two, fresh
from contract_inputs import LONG, TEXTS, texts
from torchless.errors import InputError

# Each family, each tokenizer, both sides of padding; one stored in halves.
SOME = (
    "sample",
    "bert-unigram-raw-12-multi-right",
    "distilbert-wordpiece-2-single-left",
    "roberta-bpe-raw-12-unset-right",
    "xlm-roberta-unigram-2-multi-left",
    "albert-bpe-1-regression-right",
    "electra-wordpiece-raw-1-unset-left",
    "mpnet-wordpiece-1-unset-right",
    "deberta-v2-wordpiece-2-single-right",
    "float16-bert",
)
CUT = {"truncation": True, "max_length": 6}


@pytest.fixture(scope="module")
def open_features(checkpoint_of: Callable[[str], Path], bundle_of: Callable[..., Path]) -> Iterator[Callable[..., Two]]:
    """Yield a function that opens a case in both, in float32 and with the same arguments."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def opened(name: str, **arguments: Any) -> Two:
        theirs = transformers.pipeline(
            "feature-extraction", str(checkpoint_of(name)), device="cpu", dtype=torch.float32, **arguments
        )
        bundle = bundle_of(name, "feature-extraction")
        return Two(torchless.pipeline("feature-extraction", bundle, device="cpu", threads=1, **arguments), theirs)

    yield opened
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=SOME)
def two(request: pytest.FixtureRequest, open_features: Callable[..., Two]) -> Two:
    return open_features(request.param)


@pytest.fixture(scope="module")
def sample(open_features: Callable[..., Two]) -> Two:
    return open_features("sample")


def same(two: Two, inputs: Any, ours: dict[str, Any] | None = None, **arguments: Any) -> None:
    """Call both, each on a fresh `inputs()` where that is a function, and compare the nested lists.

    `ours`: what torchless is asked beside.
    """
    mine = two.ours(fresh(inputs), **arguments, **(ours or {}))
    yours = two.theirs(fresh(inputs), **arguments)
    if callable(inputs):
        mine, yours = list(mine), list(yours)
    _compare(mine, yours)


def _compare(mine: Any, yours: Any) -> None:
    assert type(mine) is type(yours)
    if not isinstance(yours, list) or not yours:
        return
    assert len(mine) == len(yours)
    if isinstance(yours[0], float):
        np.testing.assert_allclose(mine, yours, rtol=1e-5, atol=1e-5)
    for a, b in zip(mine, yours, strict=True):
        _compare(a, b)


FORMS: dict[str, Any] = {
    "string": "a good film",
    "empty string": "",
    "list": TEXTS,
    "list of one": ["bad"],
    "empty list": [],
    "generator": lambda: (text for text in TEXTS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input(two: Two, form: str) -> None:
    if form == "empty list":
        assert two.ours([]) == []  # transformers 5.23 raises an IndexError
        return
    same(two, FORMS[form])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_our_batches_are_their_single_texts(two: Two, size: int) -> None:
    if two.ours.tokenizer_spec.padding_side == "left" and size > 1:
        pytest.skip("absolute positions count the padding on the left: the answer depends on the batch")
    same(two, TEXTS, ours={"batch_size": size})
    same(two, lambda: (text for text in TEXTS), ours={"batch_size": size})


def test_over_long_texts_are_cut_alike(two: Two) -> None:
    for inputs in (LONG, [LONG, "bad", LONG[:90]]):
        same(two, inputs, truncation=True)
        same(two, inputs, tokenize_kwargs=dict(CUT))
        same(two, inputs, truncation=True, tokenize_kwargs={"max_length": 7})
    same(two, "bad", tokenize_kwargs={"add_special_tokens": False})


def test_arguments_for_every_call(open_features: Callable[..., Two]) -> None:
    two = open_features("bert-unigram-raw-12-multi-right", tokenize_kwargs=dict(CUT))
    same(two, [LONG, *TEXTS])
    same(two, [LONG, *TEXTS], tokenize_kwargs={"max_length": 4})


@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(texts)
def test_any_text(two: Two, text: str) -> None:
    same(two, text, truncation=True)


def test_tensors(sample: Two) -> None:
    mine, yours = sample.ours(TEXTS, return_tensors="np"), sample.theirs(TEXTS, return_tensors=True)
    for a, b in zip(mine, yours, strict=True):
        assert (a.shape, a.dtype) == (tuple(b.shape), np.float32)
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        (None, {}),
        (3, {}),
        ([None], {}),
        (["bad", 3], {}),
        ({"text": "bad", "pair": "good"}, {}),
        ("\ud800", {}),
        ("bad", {"truncation": True, "tokenize_kwargs": {"truncation": True}}),
        ("bad", {"tokenize_kwargs": {"truncation": "left"}}),
    ],
    ids=repr,
)
def test_what_both_refuse(sample: Two, inputs: Any, arguments: dict[str, Any]) -> None:
    sample.refuse(inputs, **arguments)


class TestOnPurpose:
    """Where torchless differs, and why."""

    def test_padding_never_shows(self, sample: Two) -> None:
        """In transformers a text's rows depend on its company's lengths, and on padding asked for."""
        batched = sample.theirs(["bad", "a good film, is it?"], batch_size=2)
        assert len(batched[0][0]) == len(batched[1][0]) > len(sample.theirs("bad")[0])
        same(sample, ["bad", "a good film, is it?"], ours={"batch_size": 2})
        padded = sample.theirs("bad", tokenize_kwargs={"padding": "max_length", "max_length": 9, "truncation": True})
        ours = sample.ours("bad", padding="max_length", max_length=9, truncation=True)
        assert (len(padded[0]), len(ours[0])) == (9, 3)

    def test_tokenizer_arguments_may_stand_by_themselves(self, sample: Two) -> None:
        """transformers drops all but `truncation` without a word, and so it does with what it does not know."""
        assert len(sample.theirs(LONG[:90], max_length=5)[0]) > 5
        assert sample.ours(LONG[:90], truncation=True, max_length=5) == sample.ours(LONG[:90], tokenize_kwargs={
            "truncation": True, "max_length": 5})  # fmt: skip
        assert sample.theirs("bad", no_such_argument=True)
        with pytest.raises(InputError, match="unknown argument 'no_such_argument'"):
            sample.ours("bad", no_such_argument=True)

    def test_a_pair_is_a_dict(self, sample: Two) -> None:
        """As for text classification; transformers takes none here."""
        with pytest.raises((ValueError, TypeError, AttributeError)):
            sample.theirs({"text": "a good film", "text_pair": "is it good?"})
        assert len(sample.ours({"text": "a good film", "text_pair": "is it good?"})) == 1

    def test_a_list_in_a_list_is_refused(self, sample: Two) -> None:
        """transformers takes it for a batch, which fails unless all are of one length."""
        assert len(sample.theirs([["bad", "good"]])[0]) == 2
        with pytest.raises(ValueError):
            sample.theirs([["bad", "a good film"]])
        with pytest.raises(InputError, match="is a list"):
            sample.ours([["bad", "good"]])

    def test_arrays_are_numpys(self, sample: Two) -> None:
        """There is no PyTorch to make a tensor of."""
        assert type(sample.ours("bad", return_tensors=True)) is np.ndarray
        with pytest.raises(InputError, match="wanted 'np'"):
            sample.ours("bad", return_tensors="pt")
