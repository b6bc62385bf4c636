"""The pipeline against transformers' own, on the same checkpoints: the same shapes, labels and scores.

What differs on purpose stands in `TestOnPurpose`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from torchless.batching import pad
from torchless.errors import InputError, TorchlessWarning, UnknownFunctionError
from torchless.hub_layout import read_tokenizer_spec
from torchless.limits import position_limit
from torchless.pipelines import factory
from torchless.tokenization import Tokenizer

TEXTS = ["a good film", "bad", "the plot is sad, but the actor is funny!", "never", "i love this book", "so dull"]
LONG = "the plot is dull and sad and long " * 80
# Short for its length: of a pair, the tokenizers library also computes every combination of the pieces cut off.
LONG_PAIR = {"text": LONG[:700], "text_pair": LONG[:300]}
PAIR = {"text": "a good film", "text_pair": "is it good?"}

# (family, labels, problem type): each family, each number of labels and each problem type with one another once.
CASES = [
    ("bert", 1, None),
    ("bert", 2, "single_label_classification"),
    ("bert", 5, "multi_label_classification"),
    ("roberta", 1, "regression"),
    ("roberta", 2, "multi_label_classification"),
    ("roberta", 5, "single_label_classification"),
    ("distilbert", 1, "single_label_classification"),
    ("distilbert", 2, None),
    ("distilbert", 5, "regression"),
]


@dataclass(frozen=True)
class Two:
    """One checkpoint, opened by transformers and, exported, by torchless."""

    theirs: Callable[..., Any]
    ours: Callable[..., Any]

    def agree(self, inputs: Any, **arguments: Any) -> None:
        """Call both, on a fresh `inputs()` where that is a function, and compare the answers."""
        same(*(plain(pipe(inputs() if callable(inputs) else inputs, **arguments)) for pipe in (self.ours, self.theirs)))


@pytest.fixture(scope="module")
def open_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Two]]:
    """Yield a function that opens a checkpoint in both, with the same arguments."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from torchless_export import export

    bundles: dict[Path, Path] = {}
    # Two pools of spinning threads in one process slow each other down; models this small need none.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def opened(checkpoint: Path, **arguments: Any) -> Two:
        if checkpoint not in bundles:
            bundles[checkpoint] = tmp_path_factory.mktemp("bundle") / "bundle"
            export(checkpoint, bundles[checkpoint], variants=("fp32",), calibration=TEXTS)
        theirs = transformers.pipeline("text-classification", str(checkpoint), device="cpu", **arguments)
        return Two(theirs, torchless.pipeline(model=bundles[checkpoint], device="cpu", threads=1, **arguments))

    yield opened
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[("sample",), *CASES], ids=lambda case: "-".join(map(str, case)))
def checkpoint(request: pytest.FixtureRequest, sample_checkpoint: Path) -> Path:
    if request.param == ("sample",):
        return sample_checkpoint
    family, labels, problem_type = request.param
    make = request.getfixturevalue("make_checkpoint")
    return make(family, labels=labels, seed=labels, problem_type=problem_type)


@pytest.fixture(scope="module")
def two(open_two: Callable[..., Two], checkpoint: Path) -> Two:
    return open_two(checkpoint)


def plain(answer: Any) -> Any:
    """Return an answer with its iterators read."""
    return answer if isinstance(answer, str | float | dict | list) else list(answer)


def same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for mine, yours in zip(ours, theirs, strict=True):
            same(mine, yours)
    else:
        assert list(ours) == list(theirs) == ["label", "score"]
        assert ours["label"] == theirs["label"]
        assert type(ours["score"]) is type(theirs["score"]) is float
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5, rel=1e-5)


