"""From logits to scores and ranks: pure NumPy, no state.

The functions follow `transformers.pipelines.text_classification` (4.57.6 and 5.23.0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.errors import InferenceError, InputError, InputTypeError, UnknownFunctionError

Float32 = NDArray[np.float32]


def softmax(logits: Float32) -> Float32:
    """Softmax over the last axis, float32 in and out, shifted by the maximum so that no logit overflows."""
    # `max` and `sum` of an array are these two, by way of Python functions: a third of the time for one row.
    highest: Float32 = np.maximum.reduce(logits, axis=-1, keepdims=True)
    shifted = np.exp(logits - highest)
    result: Float32 = shifted / np.add.reduce(shifted, axis=-1, keepdims=True)
    return result


def sigmoid(logits: Float32) -> Float32:
    """Logistic function of each element, float32 in and out; only exp of a negative number is taken."""
    e = np.exp(-np.abs(logits))
    result: Float32 = np.where(logits >= 0, np.float32(1), e) / (1 + e)
    return result


def identity(logits: Float32) -> Float32:
    """Return the logits as they are: what a regression model predicts."""
    return logits


FUNCTIONS: dict[str, Callable[[Float32], Float32]] = {"softmax": softmax, "sigmoid": sigmoid, "none": identity}


def choose_function(name: str | None, problem_type: str, labels: int) -> Callable[[Float32], Float32]:
    """Return the function that turns logits into scores.

    `name` is one of "softmax", "sigmoid", "none" in any case (or an enum member of that name or
    value); None chooses as transformers does: regression none, several labels at once or a single
    label sigmoid, else softmax.

    Raises:
        UnknownFunctionError: none of these.
    """
    if name is None:
        if problem_type == "regression":
            return identity
        return sigmoid if problem_type == "multi_label_classification" or labels == 1 else softmax
    # transformers' ClassificationFunction is an enum whose values are these strings.
    text = getattr(name, "value", name)
    function = FUNCTIONS.get(text.lower()) if isinstance(text, str) else None
    if function is None:
        raise UnknownFunctionError(f"function_to_apply is {name!r}, wanted one of {', '.join(FUNCTIONS)}")
    return function


def _first_token(rows: Float32) -> Float32:
    result: Float32 = rows[0]
    return result.copy()


def _mean_of_tokens(rows: Float32) -> Float32:
    result: Float32 = rows.mean(axis=0, dtype=np.float32)
    return result


POOLINGS: dict[str, Callable[[Float32], Float32]] = {"cls": _first_token, "mean": _mean_of_tokens}


def choose_pooling(name: Any) -> Callable[[Float32], Float32]:
    """Return the function that turns a text's hidden states (sequence, hidden) into one vector (hidden,).

    "cls" and "mean" are `pooling_mode_cls_token` and `pooling_mode_mean_tokens` of sentence-transformers' `Pooling`.

    Raises:
        InputError: none of these.
    """
    function = POOLINGS.get(name) if isinstance(name, str) else None
    if function is None:
        raise InputError(f"pooling is {name!r}, wanted one of {', '.join(POOLINGS)}, or None for every token")
    return function


def normalize_rows(rows: Float32) -> Float32:
    """Return each row (batch, hidden) divided by its Euclidean length, float32; zero stays zero.

    As `torch.nn.functional.normalize`, which sentence-transformers' `Normalize` calls: no length under 1e-12.
    """
    lengths = np.sqrt(np.square(rows).sum(axis=-1, keepdims=True))
    result: Float32 = rows / np.maximum(lengths, np.float32(1e-12))
    return result


# So few numbers are looked at in Python: after a graph has run, NumPy's functions are not in the processor's cache.
_FEW = 64


def check_finite(logits: Float32) -> None:
    """Refuse outputs, (batch, labels) or (batch, sequence, hidden), that cannot become an answer.

    Raises:
        InferenceError: NaN or an infinity; the message names the first row that has one.
    """
    few = logits.size <= _FEW
    if not (all(map(math.isfinite, logits.ravel().tolist())) if few else np.isfinite(logits).all()):
        row = int(np.argwhere(~np.isfinite(logits).reshape(len(logits), -1).all(axis=1))[0, 0])
        raise InferenceError(
            f"row {row} of the model's output is not finite; check the weights with `torchless export`"
        )


def check_top_k(top_k: Any) -> int | None:
    """Return `top_k` as a count, None meaning all labels.

    Raises:
        InputTypeError: not an integer or None.
        InputError: less than 1.
    """
    if top_k is None:
        return None
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer):
        raise InputTypeError(f"top_k is {top_k!r}, wanted a whole number from 1, or None for all labels")
    if top_k < 1:
        raise InputError(f"top_k is {top_k}, wanted a whole number from 1, or None for all labels")
    return int(top_k)


def rank(scores: Float32, labels: tuple[str, ...], top_k: int | None) -> list[list[dict[str, Any]]]:
    """Return, for each row of scores (batch, labels), its `top_k` best as [{"label", "score"}, ...], best first.

    Equal scores keep the order of the labels, as Python's stable sort does in transformers.
    """
    if top_k == 1 and scores.size <= _FEW:
        return [[{"label": labels[row.index(best := max(row))], "score": best}] for row in scores.tolist()]
    if top_k == 1:
        winners, highest = scores.argmax(axis=-1).tolist(), np.maximum.reduce(scores, axis=-1).tolist()
        return [[{"label": labels[i], "score": score}] for i, score in zip(winners, highest, strict=True)]
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
    best = np.take_along_axis(scores, order, axis=-1).tolist()
    return [
        [{"label": labels[i], "score": score} for i, score in zip(row, row_scores, strict=True)]
        for row, row_scores in zip(order.tolist(), best, strict=True)
    ]


def name_scores(scores: Float32, labels: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Return each row of scores (batch, labels) as [{"label", "score"}, ...], in the order of the labels."""
    return [
        [{"label": label, "score": score} for label, score in zip(labels, row, strict=True)] for row in scores.tolist()
    ]
