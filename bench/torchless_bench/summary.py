"""The statistics: pure functions on samples, which are seconds or bytes, less being better.

A machine that others use too slows down and speeds up in the course of a benchmark. Two contenders are therefore
compared within each round, in which both had the same machine for a moment, and the rounds' ratios are summed up:
what changes from round to round cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95

FEWEST = 6
"""Rounds from which on there is an interval. The least and the most of n hold the median of all there might be with a
probability of 1 - 2 * 0.5**n: 75 % of three, 97 % of six (David and Nagaraja, Order Statistics, 7.1)."""

INTERVALS = f"95 % intervals, of fewer than {FEWEST} rounds the least and the most of them"
"""What `Ratio.low` and `high` are, in words."""

_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of all samples of all rounds, in the samples' own unit, and how many samples there are."""

    count: int
    p5: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times less a contender takes than the baseline: 2 is twice as fast, or half as large.

    Attributes:
        median: of `rounds`.
        low, high: the 95 % confidence interval of that median; of fewer than `FEWEST` rounds, their least and most.
        rounds: the ratio of the medians within each round.
    """

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]


def spread(rounds: Sequence[Sequence[float]]) -> Spread:
    """Return the percentiles of the samples of all rounds, interpolated linearly.

    Raises:
        ValueError: there is no sample.
    """
    samples = np.concatenate([np.asarray(samples, np.float64) for samples in rounds]) if rounds else np.empty(0)
    if not samples.size:
        raise ValueError("no samples to sum up")
    return Spread(samples.size, *(float(value) for value in np.percentile(samples, (5, 25, 50, 75, 90, 95, 99))))


def paired_ratio(baseline: Sequence[Sequence[float]], contender: Sequence[Sequence[float]], *, seed: int = 0) -> Ratio:
    """Return the ratio of `baseline` to `contender`, round by round.

    The interval is the percentile bootstrap over rounds (Efron and Tibshirani, An Introduction to the Bootstrap,
    chapter 13), drawn with `seed`.

    Raises:
        ValueError: no rounds, not as many of one as of the other, or a round without samples.
    """
    if not baseline or len(baseline) != len(contender) or not all(map(len, (*baseline, *contender))):
        raise ValueError(f"{len(baseline)} and {len(contender)} rounds; wanted as many of both, with samples in each")
    ratios = np.array([np.median(b) / np.median(c) for b, c in zip(baseline, contender, strict=True)])
    if len(ratios) < FEWEST:
        return Ratio(float(np.median(ratios)), float(ratios.min()), float(ratios.max()), tuple(map(float, ratios)))
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (tail, 1 - tail))
    return Ratio(float(np.median(ratios)), float(low), float(high), tuple(map(float, ratios)))
