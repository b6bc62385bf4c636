"""Text classification against transformers' own, on the same checkpoints: the same shapes, labels and scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

from comparison import TRANSFORMERS, Two
from contract_cases import COVERING, TABLE
from contract_inputs import FORMS, LONG, LONG_PAIR, PAIR, TEXTS, calls, inputs
from torchless.errors import InputError, TorchlessWarning

# A case of each tokenizer, problem type and number of labels.
SOME = (
    "sample",
    "deberta-v2-wordpiece-2-single-right",
    "mpnet-wordpiece-1-unset-right",
    "bert-unigram-raw-12-multi-right",
    "roberta-bpe-raw-12-unset-right",
    "distilbert-bpe-raw-7-regression-right",
    "xlm-roberta-unigram-2-multi-left",
    "electra-wordpiece-raw-1-unset-left",
    "albert-bpe-1-regression-right",
)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top_k=1": {"top_k": 1},
    "top_k=2": {"top_k": 2},
    "top_k=None": {"top_k": None},
    "batch_size=1": {"batch_size": 1},
    "batch_size=4": {"batch_size": 4},
    "Softmax": {"function_to_apply": "Softmax"},
    "SIGMOID": {"function_to_apply": "SIGMOID", "top_k": None},
    "none": {"function_to_apply": "none", "top_k": 2},
    "truncation": {"truncation": True, "max_length": 5},
    "padding": {"padding": "max_length", "max_length": 20, "truncation": True},
    "padding to the longest": {"padding": True, "batch_size": 4},
    "padding to a multiple": {"padding": True, "pad_to_multiple_of": 8, "batch_size": 4},
    "a multiple without padding": {"pad_to_multiple_of": 8, "batch_size": 4},
    "no special tokens": {"add_special_tokens": False},
}

_slow = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="module", params=COVERING)
def covering(request: pytest.FixtureRequest, open_two: Callable[..., Two]) -> Two:
    """Each family, tokenizer, number of labels, problem type and padding side with every other once."""
    return open_two(request.param)


@pytest.fixture(scope="module", params=SOME)
def two(request: pytest.FixtureRequest, open_two: Callable[..., Two]) -> Two:
    return open_two(request.param)


def test_every_two_choices_stand_in_one_row() -> None:
    for a, b in itertools.combinations(range(len(TABLE[0])), 2):
        wanted = set(itertools.product({row[a] for row in TABLE}, {row[b] for row in TABLE}))
        # transformers 5 refuses a config of one label that says single_label_classification.
        assert wanted - {(row[a], row[b]) for row in TABLE} <= {(1, "single")}


def test_every_form_in_batches(covering: Two) -> None:
    for given, size in itertools.product(FORMS.values(), (1, 2, 7)):
        covering.agree(given, batch_size=size)
        covering.agree(given, batch_size=size, top_k=None)


@hypothesis.settings(max_examples=20, **_slow)
@hypothesis.given(given=inputs, arguments=calls)
def test_any_text(covering: Two, given: Any, arguments: dict[str, Any]) -> None:
    covering.agree(given, truncation=True, **arguments)


def test_how_long_a_text_may_be(covering: Two) -> None:
    limit = covering.ours.tokenizer_spec.position_limit
    if limit is None:
        covering.agree([LONG, "bad"])  # relative positions alone: nothing is too long
        return
    by_length = {len(covering.theirs.tokenizer(text)["input_ids"]): text for text in ("a " * n for n in range(80))}
    covering.agree(by_length[limit])
    with pytest.raises((IndexError, RuntimeError)):
        covering.theirs(by_length[limit + 1])
    says = f"{limit + 1} tokens, the model's position table holds {limit}; pass truncation=True"
    with pytest.raises(InputError, match=says):
        covering.ours(by_length[limit + 1])


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_every_form_of_input(two: Two, arguments: dict[str, Any]) -> None:
    for name, given in FORMS.items():
        if not (name == "empty string" and "add_special_tokens" in arguments):  # PyTorch takes no text of no tokens
            two.agree(given, **arguments)


@pytest.mark.parametrize("top_k", [1, 2, None])
@pytest.mark.parametrize("case", SOME)
def test_top_k_given_to_the_constructor(open_two: Callable[..., Two], case: str, top_k: int | None) -> None:
    two = open_two(case, top_k=top_k)
    for given in FORMS.values():
        two.agree(given)
    two.agree("bad", top_k=1)
    two.agree(TEXTS, top_k=None)


@pytest.mark.parametrize("case", SOME)
def test_arguments_for_every_call(open_two: Callable[..., Two], case: str) -> None:
    two = open_two(case, truncation=True, max_length=9, function_to_apply="sigmoid", batch_size=3)
    two.agree(TEXTS)
    two.agree([LONG, *TEXTS])
    two.agree([LONG, *TEXTS], max_length=5, function_to_apply="none", batch_size=2, top_k=None)
    two.agree(lambda: (text for text in [LONG, *TEXTS]), top_k=1)


@pytest.mark.parametrize("arguments", [{}, {"max_length": 7}, {"top_k": None}, {"batch_size": 2}], ids=str)
def test_over_long_texts_are_cut_alike(two: Two, arguments: dict[str, Any]) -> None:
    for given in (LONG, [LONG, "bad", LONG[:90]], LONG_PAIR, [LONG_PAIR, {"text": LONG, "text_pair": "bad"}, PAIR]):
        two.agree(given, truncation=True, **arguments)
        two.agree(given, truncation="longest_first", **arguments)
    two.agree({"text": LONG, "text_pair": "bad"}, truncation="only_first", **arguments)
    two.agree({"text": "bad", "text_pair": LONG}, truncation="only_second", **arguments)
    two.agree(lambda: (text for text in [LONG, "bad", LONG]), truncation=True, **arguments)


def test_a_pair_for_every_text(two: Two) -> None:
    for given in ("bad", TEXTS, {"text": "bad"}, ["bad", {"text": "never"}], lambda: (text for text in TEXTS)):
        for pair in ("is it good?", ""):
            two.agree(given, text_pair=pair)
            two.agree(given, text_pair=pair, top_k=None, batch_size=2)


def test_every_function(two: Two) -> None:
    from transformers.pipelines.text_classification import ClassificationFunction

    for function in (*ClassificationFunction, *ClassificationFunction.__members__, "nOnE", None):
        two.agree(TEXTS, function_to_apply=function)
        two.agree(PAIR, function_to_apply=function, top_k=None)


def test_no_texts(open_two: Callable[..., Two]) -> None:
    two = open_two("sample")
    assert two.ours([]) == two.ours([], top_k=None) == two.ours(()) == []
    if TRANSFORMERS < (5, 0):
        assert two.theirs([]) == []
    two.agree(lambda: (text for text in ()))


@pytest.mark.skipif(TRANSFORMERS >= (5, 0), reason="transformers 5 has no return_all_scores: see test_differences.py")
@pytest.mark.filterwarnings("ignore:`return_all_scores` is now deprecated:UserWarning")
class TestReturnAllScores:
    @pytest.fixture(autouse=True)
    def warned(self) -> Any:
        with pytest.warns(TorchlessWarning, match="return_all_scores is deprecated"):
            yield

    @pytest.mark.parametrize("everything", [True, False])
    @pytest.mark.parametrize("case", SOME)
    def test_at_call_time(self, open_two: Callable[..., Two], case: str, everything: bool) -> None:
        two = open_two(case)
        for given in FORMS.values():
            two.agree(given, return_all_scores=everything)
            two.agree(given, return_all_scores=everything, top_k=2)
            two.agree(given, return_all_scores=everything, function_to_apply="none", batch_size=2)

    @pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": None}, {"top_k": 1}], ids=str)
    @pytest.mark.parametrize("everything", [True, False])
    def test_in_the_constructor(self, open_two: Callable[..., Two], everything: bool, options: dict[str, Any]) -> None:
        two = open_two("bert-unigram-raw-12-multi-right", return_all_scores=everything, **options)
        for given in FORMS.values():
            two.agree(given)
            two.agree(given, top_k=3)
            two.agree(given, return_all_scores=not everything)
        ranked = open_two("bert-unigram-raw-12-multi-right", **options)
        ranked.agree(TEXTS, return_all_scores=everything)
        ranked.agree("bad", return_all_scores=everything)


@pytest.mark.parametrize("size", [None, 1, 2, 4])
@pytest.mark.parametrize("case", [name for name in COVERING if name.endswith("left")])
def test_left_padded_batches_are_theirs(open_two: Callable[..., Two], case: str, size: int | None) -> None:
    two = open_two(case)
    for given in (TEXTS, lambda: (text for text in TEXTS), [PAIR, PAIR | {"text": "bad"}]):
        two.agree(given, batch_size=size, top_k=None)


def test_left_padding_changes_answers(open_two: Callable[..., Two]) -> None:
    """Absolute positions count the padding: the reason for which batches must be theirs."""
    two = open_two("bert-bpe-raw-4-multi-left")
    alone, together = (two.ours(TEXTS, batch_size=size, function_to_apply="none") for size in (1, 6))
    assert max(abs(a["score"] - b["score"]) for a, b in zip(alone, together, strict=True)) > 1e-3


def test_every_number_of_labels_is_named_alike(two: Two) -> None:
    answers = two.ours("bad", top_k=None)
    assert sorted(answer["label"] for answer in answers) == sorted(two.theirs.model.config.id2label.values())
    assert len(two.ours.labels) == len(answers)
