"""However texts are split into batches, the answers of the fp32 variant are the same, in order, none lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torchless
from torchless.pipelines.base import Pipeline

WORDS = [
    "a",
    "fine",
    "film",
    "dull",
    "great",
    "not",
    "good",
    "!",
    "never",
    ",",
    "the",
    "plot",
    "é",
    "映画",
    "antidisestablishmentarianism",
]
TEXTS = st.lists(st.text() | st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), max_size=24)
slow = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def pipes(sample_bundle: Path, features_bundle: Path) -> Iterator[dict[str, Pipeline]]:
    options: dict[str, Any] = {"device": "cpu", "threads": 1, "truncation": True}
    scores = torchless.pipeline(model=sample_bundle, variant="fp32", top_k=None, **options)
    features = torchless.pipeline(model=features_bundle, variant="fp32", **options)
    with scores, features:
        yield {"scores": scores, "features": features}


def numbers(answer: Any) -> np.ndarray:
    """Return an answer's numbers: scores in the order of the labels, or hidden states."""
    if isinstance(answer[0], list) and isinstance(answer[0][0], dict):
        [answer] = answer  # of a text given alone, as transformers has it
    if isinstance(answer[0], dict):
        return np.array([entry["score"] for entry in sorted(answer, key=lambda entry: entry["label"])])
    return np.asarray(answer)


@slow
@given(
    texts=TEXTS,
    size=st.none() | st.integers(1, 30),
    window=st.none() | st.integers(1, 30),
    stream=st.booleans(),
    task=st.sampled_from(["scores", "features"]),
)
def test_any_split_gives_the_same_answers(
    pipes: dict[str, Pipeline], texts: list[str], size: int | None, window: int | None, stream: bool, task: str
) -> None:
    pipe = pipes[task]
    alone = [numbers(pipe(text)) for text in texts]
    options = {"batch_size": size} | ({"window": window} if stream else {})
    together = list(pipe(iter(texts) if stream else texts, **options))
    assert len(together) == len(texts)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(numbers(other), one, rtol=0, atol=1e-6 if task == "scores" else 1e-5)


@slow
@given(texts=TEXTS, cuts=st.lists(st.integers(0, 24), max_size=4))
def test_several_calls_give_what_one_gives(pipes: dict[str, Pipeline], texts: list[str], cuts: list[int]) -> None:
    pipe = pipes["scores"]
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    parts = [answer for start, end in itertools.pairwise(edges) for answer in pipe(texts[start:end])]
    for one, other in zip(pipe(texts), parts, strict=True):
        np.testing.assert_allclose(numbers(other), numbers(one), rtol=0, atol=1e-6)
