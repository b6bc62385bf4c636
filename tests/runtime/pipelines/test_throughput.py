"""`profile="throughput"`: batches run at once, and nobody can tell but by the clock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import torchless
from torchless.errors import InferenceError
from torchless.pipelines.base import Pipeline

WORDS = st.lists(st.sampled_from(["fine", "dull", "film", "plot", "!"]), max_size=40).map(" ".join)
MANY = ["fine film " * (1 + i % 40) for i in range(200)]


@pytest.fixture(scope="module")
def quick(sample_bundle: Path) -> Iterator[Pipeline]:
    """The sample in float32, with three runs at once."""
    with torchless.pipeline(
        model=sample_bundle, variant="fp32", device="cpu", profile="throughput", threads=3
    ) as opened:
        yield opened


@settings(deadline=None, max_examples=25)
@given(texts=st.lists(WORDS, max_size=60), size=st.none() | st.integers(1, 9))
def test_answers_are_those_of_one_run_at_a_time(
    pipe: Pipeline, quick: Pipeline, texts: list[str], size: int | None
) -> None:
    wanted = pipe(texts, batch_size=size)
    for answers in (quick(texts, batch_size=size), list(quick(iter(texts), batch_size=size))):
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in wanted]
        np.testing.assert_allclose([a["score"] for a in answers], [a["score"] for a in wanted], atol=1e-5)


def test_batches_run_at_once(quick: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=30)
    run = quick._session._run
    count = iter(range(1000))

    def wait(*given: Any) -> Any:
        if next(count) < 3:
            together.wait()
        return run(*given)

    monkeypatch.setattr(quick._session, "_run", wait)
    assert len(quick(MANY)) == len(MANY)


def test_batches_do_not_depend_on_the_number_of_threads(sample_bundle: Path) -> None:
    # In int8 a text's score has a little to do with its batch, and `torchless run --resume` takes any --threads.
    texts = [f"fine film {i} " * (1 + i % 9) for i in range(80)]
    answers = []
    for threads in (1, 4):
        with torchless.pipeline(model=sample_bundle, variant="int8", profile="throughput", threads=threads) as pipe:
            answers.append(pipe(texts))
            answers.append(pipe.forward(pipe.preprocess(texts)).tolist())
    assert answers[:2] == answers[2:]


def test_a_large_batch_is_run_in_parts(pipe: Pipeline, quick: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = pipe.preprocess(MANY)
    shapes: list[Any] = []
    run = quick._session.run

    def watch(part: Any) -> Any:
        shapes.append(part["input_ids"].shape)
        return run(part)

    monkeypatch.setattr(quick._session, "run", watch)
    np.testing.assert_allclose(quick.forward(inputs), pipe.forward(inputs), atol=1e-5)
    width = inputs["input_ids"].shape[1]
    assert sum(rows for rows, _ in shapes) == len(MANY)
    assert max(rows for rows, _ in shapes) == 512 // width


def test_a_left_padded_batch_is_run_whole(quick: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(quick), "_keeps_order", True)
    shapes: list[Any] = []
    run = quick._session.run
    monkeypatch.setattr(quick._session, "run", lambda part: shapes.append(part["input_ids"].shape) or run(part))
    quick(MANY, batch_size=50)
    assert [rows for rows, _ in shapes] == [50] * 4


def test_an_error_of_one_batch_is_raised(quick: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(1000))
    run = quick._session._run

    def fail(*given: Any) -> Any:
        if next(count) == 3:
            raise RuntimeError("bad node")
        return run(*given)

    monkeypatch.setattr(quick._session, "_run", fail)
    with pytest.raises(InferenceError, match="bad node"):
        quick(MANY)
    monkeypatch.undo()
    assert len(quick(MANY)) == len(MANY)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("torchless")]
