"""`torchless.pipelines.text_classification`: the shapes of answers, the steps one by one, many threads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from torchless import TextClassificationPipeline
from torchless.errors import InferenceError, InputError, InputTypeError, TorchlessWarning, UnknownFunctionError
from torchless.postprocess import sigmoid, softmax

TEXTS = ["a fine film", "dull", "the jokes are old and the plot is older", "", "it says nothing at all", "great fun"]
PAIR = {"text": "a fine film", "text_pair": "dull"}


@pytest.fixture
def open_as(bundle_copy: Path) -> Callable[..., TextClassificationPipeline]:
    """Return a function that opens a copy of the sample as a model of another problem type."""

    def opened(problem_type: str, **options: Any) -> TextClassificationPipeline:
        manifest = json.loads((bundle_copy / "torchless.json").read_bytes()) | {"problem_type": problem_type}
        (bundle_copy / "torchless.json").write_text(json.dumps(manifest), encoding="utf-8")
        return torchless.pipeline(model=bundle_copy, variant="fp32", device="cpu", **options)

    return opened


@pytest.fixture
def logits_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Return a function after which the graph gives these logits for every text."""

    def give(row: list[float]) -> None:
        def run(session: Any, inputs: Any) -> Any:
            return np.array([row] * len(inputs["input_ids"]), np.float32)

        monkeypatch.setattr("torchless.session.Session.run", run)

    return give


def shape(answer: Any) -> Any:
    """Return the answer with its values left out: "d" for {"label", "score"}, in as many lists as it stands."""
    if isinstance(answer, dict):
        assert list(answer) == ["label", "score"]
        assert type(answer["label"]) is str
        assert type(answer["score"]) is float
        return "d"
    assert type(answer) is list
    return [shape(item) for item in answer]


class TestShapes:
    """What transformers 4.57.6 gives, by the form of the input and where `top_k` was named."""

    @pytest.mark.parametrize(
        ("inputs", "plain", "at_call", "at_constructor"),
        [
            ("fine", ["d"], ["d", "d"], [["d", "d"]]),
            (PAIR, "d", ["d", "d"], ["d", "d"]),
            (["fine"], ["d"], [["d", "d"]], [["d", "d"]]),
            (["fine", PAIR], ["d", "d"], [["d", "d"]] * 2, [["d", "d"]] * 2),
            ([[["fine", "dull"]]], ["d"], [["d", "d"]], [["d", "d"]]),
            (("fine", "dull"), ["d", "d"], [["d", "d"]] * 2, [["d", "d"]] * 2),
            ([], [], [], []),
        ],
    )
    def test_by_input(
        self,
        pipe: TextClassificationPipeline,
        sample_bundle: Path,
        inputs: Any,
        plain: Any,
        at_call: Any,
        at_constructor: Any,
    ) -> None:
        assert shape(pipe(inputs)) == plain
        assert shape(pipe(inputs, top_k=None)) == at_call
        assert shape(pipe(inputs, top_k=2)) == at_call
        named = torchless.pipeline(model=sample_bundle, variant="fp32", top_k=None)
        assert shape(named(inputs)) == at_constructor
        assert shape(named(inputs, top_k=2)) == at_call

    def test_top_1_said_aloud_is_a_list(self, pipe: TextClassificationPipeline, sample_bundle: Path) -> None:
        assert shape(pipe("fine", top_k=1)) == ["d"]
        assert shape(pipe(["fine"], top_k=1)) == [["d"]]
        named = torchless.pipeline(model=sample_bundle, variant="fp32", top_k=1)
        assert shape(named("fine")) == [["d"]]
        assert shape(named(["fine"])) == [["d"]]

    @pytest.mark.parametrize(("top_k", "wanted"), [({}, "d"), ({"top_k": 1}, ["d"]), ({"top_k": None}, ["d", "d"])])
    def test_a_stream_is_an_iterator(self, pipe: TextClassificationPipeline, top_k: Any, wanted: Any) -> None:
        for stream in (iter(["fine", PAIR]), (text for text in ["fine", PAIR]), {"fine": 1, "dull": 2}.keys()):
            answers = pipe(stream, **top_k)
            assert iter(answers) is answers
            assert shape(list(answers)) == [wanted, wanted]

    @pytest.mark.parametrize(
        ("window", "batch_size", "ahead"), [(None, None, 32), (None, 4, 4), (100, 4, 100), (8, None, 8)]
    )
    def test_a_stream_reads_so_far_ahead(
        self, pipe: TextClassificationPipeline, window: int | None, batch_size: int | None, ahead: int
    ) -> None:
        texts = [f"{'very ' * (i * 7 % 11)}fine {i}" for i in range(130)]
        read: list[str] = []
        answers = pipe((read.append(text) or text for text in texts), window=window, batch_size=batch_size)
        assert read == []
        first = next(answers)
        assert len(read) == ahead
        found = [first, *answers]
        wanted = pipe(texts)
        assert [answer["label"] for answer in found] == [answer["label"] for answer in wanted]
        assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in wanted], abs=1e-6)

    def test_a_dataset_is_a_stream_with_a_length(self, pipe: TextClassificationPipeline) -> None:
        class Rows:
            """As `torch.utils.data.Dataset`: no iterator, no IndexError at its end."""

            read = 0

            def __len__(self) -> int:
                return 5

            def __getitem__(self, i: int) -> str:
                self.read += 1
                return TEXTS[i % 5]

        dataset = Rows()
        answers = pipe(dataset, batch_size=2)
        assert dataset.read == 0
        assert len(answers) == 5
        first = next(answers)
        assert dataset.read == 2
        assert [first, *answers] == pipe(TEXTS[:5], batch_size=2)
        assert dataset.read == 5

    def test_more_than_there_are_labels(self, pipe: TextClassificationPipeline) -> None:
        assert pipe("fine", top_k=9) == pipe("fine", top_k=None)

    @pytest.mark.parametrize("inputs", [None, 3, b"fine", bytearray(b"fine"), [None], [3], [b"fine"], [{"a": "b"}]])
    def test_no_text(self, pipe: TextClassificationPipeline, inputs: Any) -> None:
        with pytest.raises(InputTypeError):
            pipe(inputs)

    def test_a_list_of_strings_in_a_list_might_be_a_pair(self, pipe: TextClassificationPipeline) -> None:
        with pytest.raises(InputError, match=r'input 0 is a list; pass \{"text"'):
            pipe([["fine", "dull"]])

    def test_a_wrong_argument_is_told_before_the_stream_is_read(self, pipe: TextClassificationPipeline) -> None:
        for wrong in (
            {"top_k": 0},
            {"function_to_apply": "relu"},
            {"batch_size": 0},
            {"window": 0},
            {"truncate": True},
        ):
            with pytest.raises(InputError):
                pipe(iter(["fine"]), **wrong)


