"""Arguments of transformers' tokenizers and calls: what acts as there, and what both refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from comparison import TRANSFORMERS, Two
from contract_inputs import LONG, LONG_PAIR, PAIR, TEXTS, broken_texts
from torchless.errors import InputError, TorchlessWarning
from torchless.pipelines import factory

CASES = ("sample", "bert-bpe-raw-4-multi-left", "xlm-roberta-bpe-12-single-right")


@pytest.fixture(scope="module", params=CASES)
def two(request: pytest.FixtureRequest, open_two: Callable[..., Two]) -> Two:
    return open_two(request.param)


def test_max_length_alone_cuts(two: Two) -> None:
    with pytest.warns(TorchlessWarning, match="pass truncation=True"):
        two.agree([LONG, *TEXTS], max_length=6)
    two.agree([LONG[:90], *TEXTS], max_length=6, padding="max_length")  # but not with padding
    two.agree([LONG[:90], *TEXTS], max_length=6, truncation=False)


@pytest.mark.parametrize("padding", [False, True, "longest", "max_length", "do_not_pad"])
@pytest.mark.parametrize("truncation", [None, False, True, "longest_first", "only_first", "do_not_truncate"])
@pytest.mark.parametrize("multiple_of", [None, 8])
def test_padding_and_truncation(two: Two, padding: Any, truncation: Any, multiple_of: int | None) -> None:
    arguments = {"padding": padding, "truncation": truncation, "pad_to_multiple_of": multiple_of, "max_length": 16}
    if padding in (True, "longest") and truncation in (None, False, "do_not_truncate"):
        del arguments["max_length"]  # transformers warns that it ignores it
    if padding is False and truncation is None:
        with pytest.warns(TorchlessWarning, match="pass truncation=True"):
            two.agree(TEXTS, **arguments)
    for given in (TEXTS, [PAIR, "bad", {"text": LONG[:60], "text_pair": "never"}], "bad"):
        for size in (1, 2, 7):
            two.agree(given, batch_size=size, **arguments)


@pytest.mark.parametrize("strategy", ["only_first", "only_second", "longest_first"])
def test_pairs_that_are_cut(two: Two, strategy: str) -> None:
    for length in (6, 9, 17):
        room = {"only_first": ("text", "text_pair"), "only_second": ("text_pair", "text")}.get(strategy)
        pair = LONG_PAIR if room is None else {room[0]: LONG_PAIR["text"], room[1]: "a"}
        two.agree(pair, truncation=strategy, max_length=length)
        two.agree(
            [pair, {"text": "a", "text_pair": ""}], truncation=strategy, max_length=length, batch_size=2, top_k=None
        )


def test_their_enums_are_taken(two: Two) -> None:
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils import PaddingStrategy

    for strategy in (TruncationStrategy.LONGEST_FIRST, TruncationStrategy.DO_NOT_TRUNCATE):
        two.agree(TEXTS, truncation=strategy)
    for padding in PaddingStrategy:
        two.agree(TEXTS, padding=padding, max_length=30, truncation=True)


def test_no_token_types(open_two: Callable[..., Two]) -> None:
    two = open_two("bert-wordpiece-raw-2-single-right")
    for given in (PAIR, [PAIR, "bad"]):
        two.agree(given, return_token_type_ids=False)
        two.agree(given, return_token_type_ids=True)
    with_types, without = (two.ours(PAIR, return_token_type_ids=given)["score"] for given in (True, False))
    assert with_types != pytest.approx(without, abs=1e-4)


@pytest.mark.parametrize("argument", [{"verbose": False}, {"num_workers": 0}, {"stride": 1}], ids=str)
def test_what_changes_no_answer_is_ignored_with_a_warning(two: Two, argument: dict[str, Any]) -> None:
    with pytest.warns(TorchlessWarning, match="has no meaning here and is ignored"):
        two.agree([LONG, *TEXTS], truncation=True, max_length=9, **argument)
    two.agree("bad", **argument)


WRONG_INPUTS: dict[str, Any] = {
    "pair without its list": [["a", "b"]],
    "list of lists": [["a"], ["b"]],
    "three in an old pair": [[["a", "b", "c"]]],
    "an old pair of a number": [[["a", 3]]],
    "an old pair too deep": [[[["a", "b"]]]],
    "empty list in a list": [[]],
    "None": None,
    "a number": 3,
    "bytes": b"a",
    "None in a list": ["bad", None],
    "a number in a list": [3, "bad"],
    "None in a generator": lambda: (item for item in ["bad", None]),
    "None as text": {"text": None},
    "a number as text": {"text": 3},
    "a number as pair": {"text": "bad", "text_pair": 3},
    "a pair alone": {"text_pair": "bad"},
    "an empty dict": {},
    "a dict without text": {"sentence": "bad"},
    "a message of a chat": [{"role": "user", "content": "bad"}],
    "a lone surrogate": "\ud800",
    "a lone surrogate in a pair": {"text": "bad", "text_pair": "\udfff"},
}
WRONG_ARGUMENTS: dict[str, dict[str, Any]] = {
    "an unknown function": {"function_to_apply": "relu"},
    "transformers' own word for none given": {"function_to_apply": "default"},
    "a function without a name": {"function_to_apply": ""},
    "a number as function": {"function_to_apply": 3},
    "an unknown truncation": {"truncation": "left"},
    "a number as truncation": {"truncation": 3},
    "1 as truncation": {"truncation": 1},
    "a list as truncation": {"truncation": ["longest_first"]},
    "an unknown padding": {"padding": "left"},
    "None as padding": {"padding": None},
    "1 as padding": {"padding": 1},
    "a string as length": {"truncation": True, "max_length": "5"},
    "a float as length": {"truncation": True, "max_length": 5.0},
    "a length below zero": {"truncation": True, "max_length": -1},
    "a length that is no multiple": {"truncation": True, "padding": True, "max_length": 7, "pad_to_multiple_of": 4},
    "a string as multiple": {"padding": True, "pad_to_multiple_of": "8"},
    "a float as multiple": {"padding": True, "pad_to_multiple_of": 8.0},
    "a multiple below zero": {"padding": True, "pad_to_multiple_of": -8},
    "a number for a flag": {"add_special_tokens": 0},
    "None for a flag": {"add_special_tokens": None},
    "tensors": {"return_tensors": "np"},
    "words": {"is_split_into_words": True},
    "a text twice": {"text": "a"},
    "a number as pair": {"text_pair": 3},
    "a list as pair": {"text_pair": ["a"]},
    "cutting a pair that is not there": {"truncation": "only_second", "max_length": 3},
}


@pytest.mark.parametrize("given", WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_inputs_that_both_refuse(sample: Two, given: Any) -> None:
    sample.refuse(given)


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS.values(), ids=WRONG_ARGUMENTS)
def test_arguments_that_both_refuse(sample: Two, arguments: dict[str, Any]) -> None:
    sample.refuse("a good film", **arguments)
    sample.refuse(["a good film", "bad"], **arguments)


@pytest.mark.parametrize("size", [0, -1, "2", 2.0, True])
def test_batch_sizes_that_both_refuse(sample: Two, size: Any) -> None:
    sample.refuse(TEXTS, batch_size=size)


def test_a_pair_from_both_sides(sample: Two) -> None:
    for given in (PAIR, [PAIR], {"text": "a", "text_pair": None}, [[["a", "b"]]]):
        sample.refuse(given, text_pair="bad")


@hypothesis.settings(
    max_examples=50, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(text=broken_texts, before=st.lists(st.just("bad"), max_size=3), paired=st.booleans())
def test_lone_surrogates_are_refused_by_number(sample: Two, text: str, before: list[str], paired: bool) -> None:
    given = [*before, {"text": "bad", "text_pair": text} if paired else text, "bad"]
    sample.refuse(given)
    with pytest.raises(InputError, match=f"text {len(before)} holds a lone surrogate") as caught:
        sample.ours(given)
    assert caught.value.index == len(before)


def test_their_arguments_are_those_ignored() -> None:
    import inspect

    transformers = pytest.importorskip("transformers")
    known = {*inspect.signature(transformers.pipeline).parameters}
    known |= {*inspect.signature(transformers.Pipeline.__init__).parameters}
    of_both = {"task", "model", "device", "revision", "self", "kwargs"}
    # trust_remote_code and args_parser, modelcard: refused, or never given to transformers.pipeline.
    assert known - of_both <= factory._OF_TRANSFORMERS | {"trust_remote_code", "args_parser", "modelcard"}


@pytest.mark.skipif(TRANSFORMERS >= (5, 0), reason="transformers 5 ignores them: see test_differences.py")
@pytest.mark.parametrize("name", ["truncate", "tokenizer_kwargs"])
def test_unknown_arguments(sample: Two, name: str) -> None:
    sample.refuse("bad", **{name: True})
