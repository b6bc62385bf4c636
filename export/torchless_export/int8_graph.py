"""Writes the nodes of int8 products and embedding tables in place of those of an fp32 graph.

| activation | a product by constant weights becomes |
|---|---|
| as it comes | DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (by the activation's scale times the column's), which ONNX Runtime fuses at load to `DynamicQuantizeMatMul`, or to `MatMulIntegerToFloat` where several products read one activation: then it is quantized once |
| a fixed range | QuantizeLinear -> `com.microsoft.MatMulIntegerToFloat`, which adds the bias too |
| smoothed | a Mul before either: the norm's own weights stay as they are, since the residual sum reads them too |
| with outliers | beside the product, what the range cuts off those few features, times their rows of the weights in fp32 |
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from torchless_export import saturation
from torchless_export.onnx_graph import Names, pruned
from torchless_export.products import GraphReader, Product, Weights

__all__ = ["Activation", "Embeddings", "matrix_key", "rewrite"]

_MICROSOFT = "com.microsoft"

Float32 = npt.NDArray[np.float32]
Embeddings = Literal["int8", "fp16", "fp32"]


@dataclass(frozen=True, eq=False)
class Activation:
    """How an activation (..., k) float32 is quantized before the products that read it; the default: as it comes.

    Attributes:
        smoothing: (k,) float32, by which features are divided, and rows of the weights multiplied (Xiao et al. 2023,
            "SmoothQuant"); None: by nothing.
        limits: the lowest and highest value, after smoothing, that the 8 bits hold, whatever the text; what is beyond
            is cut; None: the range of each run's tensor.
        outliers: features whose values beyond `limits` are not lost, but multiplied in fp32.
    """

    smoothing: Float32 | None = None
    limits: tuple[float, float] | None = None
    outliers: tuple[int, ...] = field(default=())


def matrix_key(product: Product, activation: Activation | None) -> tuple[Weights, str]:
    """Return what two products must share to share their quantized weights: smoothing is folded into them."""
    smoothed = activation is not None and activation.smoothing is not None
    return product.weights, product.activation if smoothed else ""


def rewrite(
    graph: GraphReader,
    chosen: Mapping[int, Product],
    matrices: Mapping[tuple[Weights, str], saturation.WeightMatrix],
    activations: Mapping[str, Activation],
    tables: Mapping[int, str],
    embeddings: Embeddings,
) -> onnx.GraphProto:
    """Return the graph with the `chosen` products (node index -> product) in int8 and the `tables` as asked.

    Nothing is left in it that no node reads.
    """
    writer = _Writer(graph, matrices, activations)
    for index, node in enumerate(graph.proto.node):
        if node.output and node.output[0] in writer.folded:
            continue
        if index in chosen:
            writer.add_product(node, chosen[index])
        elif index in tables:
            (writer.add_int8_table if embeddings == "int8" else writer.add_fp16_table)(node, tables[index])
        else:
            writer.nodes.append(node)
    return pruned(graph.proto, writer.nodes, list(writer.made.values()))


class _Writer:
    """The new nodes, in order.

    Attributes:
        nodes: so far.
        made: the new initializers, by what they hold.
        folded: outputs of nodes that another node computes already.
    """

    def __init__(
        self,
        graph: GraphReader,
        matrices: Mapping[tuple[Weights, str], saturation.WeightMatrix],
        activations: Mapping[str, Activation],
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, onnx.TensorProto] = {}
        self.folded: set[str] = set()
        self._graph = graph
        self._matrices = matrices
        self._activations = activations
        self._names = Names(graph.proto)
        self._smoothed: dict[str, str] = {}
        self._quantized: dict[str, tuple[str, str, str]] = {}  # activation -> its values, scale, zero point
        self._beyond: dict[str, str] = {}
        self._outputs = {value.name for value in graph.proto.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.proto.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def add_product(self, node: onnx.NodeProto, product: Product) -> None:
        """Add the nodes of an int8 product in place of a MatMul or Gemm."""
        how = self._activations.get(product.activation, Activation())
        if how.limits is None:
            self._add_dynamic(node, product, how)
        else:
            self._add_static(node, product, how)

    def add_int8_table(self, node: onnx.NodeProto, table: str) -> None:
        """Add the nodes of a Gather of rows in int8, each with its scale."""
        if f"{table} rows" not in self.made:
            rows, scales = _quantize_rows(self._graph.array(table))
            self._constant(f"{table} rows", f"{table}_rows_int8", lambda: rows)
            self._constant(f"{table} row scales", f"{table}_rows_scale", lambda: scales)
        name = node.name or node.output[0]
        picked, floats, scale = (self._names.fresh(f"{name}_{x}") for x in ("int8", "float", "scale"))
        self._add("Gather", [self.made[f"{table} rows"].name, node.input[1]], [picked], f"{name}_rows")
        self._add("Gather", [self.made[f"{table} row scales"].name, node.input[1]], [scale], f"{name}_row_scales")
        self._add("Cast", [picked], [floats], f"{name}_Cast", to=onnx.TensorProto.FLOAT)
        self._add("Mul", [floats, scale], [node.output[0]], f"{name}_Mul")

    def add_fp16_table(self, node: onnx.NodeProto, table: str) -> None:
        """Add the nodes of a Gather of rows in float16."""
        rows = self._constant(f"{table} fp16", f"{table}_fp16", lambda: self._graph.array(table).astype(np.float16))
        picked = self._names.fresh(f"{node.name or node.output[0]}_fp16")
        self._add("Gather", [rows, node.input[1]], [picked], f"{picked}_rows")
        self._add("Cast", [picked], [node.output[0]], f"{picked}_Cast", to=onnx.TensorProto.FLOAT)

    def _add_dynamic(self, node: onnx.NodeProto, product: Product, how: Activation) -> None:
        values, scales = self._weights(product, how)
        source = product.activation
        if source not in self._quantized:
            parts = (self._names.fresh(f"{source}_{x}") for x in ("uint8", "scale", "zero"))
            self._quantized[source] = (next(parts), next(parts), next(parts))
            x = self._smooth(source, how)
            self._add("DynamicQuantizeLinear", [x], self._quantized[source], f"{source}_DynamicQuantizeLinear")
        uint8, scale, zero_point = self._quantized[source]
        name = product.name
        sums, floats, both = (self._names.fresh(f"{name}_{x}") for x in ("int32", "float", "scale"))
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        result = self._names.fresh(f"{name}_product") if bias else node.output[0]
        self._add("MatMulInteger", [uint8, values, zero_point, self._zero()], [sums], f"{name}_MatMulInteger")
        self._add("Cast", [sums], [floats], f"{name}_Cast", to=onnx.TensorProto.FLOAT)
        self._add("Mul", [scale, scales], [both], f"{name}_scales_Mul")
        self._add("Mul", [floats, both], [result], f"{name}_Mul")
        if bias:
            self._add("Add", [result, self._beta(node, bias)], [node.output[0]], f"{name}_Add")

    def _add_static(self, node: onnx.NodeProto, product: Product, how: Activation) -> None:
        values, scales = self._weights(product, how)
        source, name = product.activation, product.name
        if source not in self._quantized:
            scale, zero_point = saturation.quantization_range(*how.limits or (0, 0))
            self._quantized[source] = (
                self._names.fresh(f"{source}_uint8"),
                self._constant(f"{source} scale", f"{source}_scale", lambda: np.array(scale, np.float32)),
                self._constant(f"{source} zero", f"{source}_zero", lambda: np.array(zero_point, np.uint8)),
            )
            uint8, *rest = self._quantized[source]
            self._add("QuantizeLinear", [self._smooth(source, how), *rest], [uint8], f"{source}_QuantizeLinear")
        uint8, scale_name, zero_name = self._quantized[source]
        bias, output = self._bias(node, product)
        result = self._names.fresh(f"{name}_in_range") if how.outliers else output
        inputs = [uint8, values, scale_name, scales, zero_name, self._zero(), *([bias] if bias else [])]
        self._add("MatMulIntegerToFloat", inputs, [result], f"{name}_MatMulIntegerToFloat", domain=_MICROSOFT)
        if how.outliers:
            rows = self._constant(
                f"{product.weights!r} {how.outliers}",
                f"{product.weights.tensor}_outliers",
                lambda: self._graph.matrix(product.weights)[list(how.outliers)],
            )
            beyond = self._names.fresh(f"{name}_beyond_range")
            self._add("MatMul", [self._cut_off(source, how), rows], [beyond], f"{name}_outliers_MatMul")
            self._add("Add", [result, beyond], [output], f"{name}_outliers_Add")

    def _bias(self, node: onnx.NodeProto, product: Product) -> tuple[str, str]:
        """Return the (n,) bias that the product can add, "" if none, and the tensor that is then computed."""
        if node.op_type == "Gemm":
            bias = node.input[2] if len(node.input) > 2 else ""
            return (self._beta(node, bias) if bias else ""), node.output[0]
        readers = self._readers.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type == "Add" and node.output[0] not in self._outputs:
            (other,) = [name for name in readers[0].input if name != node.output[0]] or [""]
            if self._graph.dims(other) == (product.n,):
                self.folded.add(readers[0].output[0])
                return other, readers[0].output[0]
        return "", node.output[0]

    def _smooth(self, source: str, how: Activation) -> str:
        if how.smoothing is None:
            return source
        if source not in self._smoothed:
            smoothing = how.smoothing
            factors = self._constant(f"{source} smoothing", f"{source}_smoothing", lambda: 1 / smoothing)
            self._smoothed[source] = self._names.fresh(f"{source}_smoothed")
            self._add("Mul", [source, factors], [self._smoothed[source]], f"{source}_smoothing_Mul")
        return self._smoothed[source]

    def _cut_off(self, source: str, how: Activation) -> str:
        """Return (..., outliers) float32: what the range leaves of these features, before smoothing."""
        if source not in self._beyond:
            picked, clipped, beyond = (self._names.fresh(f"{source}_{x}") for x in ("outliers", "clipped", "beyond"))
            index = self._constant(
                f"{source} outliers", f"{source}_outlier_features", lambda: np.array(how.outliers, np.int64)
            )
            low, high = (np.float32(limit) for limit in how.limits or (0, 0))
            self._add("Gather", [source, index], [picked], f"{source}_outliers_Gather", axis=-1)
            if how.smoothing is None:
                lowest = self._constant(f"{source} low", f"{source}_low", lambda: np.array(low))
                highest = self._constant(f"{source} high", f"{source}_high", lambda: np.array(high))
                self._add("Clip", [picked, lowest, highest], [clipped], f"{source}_outliers_Clip")
            else:
                factors, at_least = how.smoothing[list(how.outliers)], self._names.fresh(f"{source}_at_least")
                lows = self._constant(f"{source} lows", f"{source}_lows", lambda: low * factors)
                highs = self._constant(f"{source} highs", f"{source}_highs", lambda: high * factors)
                self._add("Max", [picked, lows], [at_least], f"{source}_outliers_Max")
                self._add("Min", [at_least, highs], [clipped], f"{source}_outliers_Min")
            self._add("Sub", [picked, clipped], [beyond], f"{source}_outliers_Sub")
            self._beyond[source] = beyond
        return self._beyond[source]

    def _weights(self, product: Product, how: Activation) -> tuple[str, str]:
        key = matrix_key(product, how)
        matrix = self._matrices[key]
        base = product.weights.tensor
        return (
            self._constant(f"{key!r} values", f"{base}_int8", lambda: matrix.values),
            self._constant(f"{key!r} scales", f"{base}_scale", lambda: matrix.scales),
        )

    def _beta(self, node: onnx.NodeProto, bias: str) -> str:
        """Return the tensor `beta * bias` of a Gemm."""
        beta = next((float(a.f) for a in node.attribute if a.name == "beta"), 1.0)
        if beta == 1:
            return bias
        factor = self._constant(f"beta {beta}", "gemm_beta", lambda: np.array(beta, dtype=np.float32))
        scaled = self._names.fresh(f"{bias}_times_beta")
        self._add("Mul", [bias, factor], [scaled], f"{scaled}_Mul")
        return scaled

    def _zero(self) -> str:
        return self._constant("zero", "int8_zero_point", lambda: np.array(0, dtype=np.int8))

    def _constant(self, key: str, base: str, values: Callable[[], npt.NDArray[Any]]) -> str:
        if key not in self.made:
            self.made[key] = numpy_helper.from_array(np.ascontiguousarray(values()), self._names.fresh(base))
        return self.made[key].name

    def _add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        node = helper.make_node(operator, inputs, outputs, self._names.fresh(name), domain=domain, **attributes)
        self.nodes.append(node)


def _quantize_rows(table: Float32) -> tuple[saturation.Int8, Float32]:
    """Return (rows int8 of the table's shape, scales (rows, 1) float32): symmetric, so that the pad row stays zero."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny), np.float32(1))
    scales = scales.astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales
