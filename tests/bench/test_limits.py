"""`torchless_bench.limits`: the least time of a workload, and the share of it that is reached."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.errors import InputError
from torchless_bench.limits import Graph, graph_of, least, summary

LENGTHS = (16, 64, 128, 256)
GRAPH = Graph({"fp32": (0.0, 0.0, 10.0), "int8": (7.0, 1000.0, 0.0)}, 500)
RATES = {"fp32": 100.0, "int8": 400.0, "memory": 50.0}


@given(st.tuples(*[st.integers(0, 10**9)] * 3), st.integers(0, 10**9))
def test_the_polynomial_is_found_again(coefficients, weights):
    once, linear, square = coefficients
    counts = {str(t): {"fp32": once + linear * t + square * t * t, "weights": weights} for t in LENGTHS}
    found = graph_of(counts)
    assert found == Graph({"fp32": (once, linear, square)}, weights)
    assert found.products([10, 20])["fp32"] == 2 * once + 30 * linear + 500 * square


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda counts: counts.pop("256"), "counted at 3 lengths, wanted 4"),
        (lambda counts: counts["256"].update(fp32=1), "fp32 arithmetic is no polynomial"),
        (lambda counts: counts["64"].update(weights=8), r"weights read change with the length: \[7, 8\] bytes"),
    ],
)
def test_what_is_no_polynomial_is_refused(change, says):
    counts = {str(t): {"fp32": t * t, "weights": 7} for t in LENGTHS}
    change(counts)
    with pytest.raises(InputError, match=says):
        graph_of(counts)


def test_products_each_at_their_rate():
    found = least(GRAPH, RATES, [2, 4], 2, "int8")
    assert found.operations == {"fp32": 10 * (4 + 16), "int8": 14 + 6000}
    assert found.products_seconds == 200 / 100 + 6014 / 400
    assert (found.bytes, found.memory_seconds) == (500, 10.0)
    assert (found.seconds, found.bound) == (found.products_seconds, "products")


def test_every_batch_reads_the_weights():
    found = least(GRAPH, RATES, [1, 1, 1], 2, "int8")
    assert (found.bytes, found.seconds, found.bound) == (1000, 20.0, "memory")


def test_in_float16_all_products_are_and_weights_are_half():
    found = least(GRAPH, {"fp16": 1000.0, "memory": 50.0}, [2], 1, "fp16")
    assert found.operations == {"fp16": 40 + 2007}
    assert found.bytes == 250


@pytest.mark.parametrize("missing", ["fp32", "memory"])
def test_nothing_is_said_without_a_rate(missing):
    assert least(GRAPH, {name: rate for name, rate in RATES.items() if name != missing}, [2], 1, "int8") is None


def workload(name: str, kind: str, seconds: dict[str, float], **fields: Any) -> dict[str, Any]:
    results = [{"contender": contender, "seconds": value} for contender, value in seconds.items()]
    return {"name": name, "kind": kind, "lengths": None, "rows": 1, "work": 1.0, "results": results, **fields}


WORKLOADS = [
    workload("rate-fp32", "rate", {"limits-cpu": 0.5}, work=100.0),
    workload("rate-int8", "rate", {"limits-cpu": 0.25}, work=200.0),
    workload("rate-memory", "rate", {"limits-cpu": 2.0}, work=1000.0),
    workload("text16", "answer", {"a": 40.0, "b": 80.0, "c": 1.0, "d": 1.0}, lengths=[16]),
    workload("loop4", "loop", {"a": 1.0}, lengths=[16]),
]
PROFILES = {
    "fp32": {"counts": {str(t): {"fp32": 100 * t, "weights": 10} for t in LENGTHS}, "shares": {"1x16": {"Add": 1.0}}}
}
ROWS = [("a", "cpu", "fp32"), ("b", "cpu", "fp32"), ("c", "cpu", None), ("d", "cuda", "fp16")]


def test_shares():
    found = summary(WORKLOADS, PROFILES, ROWS)
    assert found["rates"] == {"cpu": {"fp32": 200.0, "int8": 800.0, "memory": 500.0}}
    assert found["graphs"]["fp32"] == {
        "operations": {"fp32": (0.0, 100.0, 0.0)}, "weights": 10, "shares": {"1x16": {"Add": 1.0}},
    }  # fmt: skip
    assert [(row["contender"], row["least_seconds"], row["share"]) for row in found["reached"]] == [
        ("a", 8.0, 0.2), ("b", 8.0, 0.1),
    ]  # fmt: skip
    assert not found["problems"]


def test_a_graph_that_is_not_understood_is_a_problem_that_is_told():
    counts = {str(t): {"fp32": t**3, "weights": 0} for t in LENGTHS}
    found = summary(WORKLOADS, {"fp32": {"counts": counts, "shares": {}}}, ROWS)
    assert found["problems"] == ["fp32: the fp32 arithmetic is no polynomial of second degree in the length"]
    assert not found["reached"]


def test_nothing_measured_nothing_said():
    assert summary([], {}, []) == {"rates": {}, "graphs": {}, "reached": [], "problems": []}