class TestArguments:
    """Of transformers' calls, beside those of its tokenizers."""

    def test_a_pair_for_every_text(self, pipe: TextClassificationPipeline) -> None:
        wanted = pipe(PAIR)
        assert pipe("a fine film", text_pair="dull") == [wanted]
        assert pipe({"text": "a fine film"}, text_pair="dull") == wanted
        assert pipe(["a fine film"] * 2, text_pair="dull", top_k=1, batch_size=1) == [[wanted]] * 2
        assert list(pipe(iter(["a fine film"]), text_pair="dull")) == [wanted]
        assert pipe("a fine film", text_pair="") == pipe("a fine film")
        for inputs, text_pair in ((PAIR, "dull"), ([["a", "b"]], "dull"), ("a fine film", 3), (["a"], ["b"])):
            with pytest.raises(InputTypeError, match="text_pair"):
                pipe(inputs if isinstance(inputs, str | dict) else [inputs], text_pair=text_pair)

    def test_all_scores_by_their_former_name(self, pipe: TextClassificationPipeline, sample_bundle: Path) -> None:
        with pytest.warns(TorchlessWarning, match="return_all_scores is deprecated"):
            everything = pipe("fine", return_all_scores=True)
        assert shape(everything) == [["d", "d"]]
        assert [answer["label"] for answer in everything[0]] == list(pipe.labels)
        best = pipe("fine", top_k=None)
        assert best[0]["label"] == pipe.labels[1]
        assert sorted(everything[0], key=lambda answer: -answer["score"]) == best
        assert pipe(["fine"], return_all_scores=True) == everything
        assert pipe(PAIR | {"text": "fine", "text_pair": None}, return_all_scores=True) == everything[0]
        assert pipe("fine", return_all_scores=False) == pipe("fine")
        assert pipe("fine", return_all_scores=True, top_k=1) == best[:1]
        named = torchless.pipeline(model=sample_bundle, variant="fp32", device="cpu", return_all_scores=True)
        assert named("fine") == everything
        assert named("fine", return_all_scores=False) == pipe("fine")
        assert named("fine", top_k=None) == best
        ranked = torchless.pipeline(model=sample_bundle, variant="fp32", device="cpu", top_k=2)
        assert ranked("fine", return_all_scores=True) == [best]
        assert ranked("fine", return_all_scores=False) == [best[:1]]

    def test_token_types_of_a_pair(self, pipe: TextClassificationPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipe, "_graph_inputs", ("input_ids", "token_type_ids"))
        assert pipe.tokenizer_spec.inputs == ("input_ids", "attention_mask")
        assert not pipe.preprocess(PAIR)["token_type_ids"].any()
        assert pipe.preprocess(PAIR, return_token_type_ids=True)["token_type_ids"].any()
        spec = dataclasses.replace(pipe.tokenizer_spec, inputs=("input_ids", "attention_mask", "token_type_ids"))
        monkeypatch.setattr(pipe._tokenizer, "spec", spec)
        assert pipe.preprocess(PAIR)["token_type_ids"].any()
        assert not pipe.preprocess(PAIR, return_token_type_ids=False)["token_type_ids"].any()


