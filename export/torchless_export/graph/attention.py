"""Self-attention: queries, keys and values, their products, and the product behind.

Three things are done at export: 1 / sqrt(head size) goes into the queries' weights and bias; the keys' bias goes
away, since it adds the same to every score of a query, which softmax does not see (unless positions turn it, or have
products with it); the values' bias goes through the product behind, since the attention of a token sums to 1.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from torchless_export.graph.disentangled import DisentangledScores
from torchless_export.graph.form import Form
from torchless_export.graph.nodes import MICROSOFT, Graph
from torchless_export.graph.packing import Packing
from torchless_export.graph.parts import Family, Linear
from torchless_export.graph.positions import Positions
from torchless_export.graph.products import add_product
from torchless_export.graph.rotary import Rotations
from torchless_export.graph.scores import ScoreBias
from torchless_export.graph.spec import Spec
from torchless_export.graph.tensors import Tensors, scaled
from torchless_export.weights import Float32

__all__ = ["Attention", "sequence_first"]

_QUERY, _KEY, _VALUE = range(3)
# The forms whose attention is one node.
_MULTI_HEAD = ("multi-head", "lengths", "packed")


def sequence_first(family: Family, form: Form) -> bool:
    """Whether hidden states are (sequence, batch, hidden) instead of (batch, sequence, hidden)."""
    return form.attention == "strided" and not family.rotary and not family.disentangled


class Attention:
    """The attention of all layers of one graph.

    Where only the first token is read (`first`), its row alone asks: (batch, 1) queries, all keys and values.

    Attributes:
        packing: of hidden states without padding, (tokens, hidden) instead of (batch, sequence, hidden); None: there
            is padding.
    """

    def __init__(
        self, graph: Graph, tensors: Tensors, family: Family, spec: Spec, form: Form, positions: Positions
    ) -> None:
        self._graph = graph
        self._tensors = tensors
        self._family = family
        self._spec = spec
        self._form = form
        self._bias = ScoreBias(graph, tensors, family, spec, positions)
        self._rotations = Rotations(graph, positions, spec.head_size)
        packs = form.attention == "packed" and self._bias.masks_alone(*range(spec.layers)) and not family.rotary
        self.packing = Packing(graph, self._bias.lengths()) if packs else None
        self._disentangled: DisentangledScores | None = None
        if family.disentangled and spec.distances and (spec.distances.to_position or spec.distances.to_content):
            content = (self._part(_QUERY)[0], self._part(_KEY)[0])
            self._disentangled = DisentangledScores(
                graph, tensors, family.disentangled, content, spec, spec.distances, positions
            )

    def add(self, layer: int, x: str, rows: str, first: bool) -> str:
        """Add one layer's attention with its output product.

        Args:
            layer: its number.
            x: (batch, sequence, hidden), which keys and values come from.
            rows: x, or its first token's (batch, hidden), which queries come from.
            first: whether rows is that.

        Returns:
            what is added to the residual, of the shape of `rows`.
        """
        graph, width = self._graph, self._spec.sizes["hidden"]
        name = f"layer.{layer}.attention"
        if self.packing:
            # All tokens ask: the operator knows no other queries.
            query, key, value = self._projections(layer, x, x, False, name)
            context = self.packing.attend(query, key, value, heads=self._spec.sizes["heads"], name=name)
            return self._output(layer, self.packing.first(context) if first else context)
        query, key, value = self._turned(layer, self._projections(layer, x, rows, first, name), first, name)
        if self._form.attention in _MULTI_HEAD and not self._family.disentangled:
            context = self._multi_head(layer, query, key, value, first, name)
            shape: tuple[int, ...] = (-1, width) if first else ()
        else:
            bias = self._bias.add(layer, first=first, square=False)
            if sequence_first(self._family, self._form):
                context = self._strided(query, key, value, bias, first, name)
            else:
                context = self._matmul(layer, query, key, value, bias, first, name)
            shape = (-1, width) if first else (0, 0, width)
        return self._output(layer, graph.add("Reshape", context, graph.ints(*shape), name=name) if shape else context)

    def _matmul(self, layer: int, query: str, key: str, value: str, bias: str, first: bool, name: str) -> str:
        """Return (batch, sequence, heads, size), or (batch, heads[, 1], size) for the first token."""
        graph = self._graph
        query, key, value = self._heads(query, key, value, first, name)
        query = self._asked(query, first, name)
        if self._disentangled:
            scores = self._disentangled.add(layer, query, key, first, name)
        else:
            scores = graph.add("MatMul", query, key, name=name)
        scores = graph.add("Add", scores, bias, name=name)
        context = graph.add("MatMul", graph.add("Softmax", scores, name=name, axis=-1), value, name=name)
        return self._answered(context, name) if first else graph.add("Transpose", context, name=name, perm=[0, 2, 1, 3])

    def _strided(self, query: str, key: str, value: str, bias: str, first: bool, name: str) -> str:
        """Return (sequence, batch, heads, size), or (batch, heads[, 1], size) for the first token."""
        graph, heads, size = self._graph, self._spec.sizes["heads"], self._spec.head_size

        def apart(tensor: str, *front: int) -> str:
            return graph.add("Reshape", tensor, graph.ints(*front, size), name=name)

        product = partial(graph.add, "FusedMatMul", name=name, domain=MICROSOFT)
        keys, values = apart(key, 0, 0, heads), apart(value, 0, 0, heads)
        queries = self._asked(apart(query, 0, heads, 1) if first else apart(query, 0, 0, heads), first, name)
        scores = product(queries, keys, transBatchA=int(not first), transB=1, transBatchB=1)
        attention = graph.add("Softmax", graph.add("Add", scores, bias, name=name), name=name, axis=-1)
        context = product(attention, values, transBatchB=1)
        return self._answered(context, name) if first else graph.add("Transpose", context, name=name, perm=[2, 0, 1, 3])

    def _asked(self, query: str, first: bool, name: str) -> str:
        """Return the query of the first token twice where `Form.last_layer` says so: (batch, heads, 2, size)."""
        twice = first and self._form.last_layer == "read-twice"
        return self._graph.add("Concat", query, query, name=name, axis=2) if twice else query

    def _answered(self, context: str, name: str) -> str:
        """Return one of the rows (batch, heads, rows, size) of the first token, which are all the same."""
        twice = self._form.last_layer == "read-twice"
        return self._graph.add("Gather", context, self._graph.index(0), name=name, axis=2) if twice else context

    def _multi_head(self, layer: int, query: str, key: str, value: str, first: bool, name: str) -> str:
        """Return (batch, sequence, hidden), or (batch, 1, hidden) for the first token."""
        graph, sizes = self._graph, self._spec.sizes
        if first:
            query = graph.add("Reshape", query, graph.ints(0, 1, sizes["hidden"]), name=name)
        if self._form.attention != "multi-head" and self._bias.masks_alone(layer):
            mask = ["", self._bias.spans(first=first)]
        else:
            mask = ["", "", self._bias.add(layer, first=first, square=True)]
        return graph.add(
            "MultiHeadAttention", query, key, value, *mask, name=name, domain=MICROSOFT,
            num_heads=sizes["heads"], scale=1.0,
        )  # fmt: skip

    def _heads(self, query: str, key: str, value: str, first: bool, name: str) -> list[str]:
        """Return queries (batch, heads, rows, size), keys (batch, heads, size, sequence) and values like queries.

        For disentangled attention, keys are like values.
        """
        graph, heads, size = self._graph, self._spec.sizes["heads"], self._spec.head_size

        def apart(tensor: str, *perm: int) -> str:
            split = graph.add("Reshape", tensor, graph.ints(0, 0, heads, size), name=name)
            return graph.add("Transpose", split, name=name, perm=perm)

        rows = (
            graph.add("Reshape", query, graph.ints(0, heads, 1, size), name=name) if first else apart(query, 0, 2, 1, 3)
        )
        keys = apart(key, 0, 2, 1, 3) if self._disentangled else apart(key, 0, 2, 3, 1)
        return [rows, keys, apart(value, 0, 2, 1, 3)]

    def _projections(self, layer: int, x: str, rows: str, first: bool, name: str) -> list[str]:
        """Return queries, keys and values, each (..., hidden), the queries scaled."""
        if self._form.qkv == "one" and not first:
            which = (_QUERY, _KEY, _VALUE)
            product = self._project(layer, x, which)
            return self._graph.split(product, len(which), axis=-1, name=name)
        return [self._project(layer, rows if which == _QUERY else x, (which,)) for which in (_QUERY, _KEY, _VALUE)]

    def _project(self, layer: int, x: str, which: tuple[int, ...]) -> str:
        """Add one product for those of queries, keys and values that are asked for."""
        width = self._spec.sizes["hidden"]
        name = self._tensors.path(self._part(_QUERY)[0], layer) + "".join(
            f":{('query', 'key', 'value')[i]}" for i in which
        )

        def bias() -> Float32:
            arrays = [self._read_bias(layer, i) if self._biased(i) else np.zeros(width, np.float32) for i in which]
            return np.concatenate(arrays)

        return add_product(
            self._graph,
            x,
            name,
            lambda: np.concatenate([self._read_matrix(layer, i) for i in which], axis=1),
            bias if any(self._biased(i) for i in which) else None,
        )

    def _part(self, which: int) -> tuple[Linear, int]:
        """Return the tensor of queries, keys or values, and which of its matrices."""
        parts = self._family.layer
        if parts.qkv:
            return parts.qkv, which
        part = (parts.query, parts.key, parts.value)[which]
        if part is None:
            raise TypeError("a family's layer names neither qkv nor query, key and value")
        return part, 0

    def _biased(self, which: int) -> bool:
        """Whether the product's bias reaches the scores."""
        distances = self._spec.distances
        key = self._family.rotary or (distances is not None and distances.to_content)
        return (which == _QUERY or (which == _KEY and key)) and self._tensors.has_bias(self._part(which)[0])

    def _read_matrix(self, layer: int, which: int) -> Float32:
        part, index = self._part(which)
        matrix = self._tensors.matrix(self._tensors.path(part, layer), part, index)
        return scaled(matrix, self._spec.score_variance) if which == _QUERY else matrix

    def _read_bias(self, layer: int, which: int) -> Float32:
        part, index = self._part(which)
        bias = self._tensors.bias(self._tensors.path(part, layer), part, index)
        return scaled(bias, self._spec.score_variance) if which == _QUERY else bias

    def _turned(self, layer: int, projections: list[str], first: bool, name: str) -> list[str]:
        """Return queries and keys turned by their positions, where the family does; the first token's is 0: no turn."""
        if not self._family.rotary:
            return projections
        graph, spec = self._graph, self._spec
        tables = self._rotations.tables(spec.thetas[spec.local[layer]])
        turn = partial(graph.add, "RotaryEmbedding", name=name, domain=MICROSOFT)
        query, key, value = projections
        if not first:
            query = turn(query, graph.ints(0), *tables)
        return [query, turn(key, graph.ints(0), *tables), value]

    def _output(self, layer: int, context: str) -> str:
        tensors, part = self._tensors, self._family.layer.attended
        path = tensors.path(part, layer)
        value = self._part(_VALUE)[0]

        def bias() -> Float32:
            total = np.zeros(self._spec.sizes["hidden"], dtype=np.float64)
            if tensors.has_bias(part):
                total += tensors.bias(path, part)
            if tensors.has_bias(value):
                total += self._read_bias(layer, _VALUE).astype(np.float64) @ tensors.matrix(path, part)
            return total.astype(np.float32)

        biased = tensors.has_bias(part) or tensors.has_bias(value)
        return add_product(self._graph, context, path, lambda: tensors.matrix(path, part), bias if biased else None)
