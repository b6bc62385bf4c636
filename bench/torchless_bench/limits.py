"""The least time that a workload could take on this machine, and the share of it that a contender reaches.

From three measurements of the same run: the rate of large matrix products in ONNX Runtime, by precision; the rate at
which it reads weights; and the products that the bundle's graph computes. The least time is that of the products at
their rate, or of reading the weights once for each batch, whichever takes longer (the roofline of Williams, Waterman
and Patterson, 2009, with what this software reaches in place of the processor's peak). Padding, norms, tokenizing and
Python have no part in it: what they take is what is missing from a share of 1.

A peer is held to the arithmetic of the bundle's graph too, since that is enough for the answer: what it computes beyond
is what it wastes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from torchless.errors import InputError

LEAST = "the least time"
"""What a target names in place of a contender to be held to the limit."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What one variant's graph computes for one text.

    Attributes:
        operations: by precision, the coefficients of 1, tokens and tokens squared.
        weights: bytes that each run reads, whatever the batch.
    """

    operations: Mapping[str, tuple[float, float, float]]
    weights: int

    def products(self, lengths: Sequence[int]) -> dict[str, float]:
        """Return the operations by precision that texts of these `lengths` in tokens need, without padding."""
        return {
            precision: sum(once + tokens * (linear + tokens * square) for tokens in lengths)
            for precision, (once, linear, square) in self.operations.items()
        }


@dataclass(frozen=True, slots=True)
class Least:
    """The least time of one call of a workload.

    Attributes:
        operations: of the products, by precision.
        bytes: of the weights read.
        products_seconds, memory_seconds: what either takes at the machine's rates.
    """

    operations: Mapping[str, float]
    bytes: int
    products_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.products_seconds, self.memory_seconds)

    @property
    def bound(self) -> str:
        """Which of the two it is: "products" or "memory"."""
        return "products" if self.products_seconds >= self.memory_seconds else "memory"


def graph_of(counts: Mapping[str, Mapping[str, int]]) -> Graph:
    """Return what a graph computes from its counts at some lengths, as `profiled_graph` gives them.

    Attention's scores grow with the square of the length, all else in proportion to it: three lengths fix the
    polynomial, by Newton's divided differences in whole fractions, and the others check it.

    Raises:
        InputError: under four lengths, or one does not lie on the polynomial, or the weights change with the length.
    """
    lengths = sorted(int(length) for length in counts)
    if len(lengths) < 4:
        raise InputError(f"the arithmetic was counted at {len(lengths)} lengths, wanted 4")
    weights = {counts[str(tokens)].get("weights", 0) for tokens in lengths}
    if len(weights) > 1:
        raise InputError(f"the weights read change with the length: {sorted(weights)} bytes")
    operations = {}
    for precision in sorted({name for count in counts.values() for name in count} - {"weights"}):
        values = [counts[str(tokens)].get(precision, 0) for tokens in lengths]
        (x, y, z), (first, second, third) = lengths[:3], values[:3]
        slope = Fraction(second - first, y - x)
        square = (Fraction(third - second, z - y) - slope) / (z - x)
        linear = slope - square * (x + y)
        once = first - linear * x - square * x * x
        for tokens, value in zip(lengths, values, strict=True):
            if once + linear * tokens + square * tokens**2 != value:
                raise InputError(f"the {precision} arithmetic is no polynomial of second degree in the length")
        operations[precision] = (float(once), float(linear), float(square))
    return Graph(operations, weights.pop())


def least(graph: Graph, rates: Mapping[str, float], lengths: Sequence[int], rows: int, precision: str) -> Least | None:
    """Return the least time of texts of these `lengths`, at most `rows` in a batch; None where a rate is not known.

    Args:
        graph: of the variant.
        rates: operations in a second by precision, and bytes in a second as "memory".
        lengths: of the texts, in tokens.
        rows: of a batch at most, each of which reads the weights.
        precision: of a graph that is run in another one than it was counted in, "fp16"; else as counted.
    """
    counted = graph.products(lengths)
    weights = graph.weights
    if precision == "fp16":
        counted, weights = {"fp16": sum(counted.values())}, weights // 2
    if "memory" not in rates or not set(counted) <= set(rates):
        return None
    read = weights * math.ceil(len(lengths) / rows)
    seconds = sum(operations / rates[name] for name, operations in counted.items())
    return Least(counted, read, seconds, read / rates["memory"])


def summary(
    workloads: Sequence[Mapping[str, Any]], profiles: Mapping[str, Any], rows: Sequence[tuple[str, str, str | None]]
) -> dict[str, Any]:
    """Return the report's part on limits; empty parts where nothing was measured.

    Args:
        workloads: as the report has them.
        profiles: by variant, what `profiled_graph` gave.
        rows: (name, device, precision) of each contender; a precision of None has no graph to be held to.
    """
    rates = _rates(workloads)
    graphs, about, problems = {}, {}, []
    for variant, profile in profiles.items():
        try:
            graphs[variant] = graph_of(profile["counts"])
        except InputError as error:
            problems.append(f"{variant}: {error}")
            continue
        about[variant] = asdict(graphs[variant]) | {"shares": profile["shares"]}
    reached = []
    for workload in workloads:
        if workload["lengths"] is None or workload["kind"] not in ("forward", "answer"):
            continue
        middle = {result["contender"]: result["seconds"] for result in workload["results"]}
        for name, device, precision in rows:
            graph = graphs.get("int8" if precision == "int8" else "fp32")
            if name not in middle or graph is None or precision is None:
                continue
            found = least(graph, rates.get(device, {}), workload["lengths"], workload["rows"], precision)
            if found is not None:
                reached.append(
                    {"workload": workload["name"], "contender": name, "precision": precision, "seconds": middle[name]}
                    | asdict(found)
                    | {"least_seconds": found.seconds, "bound": found.bound, "share": found.seconds / middle[name]}
                )
    return {"rates": rates, "graphs": about, "reached": reached, "problems": problems}


def _rates(workloads: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return operations or bytes in a second by device: the median of what was measured."""
    rates: dict[str, dict[str, float]] = {}
    for workload in workloads:
        if workload["kind"] == "rate":
            for result in workload["results"]:
                device = result["contender"].partition("-")[2]
                rates.setdefault(device, {})[workload["name"].partition("-")[2]] = workload["work"] / result["seconds"]
    return rates
