"""The products by constant weights in an ONNX graph, and the embedding tables: what quantization may touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from torchless.errors import CheckpointError

__all__ = ["GraphReader", "Product", "Weights", "find_products"]

# Below this an embedding table's fp32 rows cost nothing worth an extra rounding (positions, token types).
_MIN_TABLE_ROWS = 1024
# MatMulInteger sums in int32: 255 * 127 * k must fit.
_MAX_K = (2**31 - 1) // (255 * 127)

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """A constant 2-D float32 tensor as a product reads it: `alpha * tensor`, or of its transpose."""

    tensor: str
    transposed: bool = False
    alpha: float = 1.0


@dataclass(frozen=True)
class Product:
    """A product by constant weights: a MatMul or Gemm node that can be quantized.

    Attributes:
        name: the node's name, or its output's where it has none; unique in the model.
        activation: the tensor multiplied, (..., k) float32.
        weights: the constant behind the right operand, and how it is read.
        k, n: the shape of the right operand.
    """

    name: str
    activation: str
    weights: Weights
    k: int
    n: int


def find_products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """Return the products by constant weights, in graph order."""
    return tuple(GraphReader(model.graph).products().values())


class GraphReader:
    """A graph, read: its constants, and the nodes that quantization touches."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.proto = graph
        overridable = {value.name for value in graph.input}
        self._constants = {t.name: t for t in graph.initializer if t.name not in overridable}
        self._aliases: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
            elif node.op_type in {"Identity", "Transpose"}:
                self._aliases[node.output[0]] = node

    def products(self) -> dict[int, Product]:
        """Return node index -> product, in graph order."""
        found: dict[int, Product] = {}
        names: set[str] = set()
        for index, node in enumerate(self.proto.node):
            if node.op_type not in {"MatMul", "Gemm"} or node.domain:
                continue
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            weights = self._weights(node.input[1], bool(attributes.get("transB")), float(attributes.get("alpha", 1.0)))
            # A constant left operand is folded at load; no encoder exports a Gemm with transA.
            if weights is None or attributes.get("transA") or self._weights(node.input[0]) is not None:
                continue
            rows, columns = self._constants[weights.tensor].dims
            k, n = (columns, rows) if weights.transposed else (rows, columns)
            if not 0 < k <= _MAX_K or n == 0:
                continue
            name = node.name if node.name and node.name not in names else node.output[0]
            names.add(name)
            found[index] = Product(name, node.input[0], weights, k, n)
        return found

    def tables(self) -> dict[int, str]:
        """Return node index -> tensor name of each Gather of rows from an embedding table worth quantizing."""
        found: dict[int, str] = {}
        for index, node in enumerate(self.proto.node):
            if node.op_type != "Gather" or any(a.name == "axis" and a.i not in (0, -2) for a in node.attribute):
                continue
            table = self._weights(node.input[0])
            if table and not table.transposed and self._constants[table.tensor].dims[0] >= _MIN_TABLE_ROWS:
                found[index] = table.tensor
        return found

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of the constant `name`, None where it is none."""
        constant = self._constants.get(name)
        return None if constant is None else tuple(constant.dims)

    def array(self, name: str) -> Float32:
        """Return the constant `name`; raises CheckpointError where a value is not finite."""
        values: Float32 = numpy_helper.to_array(self._constants[name])
        if not np.isfinite(values).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise CheckpointError(
                f"weights {name!r}: value {values[at]} at {at}, wanted finite numbers; check the checkpoint"
            )
        return values

    def matrix(self, weights: Weights) -> Float32:
        """Return the (k, n) matrix that a product multiplies by; raises CheckpointError where it is not finite."""
        values = self.array(weights.tensor)
        values = values.T if weights.transposed else values
        return values * np.float32(weights.alpha) if weights.alpha != 1 else values

    def _weights(self, name: str, transposed: bool = False, alpha: float = 1.0) -> Weights | None:
        while (node := self._aliases.get(name)) is not None:
            transposed ^= node.op_type == "Transpose"  # of two axes: its only permutation that moves anything
            if [list(a.ints) for a in node.attribute if a.name == "perm"] == [[0, 1]]:
                transposed = not transposed
            name = node.input[0]
        constant = self._constants.get(name)
        if constant is None or len(constant.dims) != 2 or constant.data_type != onnx.TensorProto.FLOAT:
            return None
        if constant.data_location == onnx.TensorProto.EXTERNAL:
            raise CheckpointError(
                f"weights {name!r}: stored in an external file, wanted inside; load it with the model"
            )
        return Weights(name, transposed, alpha)