FORMS = {
    "string": "a good film",
    "empty string": "",
    "list": TEXTS,
    "list of one": ["bad"],
    "dict": PAIR,
    "dict of text alone": {"text": "bad"},
    "dict without a pair": {"text": "bad", "text_pair": None},
    "list of dicts": [PAIR, {"text": "bad"}, {"text": "never", "text_pair": "so dull, so dull"}],
    "mixed list": ["bad", PAIR],
    "old pair": [[["a good film", "is it good?"]]],
    "old pairs": [[["a good film", "is it good?"]], [["bad", "never"]]],
    "generator": lambda: (text for text in TEXTS),
    "generator of dicts": lambda: (item for item in [PAIR, {"text": "bad"}]),
}
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
    "no special tokens": {"add_special_tokens": False},
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_every_form_of_input(two: Two, arguments: dict[str, Any]) -> None:
    for name, inputs in FORMS.items():
        if not (name == "empty string" and "add_special_tokens" in arguments):  # PyTorch takes no text of no tokens
            two.agree(inputs, **arguments)


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_top_k_given_to_the_constructor(open_two: Callable[..., Two], checkpoint: Path, top_k: int | None) -> None:
    two = open_two(checkpoint, top_k=top_k)
    for inputs in FORMS.values():
        two.agree(inputs)
    two.agree("bad", top_k=1)
    two.agree(TEXTS, top_k=None)


@pytest.mark.parametrize("arguments", [{}, {"max_length": 7}, {"top_k": None}, {"batch_size": 2}], ids=str)
def test_over_long_texts_are_cut_alike(two: Two, arguments: dict[str, Any]) -> None:
    for inputs in (LONG, [LONG, "bad", LONG[:90]], LONG_PAIR, [LONG_PAIR, {"text": LONG, "text_pair": "bad"}, PAIR]):
        two.agree(inputs, truncation=True, **arguments)
        two.agree(inputs, truncation="longest_first", **arguments)
    two.agree({"text": LONG, "text_pair": "bad"}, truncation="only_first", **arguments)
    two.agree({"text": "bad", "text_pair": LONG}, truncation="only_second", **arguments)
    two.agree(lambda: (text for text in [LONG, "bad", LONG]), truncation=True, **arguments)


def test_max_length_alone_cuts(two: Two) -> None:
    with pytest.warns(TorchlessWarning, match="pass truncation=True"):
        two.agree([LONG, *TEXTS], max_length=6)
    two.agree([LONG[:90], *TEXTS], max_length=6, padding="max_length")  # but not with padding
    two.agree([LONG[:90], *TEXTS], max_length=6, truncation=False)


def test_over_long_texts_are_no_answer(two: Two) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        two.theirs(LONG)
    with pytest.raises(InputError, match="pass truncation=True"):
        two.ours(LONG)


def test_arguments_for_every_call(open_two: Callable[..., Two], checkpoint: Path) -> None:
    two = open_two(checkpoint, truncation=True, max_length=9, function_to_apply="sigmoid", batch_size=3)
    two.agree(TEXTS)
    two.agree([LONG, *TEXTS])
    two.agree([LONG, *TEXTS], max_length=5, function_to_apply="none", batch_size=2, top_k=None)


WRONG: dict[str, tuple[Any, dict[str, Any]]] = {
    "pair without its list": ([["a", "b"]], {}),
    "list of lists": ([["a"], ["b"]], {}),
    "three in an old pair": ([[["a", "b", "c"]]], {}),
    "None": (None, {}),
    "a number": (3, {}),
    "None in a list": (["bad", None], {}),
    "a number in a list": ([3, "bad"], {}),
    "None in a generator": (lambda: (item for item in ["bad", None]), {}),
    "None as text": ({"text": None}, {}),
    "a dict without text": ({"sentence": "bad"}, {}),
    "a dict with more": ({"text": "bad", "label": 1}, {}),
    "a lone surrogate": ("\ud800", {}),
    "an unknown function": ("bad", {"function_to_apply": "relu"}),
    "a function without a name": ("bad", {"function_to_apply": ""}),
    "an unknown argument": ("bad", {"truncate": True}),
    "an unknown truncation": ("bad", {"truncation": "left"}),
    "an unknown padding": ("bad", {"padding": "left"}),
}


