"""The `int8` variant: weights of products in int8, activations in uint8.

Weights are symmetric, one scale per output column, wide enough that no processor saturates (`saturation`); activations
have one range per tensor: each run's own, or a fixed one (`int8_graph.Activation`). Products of two activations stay
fp32. Large embedding tables become int8 with one scale per row: on MiniLM (SST-2) a model of 24 instead of 59 MB, and
no difference beyond noise in agreement or time; or float16. Inputs, outputs, opset and the names of all tensors that
remain are those of the fp32 model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from torchless.errors import CheckpointError, InputError
from torchless_export import saturation
from torchless_export.activations import feature_ranges
from torchless_export.int8_graph import Activation, Embeddings, matrix_key, rewrite
from torchless_export.onnx_graph import opset_version, with_graph
from torchless_export.products import GraphReader, Product, Weights, find_products
from torchless_export.rounding import round_weights

__all__ = ["ISA", "Quantized", "QuantizedProduct", "Treatment", "find_products", "quantize_int8"]

Treatment = Literal["int8", "fp32"]

ISA = ("avx2", "avx512_vnni", "avx_vnni", "arm64")
"""The instruction sets on which the variant gives the same integers: all, because no pair sum saturates."""

_MIN_OPSET = 11  # DynamicQuantizeLinear
_MICROSOFT = "com.microsoft"

Float32 = npt.NDArray[np.float32]


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
        saturation: for the manifest, see `quantize_int8`.
    """

    model: onnx.ModelProto
    products: tuple[QuantizedProduct, ...]
    embeddings: tuple[str, ...]
    isa: tuple[str, ...]
    saturation: dict[str, int | None]


def quantize_int8(
    model: onnx.ModelProto,
    calibration: Sequence[Mapping[str, npt.NDArray[np.int64]]],
    *,
    treatments: Mapping[str, Treatment] | None = None,
    embeddings: Embeddings = "int8",
    activations: Mapping[str, Activation] | None = None,
    moments: Mapping[str, Float32] | None = None,
    cache: MutableMapping[tuple[Weights, str], saturation.WeightMatrix] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Quantized:
    """Quantize the products of an fp32 model for `device="cpu"`.

    Args:
        model: fp32, its weights inside (not in external files).
        calibration: model inputs, each `{name: (batch, sequence) int64}`, on which the columns that would saturate
            are counted for the report; may be empty. The scales do not depend on it: they are safe for every text.
        treatments: product name (see `find_products`) -> "int8" or "fp32"; "int8" for those not named.
        embeddings: "int8" or "fp16" for tables of 1024 rows and more, or "fp32" for none.
        activations: tensor name (`Product.activation`) -> how it is quantized; as it comes for those not named.
        moments: tensor name -> (k, k) float32, the second moments for which the weights of its products are rounded
            (`rounding`); to the nearest integer for those not named.
        cache: quantized weights of earlier calls with the same smoothing and moments, which this one adds to.
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
    if embeddings not in get_args(Embeddings):
        raise InputError(f"embeddings: {embeddings!r}, wanted 'int8', 'fp16' or 'fp32'")
    graph = GraphReader(model.graph)
    chosen = _choose(graph, treatments or {})
    products = list(chosen.values())
    treated = _treated(products, activations or {})
    tables = {} if embeddings == "fp32" else graph.tables()
    if not chosen and not tables:
        raise CheckpointError("fp32 model: no product by constant weights and no embedding table to quantize")
    peaks = _calibrated_peaks(model, products, calibration, progress)
    matrices, saturating = _quantize_weights(
        graph, products, treated, peaks, moments or {}, {} if cache is None else cache
    )
    done = tuple(
        QuantizedProduct(p.name, p.k, p.n, saturating.get(p.name), int(m.widened.sum()), m.worst_pair_sum)
        for p, m in ((p, matrices[matrix_key(p, treated.get(p.activation))]) for p in products)
    )
    result = with_graph(model, rewrite(graph, chosen, matrices, treated, tables, embeddings))
    if any(node.domain == _MICROSOFT for node in result.graph.node) and not any(
        entry.domain == _MICROSOFT for entry in result.opset_import
    ):
        result.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    return Quantized(
        model=result,
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


def _choose(graph: GraphReader, treatments: Mapping[str, Treatment]) -> dict[int, Product]:
    """Return node index -> product for those that are to be int8."""
    products = graph.products()
    unknown = treatments.keys() - {product.name for product in products.values()}
    if unknown:
        raise InputError(f"treatments: no product is named {min(unknown)!r}; find_products lists them")
    for name, treatment in treatments.items():
        if treatment not in get_args(Treatment):
            raise InputError(f"treatments: {treatment!r} for {name!r}, wanted 'int8' or 'fp32'")
    return {i: product for i, product in products.items() if treatments.get(product.name, "int8") == "int8"}


def _treated(products: Sequence[Product], activations: Mapping[str, Activation]) -> dict[str, Activation]:
    """Return how each activation of the products is quantized, checked against their widths."""
    widths = {product.activation: product.k for product in products}
    treated = {name: how for name, how in activations.items() if name in widths}
    for name, how in treated.items():
        k = widths[name]
        if (how.smoothing is not None and how.smoothing.shape != (k,)) or any(not 0 <= i < k for i in how.outliers):
            raise InputError(f"activations: {name!r} has {k} features, its smoothing or outliers are of others")
    return treated


def _quantize_weights(
    graph: GraphReader,
    products: Sequence[Product],
    treated: Mapping[str, Activation],
    peaks: Mapping[str, saturation.UInt8],
    moments: Mapping[str, Float32],
    matrices: MutableMapping[tuple[Weights, str], saturation.WeightMatrix],
) -> tuple[Mapping[tuple[Weights, str], saturation.WeightMatrix], dict[str, int]]:
    """Return the quantized weights, each once however many products share them, and the saturating columns by product.

    A column counts where its pairs could saturate under `peaks`, had it the finest scale.
    """
    saturating: dict[str, int] = {}
    keys = {product.name: matrix_key(product, treated.get(product.activation)) for product in products}
    for key in dict.fromkeys(keys.values()):
        sharing = [product for product in products if keys[product.name] == key]
        smoothing = treated[key[1]].smoothing if key[1] else None
        matrix = graph.matrix(key[0]) if smoothing is None else graph.matrix(key[0]) * smoothing[:, None]
        if key not in matrices:
            square = _moments(sharing, moments)
            if square is not None and smoothing is not None:
                square = square / np.outer(smoothing, smoothing)
            matrices[key] = saturation.quantize_weights(matrix) if square is None else round_weights(matrix, square)
        bounded = [] if smoothing is not None else [product for product in sharing if product.activation in peaks]
        if bounded:
            values, _ = saturation.narrow_weights(matrix)
            for product in bounded:
                bounds = saturation.pair_bounds(values, peaks[product.activation])
                saturating[product.name] = int((bounds > saturation.PAIR_LIMIT).sum())
    return matrices, saturating


def _moments(sharing: Sequence[Product], moments: Mapping[str, Float32]) -> Float32 | None:
    """Return the second moments of all activations that one matrix meets, None where one is not known."""
    names = dict.fromkeys(product.activation for product in sharing)
    if not all(name in moments for name in names):
        return None
    total: Float32 = np.sum([moments[name] for name in names], axis=0)
    return total


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