class TestPostprocess:
    LOGITS = np.array([[1, -1], [-2, 3], [0.5, 0.5]], np.float32)

    def test_rows(self, pipe: TextClassificationPipeline) -> None:
        answers = pipe.postprocess(self.LOGITS)
        assert [answer["label"] for answer in answers] == ["NEGATIVE", "POSITIVE", "NEGATIVE"]  # a tie: the first
        assert [answer["score"] for answer in answers] == pytest.approx(softmax(self.LOGITS).max(axis=1).tolist())
        assert shape(pipe.postprocess(self.LOGITS, top_k=None)) == [["d", "d"]] * 3
        assert shape(pipe.postprocess(self.LOGITS.tolist(), top_k=2)) == [["d", "d"]] * 3
        assert pipe.postprocess(self.LOGITS[:0]) == []

    def test_best_first(self, pipe: TextClassificationPipeline) -> None:
        rows = pipe.postprocess(self.LOGITS, top_k=None, function_to_apply="none")
        assert rows[1] == [{"label": "POSITIVE", "score": 3.0}, {"label": "NEGATIVE", "score": -2.0}]

    @pytest.mark.parametrize(
        ("problem_type", "wanted"),
        [
            ("single_label_classification", softmax),
            ("multi_label_classification", sigmoid),
            ("regression", lambda logits: logits),
        ],
    )
    def test_the_function_follows_the_problem_type(self, open_as: Any, problem_type: str, wanted: Any) -> None:
        pipe = open_as(problem_type)
        scores = [answer["score"] for answer in pipe.postprocess(self.LOGITS)]
        assert scores == pytest.approx(wanted(self.LOGITS).max(axis=1).tolist())

    def test_a_function_for_every_call_yields_to_the_calls_own(self, open_as: Any) -> None:
        pipe = open_as("single_label_classification", function_to_apply="Sigmoid")
        logits = pipe.forward(pipe.preprocess("fine"))
        best = logits.argmax()
        assert pipe("fine")[0]["score"] == pytest.approx(sigmoid(logits)[0, best])
        assert pipe("fine", function_to_apply="SoftMax")[0]["score"] == pytest.approx(softmax(logits)[0, best])
        assert pipe("fine", function_to_apply="NONE")[0]["score"] == pytest.approx(logits[0, best])
        assert pipe.explain("fine").function == "sigmoid"

    @pytest.mark.parametrize("name", ["relu", "", 3])
    def test_an_unknown_function_is_a_key_error(
        self, pipe: TextClassificationPipeline, sample_bundle: Path, name: Any
    ) -> None:
        for call in (
            lambda: pipe("fine", function_to_apply=name),
            lambda: pipe.postprocess(self.LOGITS, function_to_apply=name),
            lambda: torchless.pipeline(model=sample_bundle, function_to_apply=name),
        ):
            with pytest.raises(KeyError) as caught:
                call()
            assert type(caught.value) is UnknownFunctionError
            assert str(caught.value) == f"function_to_apply is {name!r}, wanted one of softmax, sigmoid, none"

    @pytest.mark.parametrize("logits", [LOGITS[0], LOGITS[:, :1], np.zeros((3, 3)), np.zeros((1, 3, 2))])
    def test_logits_of_another_shape(self, pipe: TextClassificationPipeline, logits: Any) -> None:
        with pytest.raises(InputError, match=r"the logits have the shape \(.*\), wanted \(batch, 2\)"):
            pipe.postprocess(logits)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_never_a_label(
        self, pipe: TextClassificationPipeline, logits_of: Any, value: float
    ) -> None:
        with pytest.raises(InferenceError, match="row 1 of the model's output is not finite"):
            pipe.postprocess([[0.0, 1.0], [0.0, value]])
        logits_of([0.0, value])
        for call in (
            lambda: pipe("fine"),
            lambda: pipe(PAIR, top_k=None),
            lambda: pipe(TEXTS, function_to_apply="none"),
            lambda: list(pipe(iter(TEXTS))),
            lambda: pipe.explain("fine"),
            lambda: pipe.forward(pipe.preprocess("fine")),
        ):
            with pytest.raises(InferenceError, match="not finite"):
                call()

    def test_large_logits_are_no_overflow(self, pipe: TextClassificationPipeline, logits_of: Any) -> None:
        logits_of([-1e38, 1e38])
        assert pipe("fine") == [{"label": "POSITIVE", "score": 1.0}]
        assert pipe("fine", function_to_apply="sigmoid", top_k=2)[1]["score"] == 0.0


