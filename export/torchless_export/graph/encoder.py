"""The encoder: embeddings, then layers of attention and feed-forward network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from torchless.errors import CheckpointError
from torchless_export.graph.activation import activate
from torchless_export.graph.attention import Attention, sequence_first
from torchless_export.graph.distances import Distances
from torchless_export.graph.form import Form
from torchless_export.graph.nodes import MICROSOFT, Graph
from torchless_export.graph.parts import Embeddings, Family, Norm, Table
from torchless_export.graph.positions import Positions
from torchless_export.graph.products import add_dense
from torchless_export.graph.spec import Spec
from torchless_export.graph.tensors import Tensors
from torchless_export.weights import Float32

__all__ = ["Encoder"]

_FLOAT = onnx.TensorProto.FLOAT


class Encoder:
    """Adds the encoder of one checkpoint to a graph."""

    def __init__(self, graph: Graph, tensors: Tensors, family: Family, spec: Spec, form: Form) -> None:
        self._graph = graph
        self._tensors = tensors
        self._family = family
        self._spec = spec
        self._form = form
        self._positions = Positions(graph, 0 if sequence_first(family, form) else 1)
        self._tokens = ""
        self._attention = Attention(graph, tensors, family, spec, form, self._positions)

    def add(self, *, first: bool, output: str = "") -> str:
        """Add the encoder.

        Args:
            first: only the first token's last hidden state is read; the last layer is built for that alone.
            output: the result's name; "" for one of its own.

        Returns:
            the last hidden state, (batch, sequence, hidden), or (batch, hidden) of the first token.
        """
        last, final = self._spec.layers - 1, self._family.final_norm
        add_layer = self._norm_first_layer if self._family.layer.norm_first else self._norm_last_layer
        x = self._embed()
        packing = self._attention.packing
        if packing:
            x = packing.remove(x)
        # What the last node is called that is not there for the layout alone.
        own = "" if packing else output
        turned = output if self._positions.axis == 0 and not final and not first else ""
        for layer in range(last + 1):
            # A convolution reads all tokens that the layer gives.
            distances = self._spec.distances if layer == 0 else None
            convolution = distances if distances and distances.kernel else None
            read = first and layer == last and self._form.last_layer != "whole" and not convolution
            named = own if layer == last and not final and not turned else ""
            given = add_layer(layer, x, first=read, output="" if convolution else named)
            x = self._convolve(convolution, x, given, named) if convolution else given
        if turned:
            return self._graph.add("Transpose", x, name="batch_first", output=output, perm=[1, 0, 2])
        if first and not read:
            x = self._first_token(x)
        if final:
            x = self.norm(x, final, self._tensors.path(final), own)
        return packing.restore(x, output) if packing and not first else x

    def _embed(self) -> str:
        graph, tensors, spec, parts = self._graph, self._tensors, self._spec, self._family.embeddings
        word = f"{tensors.path(parts.word)}.weight"
        ids = self._along("input_ids")
        # Every token is of type 0: that row goes into a table that is read anyway, once and for all.
        positioned = parts.position is not None and tensors.has(parts.position)
        typed = parts.token_type if spec.sizes.get("types") and not spec.token_types else None
        words = partial(self._summed, parts.word, None if positioned else typed)
        x = graph.add("Gather", graph.constant(word, words), ids, name="embeddings")
        if parts.token_type and spec.token_types:
            types = f"{tensors.path(parts.token_type)}.weight"
            table = graph.constant(types, lambda: tensors.read(types))
            x = graph.add(
                "Add",
                x,
                graph.add("Gather", table, self._along("token_type_ids"), name="token_types"),
                name="embeddings",
            )
        if parts.position and positioned:
            rows = partial(self._summed, parts.position, typed, spec.pad)
            x = graph.add("Add", x, self._position_rows(parts, parts.position, rows, ids), name="embeddings")
        if parts.projected_first:
            x = self.norm(self._projected(x), parts.norm, tensors.path(parts.norm))
        else:
            x = self._projected(self.norm(x, parts.norm, tensors.path(parts.norm)))
        return self._without_padding(x) if self._family.disentangled else x

    def _projected(self, x: str) -> str:
        projection = self._tensors.projection
        if projection is None:
            return x
        return add_dense(self._graph, self._tensors, x, projection, self._tensors.path(projection), self._form)

    def _without_padding(self, x: str, output: str = "") -> str:
        """Return (batch, sequence, hidden) with 0 for padding."""
        graph = self._graph
        if not self._tokens:
            tokens = graph.add("Cast", "attention_mask", name="tokens", to=_FLOAT)
            self._tokens = graph.add("Unsqueeze", tokens, graph.ints(2), name="tokens")
        return graph.add("Mul", x, self._tokens, name="tokens", output=output)

    def _convolve(self, distances: Distances, embedded: str, x: str, output: str) -> str:
        """Add DeBERTa's convolution of the embeddings to what the first layer gives, (batch, sequence, hidden)."""
        graph, tensors, parts = self._graph, self._tensors, self._family.disentangled
        if parts is None:
            raise TypeError("a family without disentangled attention has no convolution")
        path, norm = tensors.path(parts.convolution), parts.convolution.norm
        names = [f"{path}.weight", f"{path}.bias"]
        weights = [graph.constant(name, partial(tensors.read, name)) for name in names]
        columns = graph.add("Transpose", embedded, name=path, perm=[0, 2, 1])
        around = [distances.kernel // 2] * 2
        made = graph.add("Conv", columns, *weights, name=path, pads=around, group=distances.groups)
        made = graph.add("Transpose", made, name=path, perm=[0, 2, 1])
        made = activate(graph, self._spec.words["convolution_activation"], made, path, self._form)
        normed = self.norm(graph.add("Add", x, made, name=path), norm, tensors.path(norm))
        return self._without_padding(normed, output)

    def _summed(self, part: Table, other: Table | None, start: int = 0) -> Float32:
        """Return a table's rows from `start` on, with the first row of `other` in each."""
        name = f"{self._tensors.path(part)}.weight"
        rows = self._tensors.read(name)[start:]
        if other is None:
            return rows
        types = f"{self._tensors.path(other)}.weight"
        with np.errstate(over="ignore"):
            total: Float32 = rows + self._tensors.read(types)[0]
        if not np.isfinite(total).all():
            raise CheckpointError(f"the tensors {name} and {types}: their sum overflows float32")
        return total

    def _position_rows(self, parts: Embeddings, part: Table, table: Callable[[], Float32], ids: str) -> str:
        name = f"{self._tensors.path(part)}.weight"
        if parts.count_from_pad:
            return self._positions.counted_rows(ids, name, table, self._spec.pad)
        return self._positions.rows(name, table)

    def _along(self, ids: str) -> str:
        """Return an input with its axes in the order of the hidden states'."""
        return (
            ids if self._positions.axis == 1 else self._graph.add("Transpose", ids, name="sequence_first", perm=[1, 0])
        )

    def _norm_last_layer(self, layer: int, x: str, *, first: bool, output: str) -> str:
        parts = self._family.layer
        rows = self._first_token(x) if first else x
        rows = self._sum_norm(self._attention.add(layer, x, rows, first), rows, parts.attention_norm, layer)
        return self._sum_norm(self._feed_forward(layer, rows), rows, parts.output_norm, layer, output)

    def _norm_first_layer(self, layer: int, x: str, *, first: bool, output: str) -> str:
        parts, name = self._family.layer, f"layer.{layer}"
        normed = self.norm(x, parts.attention_norm, self._tensors.path(parts.attention_norm, layer)) if layer else x
        rows, asking = (self._first_token(x), self._first_token(normed)) if first else (x, normed)
        rows = self._graph.add("Add", rows, self._attention.add(layer, normed, asking, first), name=name)
        normed = self.norm(rows, parts.output_norm, self._tensors.path(parts.output_norm, layer))
        return self._graph.add("Add", rows, self._feed_forward(layer, normed), name=name, output=output)

    def _feed_forward(self, layer: int, x: str) -> str:
        graph, tensors, parts, form = self._graph, self._tensors, self._family.layer, self._form
        up, down = tensors.path(parts.up, layer), tensors.path(parts.down, layer)
        inner = add_dense(graph, tensors, x, parts.up, up, form, activation=self._spec.words["activation"])
        for gate in range(1, parts.up.times):
            inner = graph.add("Mul", inner, add_dense(graph, tensors, x, parts.up, up, form, index=gate), name=up)
        return add_dense(graph, tensors, inner, parts.down, down, form)

    def _sum_norm(self, x: str, residual: str, norm: Norm, layer: int, output: str = "") -> str:
        """Add the sum and its normalization."""
        path = self._tensors.path(norm, layer)
        if self._form.norm == "layer":
            return self.norm(self._graph.add("Add", x, residual, name=f"layer.{layer}"), norm, path, output)
        return self._graph.add(
            "SkipLayerNormalization", x, residual, *self._norm_weights(norm, path), name=path, domain=MICROSOFT,
            output=output, epsilon=self._spec.eps,
        )  # fmt: skip

    def norm(self, x: str, norm: Norm, path: str, output: str = "") -> str:
        """Add a layer normalization; returns the shape of x."""
        weights = self._norm_weights(norm, path)
        return self._graph.add(
            "LayerNormalization", x, *weights, name=path, output=output, axis=-1, epsilon=self._spec.eps
        )

    def _norm_weights(self, norm: Norm, path: str) -> list[str]:
        names = [f"{path}.weight", *([f"{path}.bias"] if self._tensors.has_bias(norm) else [])]
        return [self._graph.constant(name, partial(self._tensors.read, name)) for name in names]

    def _first_token(self, x: str) -> str:
        if self._attention.packing:
            return self._attention.packing.first(x)
        return self._graph.add("Gather", x, self._graph.index(0), name="first_token", axis=self._positions.axis)
