"""Self-attention: products of queries, keys and values, and what is added to the scores.

Three things are done at export: 1 / sqrt(head size) goes into the queries' weights and bias; the keys' bias goes
away, since it adds the same to every score of a query, which softmax does not see; the values' bias goes through the
product behind, since the attention of a token sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from torchless_export.graph.families import Family, Table
from torchless_export.graph.form import Form
from torchless_export.graph.nodes import MICROSOFT, Graph
from torchless_export.graph.positions import Positions, distance_buckets
from torchless_export.graph.spec import Spec
from torchless_export.graph.tensors import Tensors, scaled
from torchless_export.weights import Float32

__all__ = ["Attention", "add_product"]

# What is added to the score of a padding token: so low that its attention is 0, and finite, so that a text of
# nothing but padding has no NaN (as transformers does it).
_LOWEST = float(np.finfo(np.float32).min)


def add_product(
    graph: Graph,
    x: str,
    path: str,
    weight: Callable[[], Float32],
    bias: Callable[[], Float32] | None,
    *,
    output: str = "",
) -> str:
    """Add `x @ weight + bias`; returns (..., out), named `output` where there is a bias."""
    product = graph.add("MatMul", x, graph.constant(f"{path}.weight", weight), name=path)
    if bias is None:
        return product
    return graph.add("Add", product, graph.constant(f"{path}.bias", bias), name=path, output=output)


class Attention:
    """The attention of all layers of one graph; what they share is added once.

    Where only the first token is read (`first`), its row alone asks: (batch, 1) queries, all keys and values.
    """

    def __init__(
        self, graph: Graph, tensors: Tensors, family: Family, spec: Spec, form: Form, positions: Positions
    ) -> None:
        self._graph = graph
        self._positions = positions
        self._tensors = tensors
        self._family = family
        self._spec = spec
        self._form = form
        self._shared: dict[str, str] = {}

    def add(self, layer: int, x: str, rows: str, first: bool) -> str:
        """Add one layer's attention with its output product.

        Args:
            layer: its number.
            x: (batch, sequence, hidden), which keys and values come from.
            rows: x, or its first token's (batch, hidden), which queries come from.
            first: whether rows is that.

        Returns:
            what is added to `rows`, of its shape.
        """
        graph, width = self._graph, self._spec.sizes["hidden"]
        name = f"layer.{layer}.attention"
        if self._form.attention == "multi-head":
            context = self._multi_head(layer, x, rows, first, name)
        else:
            query, key, value = self._heads(layer, x, rows, first, name)
            scores = graph.add("MatMul", query, key, name=f"{name}.scores")
            scores = graph.add("Add", scores, self._bias(first, square=False), name=f"{name}.scores")
            context = graph.add("MatMul", graph.add("Softmax", scores, name=name, axis=-1), value, name=name)
            if not first:
                context = graph.add("Transpose", context, name=name, perm=[0, 2, 1, 3])
        if first:
            context = graph.add("Reshape", context, graph.ints(-1, width), name=name)
        elif self._form.attention == "matmul":
            context = graph.add("Reshape", context, graph.ints(0, 0, width), name=name)
        return self._output(layer, context)

    def _multi_head(self, layer: int, x: str, rows: str, first: bool, name: str) -> str:
        query, key, value = self._projections(layer, x, rows, first, name)
        if first:
            query = self._graph.add("Reshape", query, self._graph.ints(0, 1, self._spec.sizes["hidden"]), name=name)
        inputs = [query, key, value, "", "", self._bias(first, square=True)]
        return self._graph.add(
            "MultiHeadAttention", *inputs, name=name, domain=MICROSOFT, num_heads=self._spec.sizes["heads"], scale=1.0
        )

    def _heads(self, layer: int, x: str, rows: str, first: bool, name: str) -> list[str]:
        """Return queries (batch, heads, rows, size), keys (batch, heads, size, sequence) and values like queries."""
        graph, heads, size = self._graph, self._spec.sizes["heads"], self._spec.head_size
        query, key, value = self._projections(layer, x, rows, first, name)
        if first:
            query = graph.add("Reshape", query, graph.ints(0, heads, 1, size), name=name)
        found = [query] if first else []
        for tensor, perm in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))[len(found) :]:
            apart = graph.add("Reshape", tensor, graph.ints(0, 0, heads, size), name=name)
            found.append(graph.add("Transpose", apart, name=name, perm=perm))
        return found

    def _projections(self, layer: int, x: str, rows: str, first: bool, name: str) -> list[str]:
        """Return queries, keys and values, each (..., hidden), the queries scaled."""
        parts = self._family.layer
        paths = [self._tensors.path(part, layer) for part in (parts.query, parts.key, parts.value)]
        size = self._spec.head_size

        def query_weight() -> Float32:
            return scaled(self._tensors.matrix(paths[0]), size)

        def query_bias() -> Float32:
            return scaled(self._tensors.read(f"{paths[0]}.bias"), size)

        if self._form.qkv == "one" and not first:
            path = f"{paths[0]}+key+value"
            zeros = np.zeros(2 * self._spec.sizes["hidden"], dtype=np.float32)
            product = add_product(
                self._graph,
                x,
                path,
                lambda: np.concatenate([query_weight(), *(self._tensors.matrix(path) for path in paths[1:])], axis=1),
                lambda: np.concatenate([query_bias(), zeros]),
            )
            return self._graph.split(product, 3, axis=-1, name=name)
        query = add_product(self._graph, rows, paths[0], query_weight, query_bias)
        matrix = self._tensors.matrix
        return [query, *(add_product(self._graph, x, path, partial(matrix, path), None) for path in paths[1:])]

    def _output(self, layer: int, context: str) -> str:
        parts, tensors = self._family.layer, self._tensors
        path, value = tensors.path(parts.attended, layer), tensors.path(parts.value, layer)

        def bias() -> Float32:
            through = tensors.read(f"{value}.bias").astype(np.float64) @ tensors.matrix(path)
            return (tensors.read(f"{path}.bias") + through).astype(np.float32)

        return add_product(self._graph, context, path, lambda: tensors.matrix(path), bias)

    def _bias(self, first: bool, *, square: bool) -> str:
        """Return what is added to the scores of all heads: (batch, 1 or heads, 1 or sequence, sequence).

        `square` asks for a row for each query, which `MultiHeadAttention` does not broadcast.
        """
        graph = self._graph
        table = self._family.relative_bias
        if table is None and (first or not square):
            return self._share("mask", self._mask)
        whole = self._share("bias", lambda: self._relative(table) if table else self._square_mask())
        if not first:
            return whole
        zero, one = graph.ints(0), graph.ints(1)
        return self._share("first bias", lambda: graph.add("Slice", whole, zero, one, graph.ints(2), name="first_bias"))

    def _share(self, key: str, make: Callable[[], str]) -> str:
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def _mask(self) -> str:
        """Return 0 for tokens and the lowest number for padding, (batch, 1, 1, sequence)."""
        graph = self._graph
        table = graph.constant("mask_values", lambda: np.array([_LOWEST, 0], dtype=np.float32))
        apart = graph.add("Unsqueeze", "attention_mask", graph.ints(1, 2), name="mask")
        return graph.add("Gather", table, apart, name="mask")

    def _square_mask(self) -> str:
        """Return the mask's row for every query, (batch, 1, sequence, sequence)."""
        graph = self._graph
        mask = self._share("mask", self._mask)
        column = graph.add("Transpose", mask, name="mask", perm=[0, 1, 3, 2])
        nothing = graph.add("Mul", column, graph.number(0.0), name="mask")
        return graph.add("Add", mask, nothing, name="mask")

    def _relative(self, table: Table) -> str:
        """Return the mask and the bias by distance, (batch, heads, sequence, sequence)."""
        path, most = self._tensors.path(table), self._spec.sizes["positions"]

        def by_distance() -> Float32:
            rows = self._tensors.read(f"{path}.weight")
            return rows[distance_buckets(np.arange(-most, most + 1))].T

        biases = self._graph.constant(f"{path}.by_distance", by_distance)
        distance = self._positions.distances(most, offset=most)
        bias = self._graph.add("Gather", biases, distance, name="relative_bias", axis=1)
        return self._graph.add("Add", self._share("mask", self._mask), bias, name="relative_bias")
