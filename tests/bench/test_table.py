"""`torchless_bench.table`: how figures are written."""

from __future__ import annotations

import pytest

from torchless_bench.table import listing, text_table

SPREAD = {"count": 1234, "p5": 1.0, "p25": 2.0, "p50": 3.0, "p75": 4.0, "p90": 5.0, "p95": 6.0, "p99": 7.0}
MACHINE = {"cpu": "A CPU", "features": [], "usable_cpus": 2}


def table(
    median: float = 2.0, p50: float = 3.0, *, low: float = 1.5, high: float = 2.5, rate: bool = False, unit: str = "ms"
) -> str:
    result = {"contender": "A", "spread": SPREAD | {"p50": p50}, "ratio": {"median": median, "low": low, "high": high}}
    workload = {"name": "w", "what": "work", "unit": unit, "more_is_better": rate, "baseline": "B", "results": [result]}
    return text_table(
        {"machine": MACHINE, "settings": {"threads": 1, "rounds": 5}, "workloads": [workload], "targets": [],
         "contenders": [], "left_out": [], "warnings": [],
         "devices": {"grid": [], "crossover": [], "prices": {}},
         "limits": {"rates": {}, "graphs": {}, "reached": [], "problems": []}}
    )  # fmt: skip


def test_whole():
    assert table() == (
        "A CPU (no known features for int8), 2 CPUs; 1 thread each, 5 rounds; ratios with 95 % intervals\n"
        "\n"
        "w: work; ms\n"
        "  contender  p50  p90  p99  middle half  samples   times as fast as B\n"
        "  A            3    5    7       2 to 4     1234  2.00 (1.50 to 2.50)"
    )


def test_no_interval_where_there_is_none():
    assert table(median=1.0, low=1.0, high=1.0).splitlines()[4].endswith(" 1.00")


def test_rates_show_where_the_slow_ones_are():
    lines = table(rate=True, unit="texts/s").splitlines()
    assert lines[3].split()[1:4] == ["median", "p5", "p95"]
    assert lines[4].split()[1:4] == ["3", "1", "6"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.00034567, "0.00035"), (0.5, "0.50"), (1.004, "1.00"), (12.345, "12.35")]
)
def test_ratios(value, shown):
    assert f"  {shown} (1.50 to 2.50)" in table(median=value)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.012345, "0.0123"), (1.2345, "1.23"), (12.345, "12.3"), (123.4, "123"), (12345.6, "12,346")]
)
def test_three_digits(value, shown):
    assert table(p50=value).splitlines()[4].split()[1] == shown


def test_listing():
    assert listing([("a", "x"), ("long", "y")]) == "  a     x\n  long  y"
