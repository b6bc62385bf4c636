"""How far a variant's outputs are from the original's, by task: logits and the answers they give, or hidden states.

A comparison is told the outputs text by text, batched and alone, and keeps no more of them than its verdict needs.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.postprocess import choose_function

Float32 = NDArray[np.float32]

# A text's hidden states are those of the original where their cosine is at least this. Retrieval and clustering see
# directions: 0.98 is an angle of 11 degrees, which int8 MiniLM keeps on every text tried (at most 0.019 lost).
COSINE = 0.98


@dataclass(frozen=True, slots=True)
class Measured:
    """What a comparison found.

    Attributes:
        largest: the largest absolute difference of an element of the output, infinite where one is not finite.
        differences: what the record says of it, by the names there; see `Comparison.names`.
        drift: the largest and mean change of a text's answer with its company in a batch, by the names of `names`.
        agree: for each text whether both give the same answer.
        original, found: for each text the label that each gives; None where a text has not one of several labels.
    """

    largest: float
    differences: Mapping[str, float]
    drift: Mapping[str, float]
    agree: NDArray[np.bool_]
    original: NDArray[np.int64] | None = None
    found: NDArray[np.int64] | None = None


class Comparison(abc.ABC):
    """One variant's outputs beside the original's.

    Attributes:
        element: what an element of the output is called, for messages.
        elements: what they are called in the record of the tolerance.
        names: in the record: the largest difference of an element, the largest and the mean change of a text's answer.
        tolerance: what an agreement means beyond the share asked for, for the record.
        bounded: whether the change of a text's answer has a scale of its own, as probabilities and cosines do.
    """

    element: str
    elements: str
    names: tuple[str, str, str]
    tolerance: Mapping[str, float] = {}
    bounded: bool = True

    @abc.abstractmethod
    def add(self, text: int, original: Float32, found: Float32 | None) -> None:
        """Take what both gave for the text number `text`, in a batch; None: the variant failed on it."""

    @abc.abstractmethod
    def add_again(self, text: int, found: Float32 | None) -> None:
        """Take what the variant gave for a text in other company, after all of `add`; None: it failed."""

    @abc.abstractmethod
    def measure(self, slack: float) -> Measured:
        """Return what was found; `slack` is a difference of elements under which a tie may fall either way."""

    def _named(self, largest: float, changes: Sequence[float], drifts: Sequence[float]) -> dict[str, Any]:
        element, most, mean = self.names
        return {
            "differences": {
                element: json_number(largest),
                most: json_number(max(changes)),
                mean: json_number(float(np.mean(changes))),
            },
            "drift": {most: json_number(max(drifts)), mean: json_number(float(np.mean(drifts)))},
        }


class LogitComparison(Comparison):
    """Rows of logits (labels,): scores as the pipeline makes them, and labels."""

    element = "a logit"
    elements = "logits"
    names = ("max_logit", "max_probability", "mean_probability")

    def __init__(self, problem_type: str) -> None:
        self._problem_type = problem_type
        self.bounded = problem_type != "regression"
        self._original: dict[int, Float32] = {}
        self._found: dict[int, Float32] = {}
        self._again: list[tuple[int, Float32]] = []

    def add(self, text: int, original: Float32, found: Float32 | None) -> None:
        """Keep both rows of logits (labels,)."""
        self._original[text], self._found[text] = original, _like(original, found)

    def add_again(self, text: int, found: Float32 | None) -> None:
        """Keep the row of logits (labels,)."""
        self._again.append((text, _like(self._original[text], found)))

    def measure(self, slack: float) -> Measured:
        """Compare logits, scores and labels."""
        texts = sorted(self._original)
        original = np.stack([self._original[text] for text in texts])
        found = np.stack([self._found[text] for text in texts])
        again = np.stack([logits for _, logits in self._again])
        beside = np.stack([self._found[text] for text, _ in self._again])
        wanted = np.stack([self._original[text] for text, _ in self._again])
        function = choose_function(None, self._problem_type, original.shape[-1])
        with np.errstate(invalid="ignore"):  # differences of infinities are told of as such
            changes = np.abs(function(found) - function(original)).max(axis=-1)
            drifts = np.abs(function(again) - function(beside)).max(axis=-1)
            largest = max(_largest(found - original), _largest(again - wanted))
        agree = answers_agree(original, found, self._problem_type, slack)
        one_of_several = self._problem_type == "single_label_classification" and original.shape[-1] > 1
        return Measured(
            largest=largest,
            agree=agree,
            original=original.argmax(axis=-1) if one_of_several else None,
            found=found.argmax(axis=-1) if one_of_several else None,
            **self._named(largest, changes.tolist(), drifts.tolist()),
        )


class HiddenStateComparison(Comparison):
    """Hidden states (sequence, hidden) without padding: their elements, and the cosine of the two as one vector."""

    element = "an element of the hidden state"
    elements = "hidden"
    names = ("max_hidden", "max_cosine_distance", "mean_cosine_distance")
    tolerance = {"cosine": COSINE}  # noqa: RUF012 - an attribute of the class, as in its base

    def __init__(self, alone: Sequence[int]) -> None:
        """Keep the outputs of the texts numbered in `alone`, which `add_again` will be told of."""
        self._kept = frozenset(alone)
        self._pairs: dict[int, tuple[Float32, Float32]] = {}
        self._distances: dict[int, float] = {}
        self._drifts: list[float] = []
        self._largest = 0.0

    def add(self, text: int, original: Float32, found: Float32 | None) -> None:
        """Compare the two (sequence, hidden) at once, since all of them would be gigabytes."""
        found = _like(original, found)
        if text in self._kept:
            self._pairs[text] = original.copy(), found.copy()
        self._distances[text] = cosine_distance(original, found)
        self._largest = max(self._largest, _largest(found - original))

    def add_again(self, text: int, found: Float32 | None) -> None:
        """Compare (sequence, hidden) with both of what `add` was told."""
        original, together = self._pairs[text]
        found = _like(original, found)
        self._drifts.append(cosine_distance(together, found))
        self._largest = max(self._largest, _largest(found - original))

    def measure(self, slack: float) -> Measured:
        """Return what was compared; there are no ties here, and no use for `slack`."""
        distances = [self._distances[text] for text in sorted(self._distances)]
        agree = np.array(distances) <= 1 - COSINE
        return Measured(largest=self._largest, agree=agree, **self._named(self._largest, distances, self._drifts))


def answers_agree(original: Float32, found: Float32, problem_type: str, slack: float = 0.0) -> NDArray[np.bool_]:
    """Tell for each row of logits (batch, labels) whether both give the same answer.

    Single label: the same label is largest. Several labels: each is above or below 0.5 in both.
    Regression has no labels: the value moves by at most a tenth of the standard deviation of the
    original's values. `slack`: a label whose lead in the original is within this may differ, since a
    tie has no right answer.
    """
    if problem_type == "regression":
        spread = np.maximum(original.std(axis=0), np.float32(1e-6))
        close: NDArray[np.bool_] = (np.abs(found - original) <= 0.1 * spread + slack).all(axis=-1)
        return close
    if problem_type == "multi_label_classification" or original.shape[-1] == 1:
        same: NDArray[np.bool_] = (((original > 0) == (found > 0)) | (np.abs(original) <= slack)).all(axis=-1)
        return same
    chosen = found.argmax(axis=-1)
    lead = original.max(axis=-1) - np.take_along_axis(original, chosen[:, None], axis=-1)[:, 0]
    agree: NDArray[np.bool_] = (chosen == original.argmax(axis=-1)) | (lead <= slack)
    return agree


def leads(original: Float32, found: Float32, problem_type: str) -> tuple[Float32, Float32]:
    """Return how far each row of logits (batch, labels) is from another answer: in the original, and as found.

    Both (batch,) float32. The answers agree where what was found is above 0: see `answers_agree`.
    Single label: the lead of the original's label over the next. Several labels: the smallest distance from 0.5,
    negative on the other side. Regression: what is left of the difference that is still agreement.
    """
    rows = np.arange(len(original))
    if problem_type == "regression":
        allowed = 0.1 * np.maximum(original.std(axis=0), np.float32(1e-6))
        least: Float32 = np.broadcast_to(allowed, original.shape).min(axis=-1).astype(np.float32)
        return least, (allowed - np.abs(found - original)).min(axis=-1)
    if problem_type == "multi_label_classification" or original.shape[-1] == 1:
        side = np.where(original > 0, np.float32(1), np.float32(-1))
        return np.abs(original).min(axis=-1), (found * side).min(axis=-1)
    chosen = original.argmax(axis=-1)

    def lead(logits: Float32) -> Float32:
        others = logits.copy()
        others[rows, chosen] = -np.inf
        ahead: Float32 = logits[rows, chosen] - others.max(axis=-1)
        return ahead

    return lead(original), lead(found)


def cosine_distance(one: Float32, other: Float32) -> float:
    """Return 1 minus the cosine of two arrays of one shape taken as vectors: 0 alike, 2 opposite; NaN is 2."""
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))
    return 2.0 if math.isnan(cosine) else max(0.0, 1 - cosine)


def json_number(value: float) -> float:
    """Return `value`, or the largest float32 in place of what JSON has no number for."""
    return value if math.isfinite(value) else float(np.finfo(np.float32).max)


def _like(original: Float32, found: Float32 | None) -> Float32:
    """Return what was found, or NaN where nothing was that could be compared: it failed, or its tokens are others."""
    if found is None or found.shape != original.shape:
        return np.full_like(original, np.nan)
    return found


def _largest(differences: Float32) -> float:
    largest = float(np.abs(differences).max(initial=0.0))
    return largest if math.isfinite(largest) else math.inf
