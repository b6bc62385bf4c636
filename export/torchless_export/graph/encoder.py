"""The encoder: embeddings, then layers of attention and feed-forward network."""

from __future__ import annotations

import numpy as np

from torchless.errors import CheckpointError
from torchless_export.graph.activation import activate, adds_bias
from torchless_export.graph.attention import Attention, add_product
from torchless_export.graph.families import Family, Norm
from torchless_export.graph.form import Form
from torchless_export.graph.nodes import MICROSOFT, Graph
from torchless_export.graph.positions import Positions
from torchless_export.graph.spec import Spec
from torchless_export.graph.tensors import Tensors
from torchless_export.weights import Float32

__all__ = ["Encoder", "dense"]


class Encoder:
    """Adds the encoder of one checkpoint to a graph."""

    def __init__(self, graph: Graph, tensors: Tensors, family: Family, spec: Spec, form: Form) -> None:
        self._graph = graph
        self._tensors = tensors
        self._family = family
        self._spec = spec
        self._form = form
        self._positions = Positions(graph)
        self._attention = Attention(graph, tensors, family, spec, form, self._positions)

    def add(self, *, first: bool, output: str = "") -> str:
        """Add the encoder.

        Args:
            first: only the first token's last hidden state is read; the last layer is built for that alone.
            output: the result's name; "" for one of its own.

        Returns:
            the last hidden state, (batch, sequence, hidden), or (batch, hidden) of the first token.
        """
        x = self._embed()
        last = self._spec.layers - 1
        for layer in range(last + 1):
            read = first and layer == last and self._form.last_layer == "read"
            x = self._layer(layer, x, first=read, output=output if layer == last and not first else "")
        if first and self._form.last_layer == "whole":
            x = self._first_token(x)
        return x

    def _embed(self) -> str:
        graph, tensors, spec, parts = self._graph, self._tensors, self._spec, self._family.embeddings
        word, position = (f"{tensors.path(part)}.weight" for part in (parts.word, parts.position))
        types = f"{tensors.path(parts.token_type)}.weight" if parts.token_type and spec.sizes["types"] else ""

        def position_table() -> Float32:
            table = tensors.read(position)[spec.pad :]
            if not types or spec.token_types:
                return table
            # Every token is of type 0: its row goes into every position's, where it is added once a table.
            return _finite(table + tensors.read(types)[0], position)

        rows = (
            self._positions.counted_rows(position, position_table, spec.pad)
            if parts.count_from_pad
            else (self._positions.first_rows(position, position_table))
        )
        x = graph.add("Gather", graph.constant(word, lambda: tensors.read(word)), "input_ids", name="embeddings")
        if spec.token_types:
            table = graph.constant(types, lambda: tensors.read(types))
            x = graph.add("Add", x, graph.add("Gather", table, "token_type_ids", name="token_types"), name="embeddings")
        x = self._norm(graph.add("Add", x, rows, name="embeddings"), parts.norm)
        return self._dense(x, tensors.path(tensors.projection)) if tensors.projection else x

    def _layer(self, layer: int, x: str, *, first: bool, output: str) -> str:
        parts = self._family.layer
        rows = self._first_token(x) if first else x
        attended = self._attention.add(layer, x, rows, first)
        rows = self._sum_norm(attended, rows, parts.attention_norm, layer)
        return self._sum_norm(self._feed_forward(layer, rows), rows, parts.output_norm, layer, output)

    def _feed_forward(self, layer: int, x: str) -> str:
        parts = self._family.layer
        inner = self._dense(x, self._tensors.path(parts.up, layer), self._spec.activation)
        return self._dense(inner, self._tensors.path(parts.down, layer))

    def _dense(self, x: str, path: str, activation: str = "") -> str:
        return dense(self._graph, self._tensors, x, path, activation, self._form)

    def _sum_norm(self, x: str, residual: str, norm: Norm, layer: int, output: str = "") -> str:
        """Add the sum and its normalization."""
        if self._form.norm == "layer" or output:
            return self._norm(self._graph.add("Add", x, residual, name=f"layer.{layer}"), norm, layer, output)
        path = self._tensors.path(norm, layer)
        return self._graph.add(
            "SkipLayerNormalization", x, residual, *self._norm_weights(path), name=path, domain=MICROSOFT,
            epsilon=self._spec.eps,
        )  # fmt: skip

    def _norm(self, x: str, norm: Norm, layer: int | None = None, output: str = "") -> str:
        path = self._tensors.path(norm, layer)
        weights = self._norm_weights(path)
        return self._graph.add(
            "LayerNormalization", x, *weights, name=path, output=output, axis=-1, epsilon=self._spec.eps
        )

    def _norm_weights(self, path: str) -> tuple[str, str]:
        weight, bias = f"{path}.weight", f"{path}.bias"
        read = self._tensors.read
        return self._graph.constant(weight, lambda: read(weight)), self._graph.constant(bias, lambda: read(bias))

    def _first_token(self, x: str) -> str:
        return self._graph.add("Gather", x, self._graph.index(0), name="first_token", axis=1)


def dense(graph: Graph, tensors: Tensors, x: str, path: str, activation: str, form: Form, *, output: str = "") -> str:
    """Add a dense layer and its activation; returns (..., out), named `output` where there is no activation."""
    fused = bool(activation) and adds_bias(activation, form)

    def weight() -> Float32:
        return tensors.matrix(path)

    def bias() -> Float32:
        return tensors.read(f"{path}.bias")

    if fused:
        product = add_product(graph, x, path, weight, None)
        return graph.add("BiasGelu", product, graph.constant(f"{path}.bias", bias), name=path, domain=MICROSOFT)
    return activate(graph, activation, add_product(graph, x, path, weight, bias, output=output), path, form)


def _finite(array: Float32, name: str) -> Float32:
    if not np.isfinite(array).all():
        raise CheckpointError(f"the tensor {name}: its sum with the token type's row overflows float32")
    return array