@pytest.mark.parametrize(("inputs", "arguments"), WRONG.values(), ids=WRONG)
def test_what_both_refuse(sample: Two, inputs: Any, arguments: dict[str, Any]) -> None:
    for pipe in (sample.ours, sample.theirs):
        with pytest.raises((ValueError, TypeError, KeyError)) as caught:
            plain(pipe(inputs() if callable(inputs) else inputs, **arguments))
        if "function_to_apply" in arguments:
            assert isinstance(caught.value, KeyError)
        elif pipe is sample.ours:
            assert isinstance(caught.value, InputError)


@pytest.fixture(scope="module")
def sample(open_two: Callable[..., Two], sample_checkpoint: Path) -> Two:
    return open_two(sample_checkpoint)


def test_no_texts(sample: Two) -> None:
    assert sample.ours([]) == sample.theirs([]) == []
    assert sample.ours([], top_k=None) == []


def test_their_enums_are_taken(sample: Two) -> None:
    from transformers.pipelines.text_classification import ClassificationFunction
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils import PaddingStrategy

    for function in ClassificationFunction:
        sample.agree(TEXTS, function_to_apply=function)
    for strategy in (TruncationStrategy.LONGEST_FIRST, TruncationStrategy.DO_NOT_TRUNCATE):
        sample.agree(TEXTS, truncation=strategy)
    sample.agree(TEXTS, padding=PaddingStrategy.MAX_LENGTH, max_length=30)


def test_their_arguments_are_those_ignored() -> None:
    import inspect

    transformers = pytest.importorskip("transformers")
    known = {*inspect.signature(transformers.pipeline).parameters}
    known |= {*inspect.signature(transformers.Pipeline.__init__).parameters}
    of_both = {"task", "model", "device", "revision", "self", "kwargs"}
    # trust_remote_code and args_parser, modelcard: refused, or never given to transformers.pipeline.
    assert known - of_both <= factory._OF_TRANSFORMERS | {"trust_remote_code", "args_parser", "modelcard"}


