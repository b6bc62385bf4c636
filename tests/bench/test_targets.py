"""`torchless_bench.targets`: when a target counts as met."""

from __future__ import annotations

import pytest

from torchless_bench.targets import Target, judge
from torchless_bench.workloads import WORKLOADS

ROWS = {row.name: row for row in WORKLOADS}


def rounds(*values: float) -> list[list[float]]:
    return [[value] for value in values]


@pytest.mark.parametrize(("at_least", "verdict"), [(1.3, "met"), (2.0, "met"), (2.01, "not met")])
def test_the_median_of_the_rounds_decides(at_least, verdict):
    target = Target("a", "1x16", "b", at_least)
    found = judge(target, ROWS["1x16"], rounds(1, 1, 1), rounds(1.0, 2.0, 9.0))
    assert (found.verdict, found.ratio, found.value) == (verdict, 2.0, None)
    assert found.low < 2.0 < found.high


@pytest.mark.parametrize(("seconds", "verdict"), [(9.9, "met"), (10.1, "not met")])
def test_a_bound_in_the_workloads_unit_counts_too(seconds, verdict):
    found = judge(Target("a", "export", "b", 2.0, at_most=10), ROWS["export"], rounds(seconds), rounds(100))
    assert (found.verdict, found.value) == (verdict, seconds)


def test_under_a_quarter_in_bytes():
    target = Target("a", "installed", "b", 4.0, at_most=250)
    found = judge(target, ROWS["installed"], rounds(200e6), rounds(900e6))
    assert (found.verdict, found.ratio, found.value) == ("met", 4.5, 200.0)


@pytest.mark.parametrize(("megabytes", "verdict"), [(201.9, "met"), (202.1, "not met"), (150, "met")])
def test_a_little_more_may_be_allowed(megabytes, verdict):
    target = Target("a", "installed", "b", 0.0, more=2)
    found = judge(target, ROWS["installed"], rounds(megabytes * 1e6), rounds(200e6))
    assert (found.verdict, round(found.value, 3)) == (verdict, round(megabytes - 200, 3))
    assert target.wanted == "at most 2 MB more"


def test_what_is_wanted():
    assert Target("a", "1x16", "b", 1.25).wanted == "at least 1.25x"
    assert Target("a", "python16", "b", 0, at_most=60).wanted == "at most 60 us"
    assert Target("a", "export", "b", 2, at_most=10).wanted == "at least 2x, at most 10 s"
