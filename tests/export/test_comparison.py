"""`torchless_export.comparison`: what is measured of hidden states; of logits, see `test_parity`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("torchless_export")

from torchless_export.comparison import COSINE, HiddenStateComparison, LogitComparison, cosine_distance, json_number

RNG = np.random.default_rng(0)
ORIGINALS = [RNG.normal(size=(length, 4)).astype(np.float32) for length in (3, 1, 5)]
LARGEST = float(np.finfo(np.float32).max)


def compared(found: list[np.ndarray | None], alone: dict[int, np.ndarray | None]) -> HiddenStateComparison:
    comparison = HiddenStateComparison(list(alone))
    for text, (original, output) in enumerate(zip(ORIGINALS, found, strict=True)):
        comparison.add(text, original, output)
    for text, output in alone.items():
        comparison.add_again(text, output)
    return comparison


def test_equal_hidden_states() -> None:
    measured = compared(list(ORIGINALS), {0: ORIGINALS[0], 2: ORIGINALS[2]}).measure(0)
    assert measured.largest == 0
    assert measured.agree.tolist() == [True] * 3
    assert set(measured.differences) == {"max_hidden", "max_cosine_distance", "mean_cosine_distance"}
    assert set(measured.drift) == {"max_cosine_distance", "mean_cosine_distance"}
    assert max(*measured.differences.values(), *measured.drift.values()) < 1e-12


def test_each_text_is_measured() -> None:
    turned = ORIGINALS[1][:, ::-1].copy()  # another direction
    longer = ORIGINALS[2] * 2  # the same direction
    measured = compared([ORIGINALS[0], turned, longer], {2: ORIGINALS[2]}).measure(0)
    assert measured.agree.tolist() == [True, False, True]
    distance = cosine_distance(ORIGINALS[1], turned)
    assert measured.differences["max_cosine_distance"] == distance > 1 - COSINE
    assert measured.differences["mean_cosine_distance"] == pytest.approx(distance / 3)
    assert measured.largest == max(np.abs(turned - ORIGINALS[1]).max(), np.abs(ORIGINALS[2]).max())


def test_alone_is_compared_with_both() -> None:
    moved = ORIGINALS[0] + np.float32([0, 0, 0, 3])
    measured = compared(list(ORIGINALS), {0: moved, 1: ORIGINALS[1]}).measure(0)
    assert measured.largest == pytest.approx(3, rel=1e-6)
    assert measured.drift["max_cosine_distance"] == cosine_distance(ORIGINALS[0], moved)
    assert measured.drift["mean_cosine_distance"] == pytest.approx(cosine_distance(ORIGINALS[0], moved) / 2)
    assert measured.agree.all()  # what it gives in a batch is the answer


@pytest.mark.parametrize("broken", [None, ORIGINALS[0][:2], np.full_like(ORIGINALS[0], np.nan)])
@pytest.mark.parametrize("place", ["together", "alone"])
def test_what_cannot_be_compared_is_infinitely_far(broken: np.ndarray | None, place: str) -> None:
    first = broken if place == "together" else ORIGINALS[0]
    measured = compared([first, *ORIGINALS[1:]], {0: broken if place == "alone" else ORIGINALS[0]}).measure(0)
    assert measured.largest == math.inf
    assert measured.differences["max_hidden"] == LARGEST
    assert measured.agree[0] == (place == "alone")
    logits = LogitComparison("single_label_classification")
    logits.add(0, np.float32([1, 2]), None if place == "together" else np.float32([1, 2]))
    logits.add_again(0, None if place == "alone" else np.float32([1, 2]))
    assert logits.measure(0).largest == math.inf


finite = arrays.arrays(np.float32, (2, 3), elements=st.floats(-1e6, 1e6, width=32))


@given(finite, finite)
def test_cosine_distance(one: np.ndarray, other: np.ndarray) -> None:
    distance = cosine_distance(one, other)
    assert 0 <= distance <= 2
    assert distance == pytest.approx(cosine_distance(other, one), abs=1e-12)
    if np.abs(one).max() > 1e-3:
        assert cosine_distance(one, 3 * one) == pytest.approx(0, abs=1e-12)
        assert cosine_distance(one, -one) == pytest.approx(2)
        assert cosine_distance(one, np.zeros_like(one)) == 2


def test_numbers_for_json() -> None:
    assert json_number(0.5) == 0.5
    assert json_number(math.inf) == json_number(math.nan) == LARGEST
