"""`torchless.pipelines.flow`: each distinct text of a window is run once; every answer in its place, and its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchless.errors import InputError
from torchless.pipelines import flow
from torchless.pipelines.base import Pipeline
from torchless.pipelines.flow import _spread

TEXTS = ["a fine film", "dull", "the jokes are old and the plot is older", "it says nothing at all", "great fun", "no"]
TOO_LONG = "dull " * 600


@pytest.fixture
def rows(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each batch that `pipe` runs."""
    seen: list[int] = []
    run = pipe.forward

    def forward(inputs: Any) -> Any:
        seen.append(len(inputs["input_ids"]))
        return run(inputs)

    monkeypatch.setattr(pipe, "forward", forward)
    return seen


class TestRepetitions:
    def test_a_text_that_stands_twice_is_run_once(self, pipe: Pipeline, rows: list[int]) -> None:
        texts = [*TEXTS, *reversed(TEXTS), TEXTS[0]]
        wanted = pipe(TEXTS)
        rows.clear()
        assert pipe(texts) == [*wanted, *reversed(wanted), wanted[0]]
        assert rows == [len(TEXTS)]

    def test_answers_are_objects_of_their_own(self, pipe: Pipeline) -> None:
        first, second = pipe(["fine", "fine"])
        first["label"] = "changed"
        assert second["label"] == "POSITIVE"
        [[best, *_], _] = pipe(["fine", "fine"], top_k=None)
        best["label"] = "changed"
        assert pipe(["fine", "fine"], top_k=None)[0][0]["label"] == "POSITIVE"

    def test_a_pair_is_not_its_first_text(self, pipe: Pipeline, rows: list[int]) -> None:
        pair = {"text": "fine", "text_pair": "dull"}
        answers = pipe(["fine", pair, pair, "fine"])
        assert answers[0] == answers[3] != answers[1] == answers[2]
        assert rows == [2]

    def test_of_a_stream_within_its_window(self, pipe: Pipeline, rows: list[int]) -> None:
        assert len(list(pipe(iter(["fine"] * 10), window=4))) == 10
        assert rows == [1, 1, 1]

    def test_a_million_empty_texts_cost_a_few_batches(
        self, pipe: Pipeline, rows: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = pipe([""] * 1_000_000)
        assert len(answers) == 1_000_000
        assert answers[0] == answers[-1] == pipe("")[0]
        assert sum(rows[:-1]) == -(-1_000_000 // flow.WINDOW)

    @pytest.mark.parametrize("window", [2, 4096])
    def test_each_that_is_cut_is_told(self, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
        monkeypatch.setattr(flow, "WINDOW", window)
        cut: list[int] = []
        pipe([TOO_LONG, "b " * 600, TOO_LONG, "fine", TOO_LONG], truncation=True, on_truncation=cut.append)
        assert cut == [0, 1, 2, 4]

    def test_the_index_of_an_error_is_the_first_place(self, pipe: Pipeline) -> None:
        with pytest.raises(InputError, match="text 3 has 602 tokens") as caught:
            pipe(["fine", "fine", "dull", TOO_LONG, TOO_LONG])
        assert caught.value.index == 3

    def test_a_left_padded_model_runs_them_all(self, pipe: Pipeline, rows: list[int], monkeypatch: Any) -> None:
        monkeypatch.setattr(type(pipe), "_keeps_order", True)
        pipe(["fine"] * 5, batch_size=2)
        assert rows == [2, 2, 1]


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.sampled_from(TEXTS), max_size=12), size=st.none() | st.integers(1, 4))
def test_any_list_is_answered_as_its_texts_are(pipe: Pipeline, texts: list[str], size: int | None) -> None:
    for text, answer in zip(texts, pipe(texts, batch_size=size), strict=True):
        assert answer == pytest.approx(pipe(text)[0], abs=1e-5)


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "top_k": st.sampled_from([1, 2, None]),
        "function_to_apply": st.sampled_from(["sigmoid", "none"]),
        "truncation": st.just(True),
        "padding": st.just("max_length"),
        "on_error": st.just("return"),
        "batch_size": st.just(3),
        "text_pair": st.just("no"),
    },
)


@settings(deadline=None, max_examples=60)
@given(
    item=st.sampled_from(
        [*TEXTS, TOO_LONG, "", "\ud800", {"text": "fine"}, {"text": 5}, {"text": "a", "text_pair": "b"}]
    ),
    arguments=ARGUMENTS,
)
def test_one_input_is_answered_as_in_a_list(pipe: Pipeline, item: Any, arguments: dict[str, Any]) -> None:
    def outcome(given: Any) -> tuple[str, str]:
        try:
            answer = pipe(given, **arguments)
        except InputError as error:
            return type(error).__name__, str(error).replace("input 0", "the input")
        if given is item and not (isinstance(item, str) and "top_k" not in arguments):
            answer = [answer]
        return "answer", str(answer).replace("input 0", "the input")

    assert outcome(item) == outcome([item])


def test_one_input_is_waited_for_as_many_are(pipe: Pipeline) -> None:
    pipe._waits.seconds.clear()
    pipe("fine")
    assert set(pipe._waits.seconds) == {"tokenizer", "device"}
    assert pipe.limit in pipe._waits.seconds


@given(st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_the_rows_of_a_batch_go_to_every_place_in_bounded_pieces(counts: list[int]) -> None:
    ends = np.cumsum(counts).tolist()
    places = [list(range(end - count, end)) for end, count in zip(ends, counts, strict=True)]
    batch = list(reversed(range(len(counts))))  # texts in another order than their places
    lengths = [10 * i for i in range(len(counts))]
    found: dict[int, float] = {}
    for piece in _spread(batch, np.array([[i] for i in batch], np.float32), lengths, places):
        assert len(piece.rows) == len(piece.positions) == len(piece.lengths) <= 32
        assert piece.lengths == [10 * int(row[0]) for row in piece.rows]
        found |= {place: row[0] for place, row in zip(piece.positions, piece.rows, strict=True)}
    assert found == {place: text for text, where in enumerate(places) for place in where}


def test_windows_are_tokenized_while_others_run(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "WINDOW", 2)
    wanted = [pipe(text)[0] for text in TEXTS]
    for answer, one in zip(pipe(TEXTS), wanted, strict=True):
        assert answer == pytest.approx(one, abs=1e-5)


def test_a_text_of_megabytes_is_cut(pipe: Pipeline) -> None:
    text = "a dull film " * 200_000
    assert pipe(text, truncation=True) == pipe(text[:6000], truncation=True)
    pair = pipe({"text": text, "text_pair": text}, truncation=True)
    assert pair == pipe({"text": text[:6000], "text_pair": text[:6000]}, truncation=True)
