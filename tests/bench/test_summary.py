"""`torchless_bench.summary`: percentiles and paired ratios."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchless_bench.summary import Ratio, paired_ratio, spread

samples = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6)


@st.composite
def pairs(draw, counts=range(1, 10)):
    """As many rounds of one contender as of another."""
    count = draw(st.sampled_from(counts))
    return tuple(draw(st.lists(samples, min_size=count, max_size=count)) for _ in range(2))


@given(st.lists(samples, min_size=1, max_size=5))
def test_spread_is_of_all_samples_in_order(rounds):
    found = spread(rounds)
    pooled = [sample for one in rounds for sample in one]
    assert found.count == len(pooled)
    assert found.p50 == pytest.approx(statistics.median(pooled))
    ordered = [found.p5, found.p25, found.p50, found.p75, found.p90, found.p95, found.p99]
    assert ordered == sorted(ordered)
    assert min(pooled) <= ordered[0]
    assert ordered[-1] <= max(pooled)


def test_spread_by_hand():
    found = spread([[5.0, 1.0], [4.0, 2.0, 3.0]])
    assert (found.p25, found.p50, found.p75, found.p90) == (2.0, 3.0, 4.0, pytest.approx(4.6))


@pytest.mark.parametrize("rounds", [[], [[]], [[], []]])
def test_spread_of_nothing(rounds):
    with pytest.raises(ValueError, match="no samples"):
        spread(rounds)


def test_ratio_by_hand():
    # Within the rounds 3, 2 and 4 times; of all samples together it would be 4 / 2.
    found = paired_ratio([[3.0, 3.0, 90.0], [4.0], [8.0]], [[1.0], [2.0], [2.0]])
    assert found.rounds == (3.0, 2.0, 4.0)
    assert found.median == 3.0
    assert 2.0 <= found.low < 3.0 < found.high <= 4.0


@pytest.mark.parametrize(("rounds", "interval"), [(5, (1.0, 5.0)), (6, (1.5, 5.5))])
def test_few_rounds_have_no_interval_but_their_range(rounds, interval):
    found = paired_ratio([[float(i)] for i in range(1, rounds + 1)], [[1.0]] * rounds)
    assert (found.low, found.high) == interval


def test_ratio_of_one_round_has_no_interval_to_speak_of():
    assert paired_ratio([[3.0]], [[2.0]]) == Ratio(1.5, 1.5, 1.5, (1.5,))


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_interval_holds_the_median_and_lies_among_the_rounds(pair):
    found = paired_ratio(*pair)
    assert min(found.rounds) <= found.low <= found.median <= found.high <= max(found.rounds)


@settings(max_examples=30, deadline=None)
@given(pairs(), st.data())
def test_what_slows_both_in_a_round_cancels(pair, data):
    slower = [data.draw(st.sampled_from([0.25, 0.5, 2.0, 8.0])) for _ in pair[0]]
    slowed = [[[s * k for s in one] for one, k in zip(rounds, slower, strict=True)] for rounds in pair]
    assert paired_ratio(*slowed) == paired_ratio(*pair)


@settings(max_examples=30, deadline=None)
@given(pairs(range(1, 10, 2)))
def test_the_other_way_round_it_is_the_reciprocal(pair):
    there, back = paired_ratio(*pair), paired_ratio(pair[1], pair[0])
    assert back.median == pytest.approx(1 / there.median)
    assert back.rounds == pytest.approx([1 / ratio for ratio in there.rounds])


@settings(max_examples=30, deadline=None)
@given(pairs(), st.sampled_from([0.5, 4.0]))
def test_twice_as_slow_is_half_the_ratio(pair, factor):
    base = paired_ratio(*pair)
    found = paired_ratio(pair[0], [[sample * factor for sample in one] for one in pair[1]])
    assert (found.median, found.low, found.high) == pytest.approx(
        (base.median / factor, base.low / factor, base.high / factor)
    )


def test_seed_decides_the_interval_alone():
    pair = [[1.0], [2.0], [5.0], [7.0]], [[1.0]] * 4
    assert paired_ratio(*pair, seed=3) == paired_ratio(*pair, seed=3)
    assert paired_ratio(*pair, seed=3).median == paired_ratio(*pair, seed=4).median


@pytest.mark.parametrize(("a", "b"), [([], []), ([[1.0]], []), ([[1.0]], [[1.0], [1.0]]), ([[1.0]], [[]])])
def test_rounds_that_are_no_pairs(a, b):
    with pytest.raises(ValueError, match="rounds"):
        paired_ratio(a, b)
