"""Scores against the formulas in float64, ranks against Python's stable sort."""

from __future__ import annotations

import enum
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchless.errors import InferenceError, InputError, InputTypeError, UnknownFunctionError
from torchless.postprocess import (
    check_finite,
    check_top_k,
    choose_function,
    choose_pooling,
    identity,
    name_scores,
    normalize_rows,
    rank,
    sigmoid,
    softmax,
)

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6))
LOGITS = hnp.arrays(np.float32, SHAPES, elements=st.floats(-1e4, 1e4, width=32))


@given(LOGITS)
def test_softmax_is_the_formula_in_float64(logits):
    scores = softmax(logits)
    exact = [
        [1 / math.fsum(math.exp(min(other - one, 700)) for other in row) for one in row] for row in logits.tolist()
    ]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(scores.sum(axis=-1), 1, rtol=1e-6)


@given(LOGITS)
def test_sigmoid_is_the_formula_in_float64(logits):
    scores = sigmoid(logits)
    exact = [[1 / (1 + math.exp(min(-one, 700))) for one in row] for row in logits.tolist()]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("function", [softmax, sigmoid, identity])
@given(logits=LOGITS)
def test_scores_leave_the_logits_alone_and_keep_their_order(function, logits):
    before = logits.copy()
    scores = function(logits)
    np.testing.assert_array_equal(logits, before)
    best = np.take_along_axis(scores, logits.argmax(axis=-1)[:, None], axis=-1)
    assert (best >= scores).all()


def test_identity_returns_the_logits():
    logits = np.array([[-3.0, 7.0]], np.float32)
    assert identity(logits) is logits


class Function(enum.Enum):  # as transformers' ClassificationFunction
    SIGMOID = "sigmoid"
    NONE = "none"


@pytest.mark.parametrize(
    ("name", "problem_type", "labels", "function"),
    [
        (None, "single_label_classification", 2, softmax),
        (None, "single_label_classification", 1, sigmoid),
        (None, "multi_label_classification", 5, sigmoid),
        (None, "regression", 1, identity),
        (None, "regression", 3, identity),
        ("softmax", "regression", 1, softmax),
        ("SIGMOID", "single_label_classification", 2, sigmoid),
        ("None", "single_label_classification", 2, identity),
        (Function.SIGMOID, "single_label_classification", 2, sigmoid),
        (Function.NONE, "single_label_classification", 2, identity),
    ],
)
def test_choose_function(name, problem_type, labels, function):
    assert choose_function(name, problem_type, labels) is function


@pytest.mark.parametrize("name", ["tanh", "", 3, ["softmax"], b"softmax"])
def test_an_unknown_function_is_refused_as_a_key_error_too(name):
    with pytest.raises(UnknownFunctionError, match="wanted one of softmax, sigmoid, none") as caught:
        choose_function(name, "regression", 1)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 2), (70, 2)])
def test_a_logit_that_is_not_finite_is_refused_with_its_row(bad, shape):
    logits = np.zeros(shape, np.float32)
    check_finite(logits)
    logits[2].flat[1] = bad
    logits[3] = np.nan
    with pytest.raises(InferenceError, match="row 2 "):
        check_finite(logits)


@pytest.mark.parametrize(("top_k", "count"), [(None, None), (1, 1), (np.int64(3), 3), (10**6, 10**6)])
def test_check_top_k(top_k, count):
    assert check_top_k(top_k) == count


@pytest.mark.parametrize(
    ("top_k", "error"),
    [(0, InputError), (-1, InputError), (True, InputTypeError), (1.0, InputTypeError), ("all", InputTypeError)],
)
def test_check_top_k_refuses(top_k, error):
    with pytest.raises(error, match="wanted a whole number from 1") as caught:
        check_top_k(top_k)
    assert type(caught.value) is error


SCORES = hnp.arrays(np.float32, SHAPES, elements=st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -2.0]))


@given(SCORES, st.none() | st.integers(1, 8), st.sampled_from([1, 80]))
def test_rank_is_a_stable_sort_best_first(scores, top_k, times):
    scores = np.tile(scores, (times, 1))  # few are ranked otherwise than many
    labels = tuple(f"L{i}" for i in range(scores.shape[1]))
    for row, answers in zip(scores.tolist(), rank(scores, labels, top_k), strict=True):
        pairs = [{"label": label, "score": score} for label, score in zip(labels, row, strict=True)]
        assert answers == sorted(pairs, key=lambda pair: pair["score"], reverse=True)[:top_k]
        assert all(type(answer["score"]) is float for answer in answers)


# Small numbers, which hypothesis seldom draws.
def test_functions_at_known_points():
    logits = np.array([[-0.5, 0.0, 0.5]], np.float32)
    np.testing.assert_allclose(sigmoid(logits), [[0.37754067, 0.5, 0.62245933]], rtol=1e-6)
    np.testing.assert_allclose(softmax(logits), [[0.18632372, 0.30719589, 0.50648039]], rtol=1e-6)


@pytest.mark.parametrize(("labels", "width"), [(2, 3), (3, 2)])
def test_scores_that_are_not_as_many_as_the_labels_are_not_named(labels, width):
    with pytest.raises(ValueError, match="zip"):
        name_scores(np.zeros((1, width), np.float32), ("A", "B", "C")[:labels])


def test_scores_are_named_in_the_order_of_the_labels():
    assert name_scores(np.array([[0.25, 0.75]], np.float32), ("B", "A")) == [
        [{"label": "B", "score": 0.25}, {"label": "A", "score": 0.75}]
    ]


def test_pooling():
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(choose_pooling("mean")(rows), [2, 3])
    first = choose_pooling("cls")(rows)
    np.testing.assert_array_equal(first, [0, 1])
    assert not np.shares_memory(first, rows)  # which would keep all of a batch alive


@pytest.mark.parametrize("name", ["max", "", None, 0, ["cls"]])
def test_an_unknown_pooling_is_refused(name):
    with pytest.raises(InputError, match="wanted one of cls, mean, or None"):
        choose_pooling(name)


def test_rows_of_length_one():
    rows = np.array([[3, 4], [0, 0], [6e-13, 8e-13]], np.float32)
    np.testing.assert_allclose(normalize_rows(rows), [[0.6, 0.8], [0, 0], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(normalize_rows(rows[2:] / 10), [[0.06, 0.08]], rtol=1e-6)


# On both sides of where Python's own loop gives way to NumPy's.
@pytest.mark.parametrize("width", [16, 17])
@pytest.mark.parametrize("place", [(0, 0), (3, 15)])
def test_one_number_among_many_is_seen(width, place):
    logits = np.zeros((4, width), np.float32)
    check_finite(logits)
    logits[place] = np.nan
    with pytest.raises(InferenceError, match=f"row {place[0]} "):
        check_finite(logits)
