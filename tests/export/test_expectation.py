"""The agreement that is expected of texts not seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless_export.expectation import accepts, expected_disagreement, halves


def drawn(texts: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    original = np.abs(rng.normal(scale=4, size=texts)).astype(np.float32)
    return original, (original + rng.normal(scale=noise, size=texts)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.8])
def test_few_texts_tell_what_many_would_count(noise: float):
    _, found = drawn(200_000, noise, seed=0)
    counted = float((found <= 0).mean())
    guesses = [expected_disagreement(*drawn(500, noise, seed)) for seed in range(1, 6)]
    assert np.mean(guesses) == pytest.approx(counted, rel=0.35)


def test_nothing_moved_changes_nothing():
    original, _ = drawn(100, 0, seed=0)
    assert expected_disagreement(original, original) == 0


@pytest.mark.parametrize("either_way", [True, False])
def test_what_is_not_finite_counts_as_changed(either_way: bool):
    original = np.full(10, 3, np.float32)
    found = original.copy()
    found[0] = np.nan
    assert expected_disagreement(original, found, either_way=either_way) == pytest.approx(0.1)
    found[:] = -np.inf
    assert expected_disagreement(original, found, either_way=either_way) == 1


def test_where_leads_only_shrink_none_is_spared():
    original = np.full(300, 1, np.float32)
    found = original - np.linspace(0, 2, 300, dtype=np.float32)
    assert expected_disagreement(original, found, either_way=False) == pytest.approx(0.5, abs=0.01)
    assert expected_disagreement(original, found) < 0.4


@pytest.mark.parametrize(
    ("disagreement", "asked", "good"),
    [
        (0.0, 1.0, True), (1e-6, 1.0, True), (0.001, 1.0, False), (0.0085, 0.99, True), (0.0092, 0.99, False),
        (0.0043, 0.995, True), (0.0046, 0.995, False), (0.9, 0.0, True), (1.0, 0.5, False),
    ],
)  # fmt: skip
def test_a_margin_is_asked_for(disagreement: float, asked: float, good: bool):
    assert accepts(disagreement, asked) is good


@given(st.floats(0, 1), st.floats(0, 1))
def test_less_asked_is_no_harder(disagreement: float, asked: float):
    if accepts(disagreement, asked):
        assert accepts(disagreement, asked / 2)
        assert accepts(disagreement / 2, asked)


def test_halves():
    assert halves(["a b c d e", "one two", "", "a b c d e"]) == ["a b", "c d e", "one two", ""]
    assert halves([("a b c d", "x"), ("p", "q")]) == [("a b", "x"), ("c d", "x"), ("p", "q")]