@pytest.fixture(scope="module")
def left(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("bert", labels=3, tokenizer={"padding_side": "left"})


class TestLeftPadding:
    """Absolute positions count the padding: the answer depends on the batch, and the batches must be theirs."""

    @pytest.mark.parametrize("size", [None, 1, 2, 4])
    def test_batches(self, open_two: Callable[..., Two], left: Path, size: int | None) -> None:
        two = open_two(left)
        for inputs in (TEXTS, lambda: (text for text in TEXTS), [PAIR, PAIR | {"text": "bad"}]):
            two.agree(inputs, batch_size=size, top_k=None)

    def test_the_answer_depends_on_them(self, open_two: Callable[..., Two], left: Path) -> None:
        two = open_two(left)
        alone, together = (two.ours(TEXTS, batch_size=size, function_to_apply="none") for size in (1, 6))
        assert max(abs(a["score"] - b["score"]) for a, b in zip(alone, together, strict=True)) > 1e-3


class TestTokenizers:
    def test_without_a_maximum(self, open_two: Callable[..., Two], make_checkpoint: Callable[..., Path]) -> None:
        two = open_two(make_checkpoint("roberta", tokenizer={"model_max_length": int(1e30)}))
        two.agree(TEXTS)
        two.agree(TEXTS, padding="max_length")
        with pytest.raises(RuntimeError):
            two.theirs(LONG, truncation=True)  # theirs cuts nowhere
        assert two.ours.max_length == 62  # the position table less RoBERTa's two
        assert two.ours(LONG, truncation=True) == two.ours(LONG, truncation=True, max_length=62)

    def test_without_a_pad_token(self, open_two: Callable[..., Two], make_checkpoint: Callable[..., Path]) -> None:
        two = open_two(make_checkpoint("bert", tokenizer={"pad_token": None}))
        for inputs in FORMS.values():
            two.agree(inputs, top_k=None)
        for pipe in (two.ours, two.theirs):
            with pytest.raises(ValueError):
                pipe(TEXTS, batch_size=2)
        assert two.ours.tokenizer_spec.pad_id is None


class TestOnPurpose:
    """Where torchless differs, and why."""

    def test_a_tuple_is_a_list(self, sample: Two) -> None:
        # transformers gives the first answer alone where the texts are of one length, else it fails.
        assert list(sample.theirs(("bad", "never"))) == ["label", "score"]
        with pytest.raises(ValueError):
            sample.theirs(("bad", "a good film"))
        for texts in (["bad", "never"], ["bad", "a good film"]):
            same(sample.ours(tuple(texts)), sample.theirs(texts))

    def test_any_iterator_is_a_stream(self, sample: Two) -> None:
        with pytest.raises(ValueError):
            sample.theirs(iter(TEXTS))  # only generators there
        same(list(sample.ours(iter(TEXTS))), sample.theirs(TEXTS))

    @pytest.mark.parametrize("top_k", [0, -1])
    def test_top_k_is_at_least_1(self, sample: Two, top_k: int) -> None:
        assert len(sample.theirs("bad", top_k=top_k)) == 2 + (top_k or -2)  # an empty answer, or all but the last
        with pytest.raises(InputError, match="wanted a whole number from 1"):
            sample.ours("bad", top_k=top_k)

    def test_a_pair_at_call_time_is_a_dict(self, sample: Two) -> None:
        assert sample.theirs("bad", text_pair="good")
        with pytest.raises(InputError, match="unknown argument 'text_pair'"):
            sample.ours("bad", text_pair="good")

    def test_an_unknown_function_is_an_error_of_ours(self, sample: Two) -> None:
        with pytest.raises(UnknownFunctionError, match="wanted one of softmax, sigmoid, none"):
            sample.ours("bad", function_to_apply="relu")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "checkpoints" / "distilbert-sst2-files"
    if not folder.is_dir():
        pytest.skip("the published tokenizer's files lie beside this repository, in shared/checkpoints")
    names = ("tokenizer.json", "tokenizer_config.json", "config.json")
    data, tokenizer_config, config = ((folder / name).read_bytes() for name in names)
    model = json.loads(config)
    spec = read_tokenizer_spec(json.loads(data), json.loads(tokenizer_config), model, position_limit(model))
    return Tokenizer(data, spec)


class TestPublishedTokenizer:
    """The two sentences of the Hugging Face course, by the tokenizer of distilbert-…-sst-2-english."""

    SENTENCES = ("I've been waiting for a HuggingFace course my whole life.", "I hate this so much!")
    IDS = (
        (101, 1045, 1005, 2310, 2042, 3403, 2005, 1037, 17662, 12172, 2607, 2026, 2878, 2166, 1012, 102),
        (101, 1045, 5223, 2023, 2061, 2172, 999, 102),
    )

    def test_ids(self, tokenizer: Tokenizer) -> None:
        assert [tuple(encoding.ids) for encoding in tokenizer.encode(self.SENTENCES)] == list(self.IDS)
        assert [tuple(tokenizer.encode([text])[0].ids) for text in self.SENTENCES] == list(self.IDS)
        assert tokenizer.spec.max_length == 512

    def test_a_padded_batch(self, tokenizer: Tokenizer) -> None:
        ids = [encoding.ids for encoding in tokenizer.encode(self.SENTENCES)]
        assert tokenizer.spec.pad_id == 0
        batch = pad(ids, tokenizer.spec.pad_id, side=tokenizer.spec.padding_side)
        mask = pad([[1] * len(row) for row in ids], 0, side=tokenizer.spec.padding_side)
        assert batch.dtype == mask.dtype == np.int64
        np.testing.assert_array_equal(batch, [self.IDS[0], (*self.IDS[1], *[0] * 8)])
        np.testing.assert_array_equal(mask, [[1] * 16, [1] * 8 + [0] * 8])