class TestExplain:
    @pytest.mark.parametrize("text", ["I love this film!", "", ("a fine film", "dull")])
    def test_it_is_the_three_steps(self, pipe: TextClassificationPipeline, text: Any) -> None:
        told = pipe.explain(text)
        inputs = pipe.preprocess(text)
        logits = pipe.forward(inputs)
        assert told.text == text
        np.testing.assert_array_equal(told.input_ids, inputs["input_ids"][0])
        np.testing.assert_array_equal(told.attention_mask, inputs["attention_mask"][0])
        np.testing.assert_array_equal(told.logits, logits[0])
        ranked = pipe.postprocess(logits, top_k=None)[0]
        assert dict(zip(told.labels, told.scores.tolist(), strict=True)) == {a["label"]: a["score"] for a in ranked}
        assert told.labels == pipe.labels
        assert told.function == "softmax"
        assert told.input_ids.dtype == told.attention_mask.dtype == np.int64
        assert told.logits.dtype == told.scores.dtype == np.float32

    def test_tokens(self, pipe: TextClassificationPipeline) -> None:
        assert pipe.explain("A fine FILM").tokens == ("[CLS]", "a", "fine", "film", "[SEP]")
        assert pipe.explain(PAIR).tokens == ("[CLS]", "a", "fine", "film", "[SEP]", "dull", "[SEP]")
        padded = pipe.explain("fine", padding="max_length", max_length=5)
        assert padded.tokens == ("[CLS]", "fine", "[SEP]", "", "")
        assert padded.attention_mask.tolist() == [1, 1, 1, 0, 0]

    def test_it_prints(self, pipe: TextClassificationPipeline) -> None:
        told = pipe.explain("a fine film")
        lines = str(told).splitlines()
        assert [line.split()[:2] for line in lines if line[0] != " "] == [
            ["1", "preprocess"],
            ["2", "forward"],
            ["3", "postprocess"],
        ]
        table = [line.split() for line in lines]
        assert all([token, str(i), "1"] in table for token, i in zip(told.tokens, told.input_ids, strict=True))
        best = pipe("a fine film")[0]
        assert lines[-2].split()[0] == best["label"]
        assert float(lines[-2].split()[-1]) == pytest.approx(best["score"], abs=1e-6)
        assert set(told.milliseconds) == {"preprocess", "forward", "postprocess"}
        assert all(0 < value < 60_000 for value in told.milliseconds.values())

    def test_it_is_frozen(self, pipe: TextClassificationPipeline) -> None:
        told = pipe.explain("fine")
        with pytest.raises(dataclasses.FrozenInstanceError):
            told.tokens = ()  # type: ignore[misc]

    @pytest.mark.parametrize("text", [None, 3, ["fine", "dull"], ("fine", None)])
    def test_no_text(self, pipe: TextClassificationPipeline, text: Any) -> None:
        with pytest.raises(InputError) as caught:
            pipe.explain(text)
        assert caught.value.index == 0


def test_two_pipelines_and_many_threads(pipe: TextClassificationPipeline, open_as: Any) -> None:
    """Each answers as it does alone; the second one's scores are others, so that a mix-up would show."""
    other = open_as("multi_label_classification")
    jobs = [(p, text) for text in TEXTS for p in (pipe, other)] * 8
    alone = [p(text, top_k=None) for p, text in jobs]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda job: job[0](job[1], top_k=None), jobs))
    assert together == alone
    with ThreadPoolExecutor(16) as pool:
        lists = list(pool.map(lambda p: p(TEXTS, truncation=True, max_length=7), [pipe, other] * 16))
    assert lists[0] != lists[1]
    assert all(answer == lists[i % 2] for i, answer in enumerate(lists))
