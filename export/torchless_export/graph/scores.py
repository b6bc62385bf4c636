"""What is added to the scores of attention before softmax: the mask, windows, biases by distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torchless_export.graph.nodes import Graph
from torchless_export.graph.parts import Family, Table
from torchless_export.graph.positions import Positions, distance_buckets
from torchless_export.graph.spec import Spec
from torchless_export.graph.tensors import Tensors
from torchless_export.weights import Float32

__all__ = ["ScoreBias"]

_INT32 = 6  # onnx.TensorProto.INT32

# What is added to the score of a padding token: so low that its attention is 0, and finite, so that a text of
# nothing but padding has no NaN (as transformers does it). Twice that would be infinite: see `_window`.
_LOWEST = float(np.finfo(np.float32).min)


class ScoreBias:
    """The biases of one graph; each kind is added once, and shared by the layers."""

    def __init__(self, graph: Graph, tensors: Tensors, family: Family, spec: Spec, positions: Positions) -> None:
        self._graph = graph
        self._tensors = tensors
        self._family = family
        self._spec = spec
        self._positions = positions
        self._shared: dict[str, str] = {}

    def add(self, layer: int, *, first: bool, square: bool) -> str:
        """Return the bias of a layer's scores: (batch, 1 or heads, 1 or sequence, sequence).

        Args:
            layer: its number.
            first: only for the first token's scores.
            square: a row for each query is wanted even where all are equal: `MultiHeadAttention` does not broadcast.
        """
        graph, table = self._graph, self._family.relative_bias
        local = self._local(layer)
        both = self._family.disentangled is not None
        if table is None and not local and not both and (first or not square):
            return self._share("mask", self._mask)
        kind = "local" if local else "all"
        plain = self._mask_of_both if both else self._square_mask
        make = self._window if local else (lambda: self._relative(table)) if table else plain
        whole = self._share(kind, make)
        if not first:
            return whole
        row = (graph.ints(0), graph.ints(1), graph.ints(2))
        return self._share(f"{kind}, first", lambda: graph.add("Slice", whole, *row, name="first_bias"))

    def masks_alone(self, *layers: int) -> bool:
        """Whether the bias of these layers is the mask's and nothing else."""
        both = self._family.relative_bias or self._family.disentangled
        return not both and not any(self._local(layer) for layer in layers)

    def _local(self, layer: int) -> bool:
        return bool(self._spec.local) and self._spec.local[layer]

    def lengths(self) -> str:
        """Return how many tokens each text has, (batch,) int32.

        At least 1: attention to no token at all is not a number.
        """
        return self._share("lengths", self._lengths)

    def spans(self, *, first: bool) -> str:
        """Return the mask as `MultiHeadAttention`'s `key_padding_mask` of one axis, (3 * batch + 2,) int32.

        The tokens of each text, then where each text's queries begin with all rows laid end to end, then where its
        keys do; the last of each is where they end (`attention_impl.cu` of ONNX Runtime: `seqlen_k_ptr`,
        `seqstart_q_ptr`, `seqstart_k_ptr`).

        Args:
            first: there is one query for each text.
        """
        graph = self._graph
        keys = self._share("starts", lambda: self._starts(self._positions.length()))
        queries = self._share("first starts", lambda: self._starts(graph.ints(1))) if first else keys
        return self._share(
            f"spans, {first}", lambda: graph.add("Concat", self.lengths(), queries, keys, name="spans", axis=0)
        )

    def _lengths(self) -> str:
        graph = self._graph
        tokens = graph.add("Cast", "attention_mask", name="lengths", to=_INT32)
        lengths = graph.add("ReduceSum", tokens, graph.ints(1), name="lengths", keepdims=0)
        one = graph.constant("int32_1", lambda: np.array(1, dtype=np.int32))
        return graph.add("Max", lengths, one, name="lengths")

    def _starts(self, step: str) -> str:
        """Return 0, step, 2 * step, ... up to batch * step, (batch + 1,) int32; `step` is an int64 of one axis."""
        graph = self._graph
        scalar = graph.add("Squeeze", step, name="starts")
        texts = graph.add("Squeeze", self._positions.texts(), name="starts")
        end = graph.add("Add", graph.add("Mul", texts, scalar, name="starts"), graph.index(1), name="starts")
        starts = graph.add("Range", graph.index(0), end, scalar, name="starts")
        return graph.add("Cast", starts, name="starts", to=_INT32)

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
        return graph.add("Add", mask, graph.add("Mul", column, graph.number(0.0), name="mask"), name="mask")

    def _mask_of_both(self) -> str:
        """Return 0 where key and query are tokens, else the lowest number, (batch, 1, sequence, sequence)."""
        mask = self._share("mask", self._mask)
        column = self._graph.add("Transpose", mask, name="mask", perm=[0, 1, 3, 2])
        return self._graph.add("Min", mask, column, name="mask")

    def _relative(self, table: Table) -> str:
        """Return the mask and the bias by distance, (batch, heads, sequence, sequence)."""
        graph, path, most = self._graph, self._tensors.path(table), self._spec.sizes["positions"]

        def by_distance() -> Float32:
            rows = self._tensors.read(f"{path}.weight")
            return rows[distance_buckets(np.arange(-most, most + 1))].T

        name = f"{path}.by_distance"
        distance = self._positions.distances(most, offset=most)
        bias = graph.add("Gather", graph.constant(name, by_distance), distance, name=name, axis=1)
        return graph.add("Add", self._share("mask", self._mask), bias, name="relative_bias")

    def _window(self) -> str:
        """Return the mask and a window of half its size on both sides, (batch, 1, sequence, sequence)."""
        graph, half = self._graph, self._spec.sizes["window"] // 2
        columns = self._positions.columns()
        distance = graph.add(
            "Sub", columns, graph.add("Unsqueeze", columns, graph.ints(1), name="window"), name="window"
        )
        near = graph.add("LessOrEqual", graph.add("Abs", distance, name="window"), graph.index(half), name="window")
        window = graph.add("Where", near, graph.number(0.0), graph.number(_LOWEST), name="window")
        # Not Add: a token that is padding and out of the window would get minus infinity, and rows of those NaN.
        return graph.add("Min", self._share("mask", self._mask), window, name="window")
