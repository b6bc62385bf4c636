"""`torchless_bench.table`: how figures are written."""

from __future__ import annotations

import pytest

from torchless_bench.table import crossover_lines, device_rows, limits_rows, listing, share_rows, text_table

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
        "A CPU (no known features for int8), 2 CPUs; 1 thread each, 5 rounds; "
        "ratios with 95 % intervals, of fewer than 6 rounds the least and the most of them\n"
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


def reached(workload: str, contender: str, share: float) -> dict[str, object]:
    return {"workload": workload, "contender": contender, "least_seconds": share, "bound": "memory", "seconds": 1.0,
            "share": share}  # fmt: skip


REACHED = [reached("text16", "A", 0.5), reached("text16", "B", 0.123), reached("texts", "B", 1.0)]


def test_shares_side_by_side():
    assert share_rows(REACHED) == [
        ["share of the least time", "A", "B"], ["text16", "50%", "12%"], ["texts", "", "100%"],
    ]  # fmt: skip
    assert limits_rows(REACHED)[1] == ["text16", "A", "500", "memory", "1,000", "50%"]


def test_devices_side_by_side():
    cell = {
        "workload": "1x8", "fastest": "cuda", "cheapest": "cpu",
        "devices": {
            "cpu": {"texts_per_second": 1234.5, "cost": 0.0225}, "cuda": {"texts_per_second": 9e4, "cost": 0.01},
        },
    }  # fmt: skip
    only = {
        "workload": "1x512",
        "fastest": None,
        "cheapest": None,
        "devices": {"cpu": {"texts_per_second": 2, "cost": 9}},
    }
    assert device_rows({"grid": [cell, only], "prices": {"cpu": 0.1, "cuda": 2.5}}) == [
        [
            "device by device",
            "cpu texts/s",
            "cuda texts/s",
            "fastest",
            "cpu per million",
            "cuda per million",
            "cheapest",
        ],
        ["1x8", "1,234", "90,000", "cuda", "0.0225", "0.01", "cpu"],
        ["1x512", "2", "", "", "9", "", ""],
    ]
    assert device_rows({"grid": [cell], "prices": {}})[0][-1] == "fastest"


def test_the_crossover_in_words():
    found = [{"tokens": 8, "rows": 4, "measured": [1, 4]}, {"tokens": 128, "rows": None, "measured": [1]}]
    assert crossover_lines(found) == [
        "8 tokens: the GPU wins from batches of 4 on (measured: 1, 4)",
        "128 tokens: the GPU wins at no batch measured (measured: 1)",
    ]
