"""What agreement to expect on texts not seen, from few texts: the leads of answers, and how far a variant moves them.

Counting changed answers needs thousands of texts where one in two hundred changes. How far leads are moved shows on
every text; so each text's lead is held against how far the leads of its neighbours, texts about as sure, were moved. On
MiniLM (SST-2) 1,000 texts tell 0.994 from 0.996 so.

A model is surest of the texts that it was trained on: there plain int8 changes 0.1 % of the answers of that
MiniLM, on others 1.0 %. Halves of texts are unlike any in training, and about as unsure as new ones or a little more
(1.4 %): `halves`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["accepts", "expected_disagreement", "halves"]

Float32 = NDArray[np.float32]
TextInput = str | tuple[str, str]

_NEIGHBOURS = 100
# A recipe is good enough if this many new texts would, with this confidence, keep the agreement asked for. They are
# surer than halves: 0.7 is 0.85 and more where a fifth fewer of their answers change.
_NEW_TEXTS = 1000
_CONFIDENCE = 0.7


def expected_disagreement(original: Float32, found: Float32, *, either_way: bool = True) -> float:
    """Return the share of new texts whose answer will change.

    Args:
        original: (texts,) float32, the lead of each text's answer in the original, 0 and above.
        found: (texts,) float32, the lead of the same answer in the variant; one that is not finite counts as changed.
        either_way: a lead is as likely to grow as to shrink by what it was moved; False where it can only shrink.
    """
    finite = np.isfinite(found)
    lost = 1 - float(finite.mean())
    if lost:
        rest = expected_disagreement(original[finite], found[finite], either_way=either_way) if finite.any() else 0.0
        return lost + (1 - lost) * rest
    order = np.argsort(original, kind="stable")
    wanted = original[order].astype(np.float64)
    moved = np.abs(found[order].astype(np.float64) - wanted)
    texts = len(order)
    window = min(texts, max(_NEIGHBOURS, texts // 10))
    if either_way:
        # Where exactly the few least sure lie is chance: up to the last of them any lead is as likely as another.
        few = max(1, min(window, texts // 5))
        wanted[:few] = wanted[few - 1] * (np.arange(few) + 0.5) / few
    total = 0.0
    for place in range(texts):
        start = max(0, min(texts - window, place - window // 2))
        total += float((moved[start : start + window] > wanted[place]).mean())
    return total / texts / (2 if either_way else 1)


def accepts(disagreement: float, min_agreement: float) -> bool:
    """Tell whether 1,000 texts, of whom this share changes, keep `min_agreement` in 7 of 10 cases."""
    allowed = math.floor((1 - min_agreement) * _NEW_TEXTS + 1e-9)
    if disagreement <= 0 or allowed >= _NEW_TEXTS:
        return True
    rate = disagreement * _NEW_TEXTS
    log_terms = (i * math.log(rate) - rate - math.lgamma(i + 1) for i in range(allowed + 1))
    return math.fsum(math.exp(term) for term in log_terms) >= _CONFIDENCE  # Poisson


def halves(texts: Sequence[TextInput]) -> list[TextInput]:
    """Return both halves of each text that has four words or more, and the other texts; none twice."""
    found: list[TextInput] = []
    for text in texts:
        if isinstance(text, str):
            found += _halves(text) or [text]
        else:
            first, second = (_halves(side) or [side] * 2 for side in text)
            found += zip(first, second, strict=True)
    return list(dict.fromkeys(found))


def _halves(text: str) -> list[str]:
    words = text.split()
    middle = len(words) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])] if len(words) >= 4 else []
