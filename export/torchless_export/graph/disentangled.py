"""DeBERTa's scores: content by content, content by position, position by content.

A layer's keys and queries of positions depend on weights alone, and are constants here, (heads, rows, size). Each run
finds once which rows its distances have, gathers them per layer in order of distance, and multiplies: a row of
products for each token, by distance. Shifting every such row by its token's own position makes them scores by token;
it takes a slice and a new shape, no index for each pair (`_shifted`). Both kinds of scores have the same row for a
pair of tokens: what the modelling code finds for keys is the same number with both signs changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from torchless.errors import CheckpointError
from torchless_export.graph.distances import Distances
from torchless_export.graph.nodes import MICROSOFT, Graph
from torchless_export.graph.parts import Disentangled, Linear
from torchless_export.graph.positions import Positions
from torchless_export.graph.spec import Spec
from torchless_export.graph.tensors import Tensors, scaled
from torchless_export.weights import Float32

__all__ = ["DisentangledScores"]


class DisentangledScores:
    """The scores of one graph's layers, before the mask."""

    def __init__(
        self, graph: Graph, tensors: Tensors, parts: Disentangled, content: tuple[Linear, Linear], spec: Spec,
        distances: Distances, positions: Positions,
    ) -> None:  # fmt: skip
        """`content`: the products that make queries and keys of tokens, and of positions where they are shared."""
        self._graph = graph
        self._tensors = tensors
        self._parts = parts
        self._query, self._key = content if distances.shared else (parts.query, parts.key)
        self._spec = spec
        self._distances = distances
        self._positions = positions
        self._shared: dict[str, str] = {}

    def add(self, layer: int, query: str, key: str, first: bool, name: str) -> str:
        """Add a layer's scores.

        Args:
            layer: its number.
            query: (batch, heads, sequence, size), or (batch, heads, 1, size) for the first token, scaled.
            key: (batch, heads, sequence, size).
            first: whether query is the first token's.
            name: of the nodes.

        Returns:
            (batch, heads, sequence or 1, sequence).
        """
        return (self._first if first else self._all)(layer, query, key, name)

    def _all(self, layer: int, query: str, key: str, name: str) -> str:
        graph = self._graph
        product = partial(graph.add, "FusedMatMul", name=name, domain=MICROSOFT, transB=1)
        scores = product(query, key)
        if self._distances.to_position:
            by_distance = product(query, self._gathered(self._keys(layer), self._rows("ahead")))
            scores = graph.add("Add", scores, self._shifted(by_distance, name), name=name)
        if self._distances.to_content:
            by_distance = product(key, self._gathered(self._queries(layer), self._rows("behind")))
            by_key = graph.add("Transpose", self._shifted(by_distance, name), name=name, perm=[0, 1, 3, 2])
            scores = graph.add("Add", scores, by_key, name=name)
        return scores

    def _first(self, layer: int, query: str, key: str, name: str) -> str:
        """The first token's distance to a key is the key's own position: nothing is to be shifted."""
        graph = self._graph
        keys = key
        if self._distances.to_position:
            keys = graph.add("Add", key, self._gathered(self._keys(layer), self._rows("first")), name=name)
        scores = graph.add("FusedMatMul", query, keys, name=name, domain=MICROSOFT, transB=1)
        if self._distances.to_content:
            parts = graph.add("Mul", key, self._gathered(self._queries(layer), self._rows("first")), name=name)
            sums = graph.add("ReduceSum", parts, graph.ints(-1), name=name, keepdims=0)
            scores = graph.add("Add", scores, graph.add("Unsqueeze", sums, graph.ints(2), name=name), name=name)
        return scores

    def _shifted(self, by_distance: str, name: str) -> str:
        """Return (batch, heads, sequence, sequence) of (batch, heads, sequence, 2 * sequence).

        Token j is in row i's column j - i + length - 1. Rows of one column less, laid over the same numbers, start i
        numbers earlier in the i-th, so that it is in column j + length - 1 of them all.
        """
        graph, share = self._graph, self._share
        length = self._positions.length()
        one, zero = graph.ints(1), graph.ints(0)
        double = partial(graph.add, "Add", length, length, name="shift")
        row = share("row", lambda: graph.add("Sub", double(), one, name="shift"))
        kept = share("kept", lambda: graph.add("Mul", length, row, name="shift"))
        shape = share("shape", lambda: graph.add("Concat", graph.ints(0, 0), length, row, name="shift", axis=0))
        start = share("start", lambda: graph.add("Sub", length, one, name="shift"))
        flat = graph.add("Reshape", by_distance, graph.ints(0, 0, -1), name=name)
        flat = graph.add("Slice", flat, zero, kept, graph.ints(2), name=name)
        return graph.add("Slice", graph.add("Reshape", flat, shape, name=name), start, row, graph.ints(3), name=name)

    def _rows(self, which: str) -> str:
        """Return the rows of a run's distances.

        "ahead": of 1 - length to length as `key - query`, "behind": as `query - key`, "first": of 0 to length - 1 as
        `key - query`.
        """
        return self._share(f"rows, {which}", partial(self._make_rows, which))

    def _make_rows(self, which: str) -> str:
        graph = self._graph
        if which == "first":
            length = self._positions.length()
            start = self._share("start", lambda: graph.add("Sub", length, graph.ints(1), name="shift"))
            return graph.add("Slice", self._rows("ahead"), start, graph.ints(-1), graph.ints(0), name="distances")
        table = graph.constant(f"distances.{which}", lambda: self._distances.rows()[:: -1 if which == "ahead" else 1])
        return graph.add("Gather", table, self._share("distances", self._clipped), name="distances")

    def _clipped(self) -> str:
        """Return the entries of `Distances.rows` for 1 - length to length: those beyond the furthest are its own."""
        graph, most = self._graph, self._distances.furthest
        add = partial(graph.add, name="distances")
        length = add("Squeeze", self._positions.length())
        start = add("Sub", graph.index(1), length)
        distance = add("Range", start, add("Add", length, graph.index(1)), graph.index(1))
        return add("Add", add("Clip", distance, graph.index(-most), graph.index(most)), graph.index(most))

    def _gathered(self, table: str, rows: str) -> str:
        """Return (heads, distances, size) of (heads, rows, size)."""
        return self._graph.add("Gather", table, rows, name=table, axis=1)

    def _keys(self, layer: int) -> str:
        return self._constant(layer, self._key, "position_keys", lambda table: table)

    def _queries(self, layer: int) -> str:
        variance = self._spec.score_variance
        return self._constant(layer, self._query, "position_queries", lambda table: scaled(table, variance))

    def _constant(self, layer: int, part: Linear, name: str, finish: Callable[[Float32], Float32]) -> str:
        path = self._tensors.path(part, layer)

        def make() -> Float32:
            with np.errstate(over="ignore", invalid="ignore"):
                table = finish(self._table() @ self._tensors.matrix(path, part) + self._tensors.bias(path, part))
            if not np.isfinite(table).all():
                raise CheckpointError(f"the tensors of {path}: the products of positions overflow float32")
            return table.reshape(len(table), self._spec.sizes["heads"], -1).transpose(1, 0, 2)

        return self._graph.constant(f"{path}.{name}", make)

    def _table(self) -> Float32:
        tensors, parts = self._tensors, self._parts
        table = tensors.read(f"{tensors.path(parts.table)}.weight")
        if not self._distances.normalized:
            return table
        path = tensors.path(parts.norm)
        wide = table.astype(np.float64)
        centered = wide - wide.mean(axis=-1, keepdims=True)
        normed = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + self._spec.eps)
        rows: Float32 = (normed * tensors.read(f"{path}.weight") + tensors.read(f"{path}.bias")).astype(np.float32)
        return rows

    def _share(self, key: str, make: Callable[[], str]) -> str:
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]
