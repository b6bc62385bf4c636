"""The `int8` variant: weights of products in int8, activations quantized as they come.

Each MatMul or Gemm by constant weights becomes

    DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (by the activation's scale times the column's scale)

which ONNX Runtime fuses at load to `DynamicQuantizeMatMul`, or to `MatMulIntegerToFloat` where several products read
one activation (query, key, value): then it is quantized once. Activations are uint8, one range per tensor and run;
weights are int8, symmetric, one scale per output column, wide enough that no processor saturates (`saturation`).
Products of two activations stay fp32. Large embedding tables become int8 with one scale per row: on MiniLM (SST-2) a
model of 24 instead of 59 MB, and no difference beyond noise in agreement or time. Inputs, outputs, opset and the names
of all tensors that remain are those of the fp32 model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from torchless.errors import CheckpointError, InputError
from torchless_export import saturation
from torchless_export.activations import feature_ranges
from torchless_export.onnx_graph import Names, opset_version, pruned, with_graph

__all__ = ["ISA", "Product", "Quantized", "QuantizedProduct", "Treatment", "find_products", "quantize_dynamic_int8"]

Treatment = Literal["int8", "fp32"]

ISA = ("avx2", "avx512_vnni", "avx_vnni", "arm64")
"""The instruction sets on which the variant gives the same integers: all, because no pair sum saturates."""

# Below this an embedding table's fp32 rows cost nothing worth an extra rounding (positions, token types).
_MIN_TABLE_ROWS = 1024
# MatMulInteger sums in int32: 255 * 127 * k must fit.
_MAX_K = (2**31 - 1) // (255 * 127)
_MIN_OPSET = 11  # DynamicQuantizeLinear

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


@dataclass(frozen=True)
class QuantizedProduct:
    """What became of one product of (..., k) by (k, n).

    Attributes:
        saturating_columns: in which pairs could have saturated on the calibration texts with the finest scales; None
            without calibration.
        widened_columns: whose scale is wider than the finest, so that no pair can saturate on any text.
        worst_pair_sum: the largest magnitude that a pair sum can now reach, at most 32767.
    """

    name: str
    k: int
    n: int
    saturating_columns: int | None
    widened_columns: int
    worst_pair_sum: int


@dataclass(frozen=True, eq=False)
class Quantized:
    """The quantized model and what was done to it.

    Attributes:
        model: opset, inputs and outputs as in the fp32 model; passes `onnx.checker`.
        products: every product in int8, in graph order.
        embeddings: the tables in int8, by initializer name.
        isa: the instruction sets that the variant suits.
        saturation: for the manifest, see `quantize_dynamic_int8`.
    """

    model: onnx.ModelProto
    products: tuple[QuantizedProduct, ...]
    embeddings: tuple[str, ...]
    isa: tuple[str, ...]
    saturation: dict[str, int | None]


def quantize_dynamic_int8(
    model: onnx.ModelProto,
    calibration: Sequence[Mapping[str, npt.NDArray[np.int64]]],
    *,
    treatments: Mapping[str, Treatment] | None = None,
    embeddings: Treatment = "int8",
    progress: Callable[[int, int], None] | None = None,
) -> Quantized:
    """Quantize the products of an fp32 model for `device="cpu"`.

    Args:
        model: fp32, its weights inside (not in external files).
        calibration: model inputs, each `{name: (batch, sequence) int64}`, on which the columns that would saturate
            are counted for the report; may be empty. The scales do not depend on it: they are safe for every text.
        treatments: product name (see `find_products`) -> "int8" or "fp32"; "int8" for those not named.
        embeddings: "int8" for tables of 1024 rows and more, or "fp32" for none.
        progress: called with (batches done, batches) while calibrating.

    Returns:
        The model, and `saturation`: {"products", "columns", "saturating_columns", "widened_columns", "worst_pair_sum",
        "limit", "calibration_batches"}, the counts of `QuantizedProduct` summed, `worst_pair_sum` the largest.

    Raises:
        CheckpointError: weights or activations are not finite, or nothing can be quantized.
        InputError: `treatments` names what is no product, or a treatment is unknown.
        ProviderError: onnxruntime, which runs the calibration, is not installed.
    """
    opset = opset_version(model)
    if opset < _MIN_OPSET:
        raise CheckpointError(
            f"fp32 model: opset {opset}, dynamic quantization needs {_MIN_OPSET} or newer; export it anew"
        )
    if embeddings not in get_args(Treatment):
        raise InputError(f"embeddings: {embeddings!r}, wanted 'int8' or 'fp32'")
    graph = _Graph(model.graph)
    chosen = _choose(graph, treatments or {})
    products = list(chosen.values())
    tables = graph.tables() if embeddings == "int8" else {}
    if not chosen and not tables:
        raise CheckpointError("fp32 model: no product by constant weights and no embedding table to quantize")
    peaks = _calibrated_peaks(model, products, calibration, progress)
    matrices, saturating = _quantize_weights(graph, products, peaks)
    done = tuple(
        QuantizedProduct(p.name, p.k, p.n, saturating.get(p.name), int(m.widened.sum()), m.worst_pair_sum)
        for p, m in ((p, matrices[p.weights]) for p in products)
    )
    return Quantized(
        model=with_graph(model, _rewrite(graph, chosen, matrices, tables)),
        products=done,
        embeddings=tuple(dict.fromkeys(tables.values())),
        isa=ISA,
        saturation={
            "products": len(done),
            "columns": sum(product.n for product in done),
            "saturating_columns": sum(saturating.values()) if calibration else None,
            "widened_columns": sum(product.widened_columns for product in done),
            "worst_pair_sum": max((product.worst_pair_sum for product in done), default=0),
            "limit": saturation.PAIR_LIMIT,
            "calibration_batches": len(calibration),
        },
    )


def find_products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """Return the products by constant weights, in graph order: what `treatments` can name."""
    return tuple(_Graph(model.graph).products().values())


class _Graph:
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


def _choose(graph: _Graph, treatments: Mapping[str, Treatment]) -> dict[int, Product]:
    """Return node index -> product for those that are to be int8."""
    products = graph.products()
    unknown = treatments.keys() - {product.name for product in products.values()}
    if unknown:
        raise InputError(f"treatments: no product is named {min(unknown)!r}; find_products lists them")
    for name, treatment in treatments.items():
        if treatment not in get_args(Treatment):
            raise InputError(f"treatments: {treatment!r} for {name!r}, wanted 'int8' or 'fp32'")
    return {i: product for i, product in products.items() if treatments.get(product.name, "int8") == "int8"}


def _quantize_weights(
    graph: _Graph, products: Sequence[Product], peaks: Mapping[str, saturation.UInt8]
) -> tuple[dict[Weights, saturation.WeightMatrix], dict[str, int]]:
    """Return the quantized weights, each once however many products share them, and the saturating columns by product.

    A column counts where its pairs could saturate under `peaks`, had it the finest scale.
    """
    matrices: dict[Weights, saturation.WeightMatrix] = {}
    saturating: dict[str, int] = {}
    for weights in dict.fromkeys(product.weights for product in products):
        matrix = graph.matrix(weights)
        matrices[weights] = saturation.quantize_weights(matrix)
        bounded = [p for p in products if p.weights == weights and p.activation in peaks]
        if bounded:
            values, _ = saturation.narrow_weights(matrix)
            for product in bounded:
                bounds = saturation.pair_bounds(values, peaks[product.activation])
                saturating[product.name] = int((bounds > saturation.PAIR_LIMIT).sum())
    return matrices, saturating


def _rewrite(
    graph: _Graph,
    chosen: Mapping[int, Product],
    matrices: Mapping[Weights, saturation.WeightMatrix],
    tables: Mapping[int, str],
) -> onnx.GraphProto:
    """Return the graph with the `chosen` products and the `tables` in int8, and nothing left that no node reads."""
    names = Names(graph.proto)
    made: dict[str, onnx.TensorProto] = {}  # new initializers, by what they hold
    nodes: list[onnx.NodeProto] = []
    quantized: dict[str, tuple[str, str, str]] = {}  # activation -> its values, scale, zero point

    def constant(key: str, base: str, values: Callable[[], npt.NDArray[Any]]) -> str:
        if key not in made:
            made[key] = numpy_helper.from_array(np.ascontiguousarray(values()), names.fresh(base))
        return made[key].name

    def add(operator: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(operator, inputs, outputs, names.fresh(name), **attributes))

    def add_product(node: onnx.NodeProto, product: Product) -> None:
        matrix, key = matrices[product.weights], repr(product.weights)
        values = constant(f"{key} values", f"{product.weights.tensor}_int8", lambda: matrix.values)
        scales = constant(f"{key} scales", f"{product.weights.tensor}_scale", lambda: matrix.scales)
        if product.activation not in quantized:
            base = product.activation
            quantized[base] = (names.fresh(f"{base}_uint8"), names.fresh(f"{base}_scale"), names.fresh(f"{base}_zero"))
            add("DynamicQuantizeLinear", [base], quantized[base], f"{base}_DynamicQuantizeLinear")
        uint8, scale, zero_point = quantized[product.activation]
        zero = constant("zero", "int8_zero_point", lambda: np.array(0, dtype=np.int8))
        name = product.name
        sums, floats, both = (names.fresh(f"{name}_{x}") for x in ("int32", "float", "scale"))
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        result = names.fresh(f"{name}_product") if bias else node.output[0]
        add("MatMulInteger", [uint8, values, zero_point, zero], [sums], f"{name}_MatMulInteger")
        add("Cast", [sums], [floats], f"{name}_Cast", to=onnx.TensorProto.FLOAT)
        add("Mul", [scale, scales], [both], f"{name}_scales_Mul")
        add("Mul", [floats, both], [result], f"{name}_Mul")
        if bias:
            add("Add", [result, add_beta(node, bias)], [node.output[0]], f"{name}_Add")

    def add_beta(node: onnx.NodeProto, bias: str) -> str:
        """Return the tensor `beta * bias` of a Gemm."""
        beta = next((float(a.f) for a in node.attribute if a.name == "beta"), 1.0)
        if beta == 1:
            return bias
        factor = constant(f"beta {beta}", "gemm_beta", lambda: np.array(beta, dtype=np.float32))
        scaled = names.fresh(f"{bias}_times_beta")
        add("Mul", [bias, factor], [scaled], f"{scaled}_Mul")
        return scaled

    def add_table(node: onnx.NodeProto, table: str) -> None:
        if f"{table} rows" not in made:
            rows, scales = _quantize_rows(graph.array(table))
            constant(f"{table} rows", f"{table}_rows_int8", lambda: rows)
            constant(f"{table} row scales", f"{table}_rows_scale", lambda: scales)
        name = node.name or node.output[0]
        picked, floats, scale = (names.fresh(f"{name}_{x}") for x in ("int8", "float", "scale"))
        add("Gather", [made[f"{table} rows"].name, node.input[1]], [picked], f"{name}_rows")
        add("Gather", [made[f"{table} row scales"].name, node.input[1]], [scale], f"{name}_row_scales")
        add("Cast", [picked], [floats], f"{name}_Cast", to=onnx.TensorProto.FLOAT)
        add("Mul", [floats, scale], [node.output[0]], f"{name}_Mul")

    for index, node in enumerate(graph.proto.node):
        if index in chosen:
            add_product(node, chosen[index])
        elif index in tables:
            add_table(node, tables[index])
        else:
            nodes.append(node)
    return pruned(graph.proto, nodes, list(made.values()))


def _quantize_rows(table: Float32) -> tuple[saturation.Int8, Float32]:
    """Return (rows int8 of the table's shape, scales (rows, 1) float32): symmetric, so that the pad row stays zero."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny), np.float32(1))
    scales = scales.astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


def _calibrated_peaks(
    model: onnx.ModelProto,
    products: Sequence[Product],
    calibration: Sequence[Mapping[str, npt.NDArray[np.int64]]],
    progress: Callable[[int, int], None] | None,
) -> dict[str, saturation.UInt8]:
    """Return activation name -> (k,) uint8, the largest quantized value of each feature on the calibration texts."""
    if not calibration or not products:
        return {}
    widths = {product.activation: product.k for product in products}
    peaks = {name: np.zeros(k, dtype=np.uint8) for name, k in widths.items()}
    for done, ranges in enumerate(feature_ranges(model, widths, calibration), start=1):
        for name, (lows, highs) in ranges.items():
            scale, zero_point = saturation.quantization_range(lows.min(), highs.max())
            np.maximum(peaks[name], saturation.quantize_with(highs, scale, zero_point), out=peaks[name])
        if progress is not None:
            progress(done, len(calibration))
    return peaks
