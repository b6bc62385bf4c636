"""`torchless_bench.crossover`: CPU against GPU on recorded figures."""

from __future__ import annotations

from typing import Any

import pytest

from torchless.errors import InputError
from torchless_bench.crossover import crossover, read_prices, summary

CONTENDERS = [
    {"name": "torchless-fp32", "family": "torchless", "device": "cpu"},
    {"name": "torchless-int8", "family": "torchless", "device": "cpu"},
    {"name": "torchless-cuda", "family": "torchless", "device": "cuda:1"},
    {"name": "optimum-fp32", "family": "optimum", "device": "cpu"},
    {"name": "gone", "family": None, "device": None},
]


def forward(rows: int, tokens: int, **milliseconds: float) -> dict[str, Any]:
    results = [{"contender": name.replace("_", "-"), "seconds": value / 1e3} for name, value in milliseconds.items()]
    return {"name": f"{rows}x{tokens}", "kind": "forward", "rows": rows, "tokens": tokens, "work": rows,
            "results": results}  # fmt: skip


RECORDED = [
    forward(1, 8, torchless_fp32=4, torchless_int8=1, torchless_cuda=2, optimum_fp32=0.1),
    forward(8, 8, torchless_fp32=9, torchless_int8=4, torchless_cuda=2),
    forward(32, 8, torchless_fp32=40, torchless_int8=16, torchless_cuda=4),
    forward(1, 128, torchless_fp32=30, torchless_int8=10, torchless_cuda=2),
    forward(1, 512, torchless_int8=10),
]


def test_where_the_gpu_takes_over():
    found = summary(RECORDED, CONTENDERS, {})
    assert found["crossover"] == [
        {"tokens": 8, "rows": 8, "measured": [1, 8, 32]},
        {"tokens": 128, "rows": 1, "measured": [1]},
    ]
    first = found["grid"][0]
    assert (first["fastest"], first["cheapest"]) == ("cpu", None)
    assert first["devices"]["cpu"] == {"contender": "torchless-int8", "texts_per_second": 1000.0, "cost": None}
    assert first["devices"]["cuda"]["texts_per_second"] == 500.0
    assert found["grid"][-1]["fastest"] is None


def test_what_a_million_texts_cost():
    found = summary(RECORDED, CONTENDERS, {"cpu": 0.36, "cuda": 3.6})
    cell = found["grid"][2]  # 32x8: 2,000 texts/s on the CPU, 8,000 on the GPU
    assert cell["devices"]["cpu"]["cost"] == pytest.approx(0.36 / 3600 * 500)
    assert cell["devices"]["cuda"]["cost"] == pytest.approx(3.6 / 3600 * 125)
    assert (cell["fastest"], cell["cheapest"]) == ("cuda", "cpu")


def test_one_price_is_no_comparison():
    cell = summary(RECORDED, CONTENDERS, {"cpu": 0.36})["grid"][0]
    assert cell["devices"]["cpu"]["cost"] == pytest.approx(0.1)
    assert cell["devices"]["cuda"]["cost"] is None
    assert cell["cheapest"] is None


@pytest.mark.parametrize(
    ("wins", "rows"),
    [("cccc", None), ("gggg", 1), ("ccgg", 8), ("gcgg", 8), ("gggc", None), ("cccg", 32)],
)
def test_from_where_on_it_wins_for_good(wins, rows):
    cells = [
        {"kind": "forward", "tokens": 8, "rows": rows, "fastest": {"c": "cpu", "g": "cuda"}[who]}
        for rows, who in zip((1, 2, 8, 32), wins, strict=True)
    ]
    assert crossover(reversed(cells)) == [{"tokens": 8, "rows": rows, "measured": [1, 2, 8, 32]}]


def test_without_a_gpu_there_is_none():
    only = [forward(1, 8, torchless_int8=1)]
    assert summary(only, CONTENDERS, {})["crossover"] == []


def test_prices():
    assert read_prices({"cpu": "0.10", "cuda:1": "2.5"}) == {"cpu": 0.1, "cuda": 2.5}
    for name, price in (("cpu", "cheap"), ("cpu", "-1"), ("cpu", "nan"), ("auto", "1")):
        with pytest.raises(InputError, match=r"^--price is .*, wanted a device and a price per hour"):
            read_prices({name: price})
    with pytest.raises(InputError, match="device is 'tpu'"):
        read_prices({"tpu": "1"})
