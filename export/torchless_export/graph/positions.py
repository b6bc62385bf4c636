"""Where tokens stand: rows of a position table, positions counted from the pad token, distances between tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless_export.graph.nodes import Graph

__all__ = ["Positions", "distance_buckets"]

_INT64 = 7  # onnx.TensorProto.INT64


class Positions:
    """The positions of one graph's `input_ids`; what several parts need is added once.

    Attributes:
        axis: that of the sequence in hidden states: 1, or 0 for (sequence, batch, hidden).
    """

    def __init__(self, graph: Graph, axis: int) -> None:
        self._graph = graph
        self.axis = axis
        self._length = ""
        self._texts = ""
        self._columns = ""

    def length(self) -> str:
        """Return the number of columns, an int64 of one axis."""
        if not self._length:
            self._length = self._graph.add("Shape", "input_ids", name="length", start=1, end=2)
        return self._length

    def texts(self) -> str:
        """Return the number of texts, an int64 of one axis."""
        if not self._texts:
            self._texts = self._graph.add("Shape", "input_ids", name="texts", start=0, end=1)
        return self._texts

    def columns(self) -> str:
        """Return the numbers of the columns from 0, (sequence,) int64, however many there are."""
        if not self._columns:
            graph = self._graph
            end = graph.add("Squeeze", self.length(), name="columns")
            self._columns = graph.add("Range", graph.index(0), end, graph.index(1), name="columns")
        return self._columns

    def first_rows(self, name: str, table: Callable[[], NDArray[Any]]) -> str:
        """Return as many rows of a constant table as the texts have columns: (sequence, ...)."""
        graph, zero = self._graph, self._graph.ints(0)
        return graph.add("Slice", graph.constant(name, table), zero, self.length(), zero, name="positions")

    def rows(self, name: str, table: Callable[[], NDArray[Any]]) -> str:
        """Return the rows of a position table, (sequence, width), or (sequence, 1, width) where that is first."""
        return self.first_rows(name, (lambda: table()[:, None]) if self.axis == 0 else table)

    def counted_rows(self, ids: str, name: str, table: Callable[[], NDArray[Any]], pad: int) -> str:
        """Return the rows that RoBERTa's positions name: the shape of `ids`, then width.

        Ids other than `pad` are counted from 1, and pad tokens are 0 (`create_position_ids_from_input_ids`); these
        number the rows of `table`, whose first is the pad token's.
        """
        graph = self._graph
        same = graph.add("Equal", ids, graph.index(pad), name="positions")
        token = graph.add("Cast", graph.add("Not", same, name="positions"), name="positions", to=_INT64)
        count = graph.add("CumSum", token, graph.index(self.axis), name="positions")
        number = graph.add("Mul", count, token, name="positions")
        return graph.add("Gather", graph.constant(name, table), number, name="positions")

    def distances(self, most: int, *, offset: int) -> str:
        """Return `key - query + offset` for all pairs of columns: (sequence, sequence) int64.

        `most` is the greatest number of columns.
        """
        graph = self._graph
        keys = self.first_rows("columns", lambda: np.arange(most, dtype=np.int64))
        queries = self.first_rows("rows", lambda: np.arange(most, dtype=np.int64)[:, None] - offset)
        return graph.add("Sub", keys, queries, name="distances")


def distance_buckets(distance: NDArray[np.int64], buckets: int = 32, most: int = 128) -> NDArray[np.int64]:
    """Return the bucket of each distance `key - query`, as MPNet (and T5 before it) numbers them.

    Half of the buckets are for keys behind the query; of each half, half are single distances, and the rest grow in
    logarithmic steps up to `most`. In float32, as `MPNetEncoder.relative_position_bucket` computes it: at the powers
    of two the rounding decides.
    """
    half = buckets // 2
    exact = half // 2
    away = np.abs(distance)
    steps = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(most / exact))
    far = np.minimum(exact + (steps * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(away < exact, away, far)
