"""How int8 can be made: recipes as data, and what each says of a model's activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from torchless_export import saturation
from torchless_export.activations import feature_ranges, second_moments
from torchless_export.int8_graph import Activation, Embeddings
from torchless_export.product_groups import group_products
from torchless_export.products import GraphReader, Weights, find_products
from torchless_export.quantize import Quantized, quantize_int8

__all__ = ["FIXED", "PLAIN", "SMOOTHED", "Applied", "Arrays", "Recipe", "Statistics", "measure_statistics"]

Float32 = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[np.int64]]
Activations = Literal["as they come", "fixed ranges"]

_NORMS = ("LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
# So few features may be taken out of a range, and only where that makes it this much narrower: they cost a product.
_OUTLIERS, _NARROWER = (1, 2, 4, 8), 2.0
# Fewer of them where that makes it nearly as narrow as the most would.
_NEARLY = 1.15


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to make int8.

    Attributes:
        name: for people.
        activations: each run's own range, or one fixed by the calibration texts. Under a fixed one a text's answer does
            not depend on its batch; what is outside is cut, except in the few features that are far outside.
        smoothing: the alpha of SmoothQuant for what comes out of a norm; None: none. What comes out of an activation
            function or of attention is left as it is: there smoothing did harm (MiniLM, SST-2).
        rounded_for: weights are rounded for the activations of the calibration texts (`rounding`).
        fp32: the names of the product groups that stay in fp32.
        embeddings: what large embedding tables become.
    """

    name: str
    activations: Activations = "as they come"
    smoothing: float | None = None
    rounded_for: bool = False
    fp32: tuple[str, ...] = ()
    embeddings: Embeddings = "int8"

    def to_manifest(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return {
            "name": self.name,
            "weights": "rounded for calibration texts" if self.rounded_for else "rounded to nearest",
            "activations": self.activations,
            "smoothing": self.smoothing,
            "fp32": list(self.fp32),
            "embeddings": self.embeddings,
        }


PLAIN = Recipe("plain")
SMOOTHED = (Recipe("smoothed", smoothing=0.6, rounded_for=True),)
FIXED = (
    Recipe("fixed ranges, alpha 0.6", activations="fixed ranges", smoothing=0.6, rounded_for=True),
    Recipe("fixed ranges, alpha 0.75", activations="fixed ranges", smoothing=0.75, rounded_for=True),
)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the calibration texts did to a model.

    Attributes:
        lows, highs: activation -> (k,) float32, the range of each feature.
        moments: activation -> (k, k) float32, the sum of `x.T @ x` over its rows.
        rows: activation -> its rows; fewer than tokens where only the first of each text is read.
        normed: the activations that come out of a norm.
        shared: those that meet weights which other activations meet too (ALBERT).
    """

    lows: Mapping[str, Float32]
    highs: Mapping[str, Float32]
    moments: Mapping[str, Float32]
    rows: Mapping[str, int]
    normed: frozenset[str]
    shared: frozenset[str]


def measure_statistics(model: onnx.ModelProto, batches: Sequence[Arrays]) -> Statistics:
    """Run the fp32 `model` on calibration texts.

    Raises:
        CheckpointError: an activation is not finite.
        ProviderError: onnxruntime is not installed.
    """
    products = find_products(model)
    widths = {product.activation: product.k for product in products}
    lows: dict[str, Float32] = {}
    highs: dict[str, Float32] = {}
    for ranges in feature_ranges(model, widths, batches):
        for name, (low, high) in ranges.items():
            lows[name] = np.minimum(lows[name], low) if name in lows else low
            highs[name] = np.maximum(highs[name], high) if name in highs else high
    moments, rows = second_moments(model, widths, batches)
    readers: dict[Weights, set[str]] = {}
    for product in products:
        readers.setdefault(product.weights, set()).add(product.activation)
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return Statistics(
        lows=lows,
        highs=highs,
        moments=moments,
        rows=rows,
        normed=frozenset(name for name in widths if made_by.get(name) in _NORMS),
        shared=frozenset(p.activation for p in products if len(readers[p.weights]) > 1),
    )


class Applied:
    """The recipes of one model: each quantized from it when asked, weights that recipes share once."""

    def __init__(self, model: onnx.ModelProto, statistics: Callable[[], Statistics]) -> None:
        """Take the fp32 `model`, its weights inside, and what measures its statistics, which all but `PLAIN` need."""
        self.model = model
        self.groups = group_products(find_products(model))
        self._measure = statistics
        self._statistics: Statistics | None = None
        self._matrices: dict[Any, dict[tuple[Weights, str], saturation.WeightMatrix]] = {}

    @property
    def statistics(self) -> Statistics:
        """What the calibration texts did, measured when first asked for."""
        if self._statistics is None:
            self._statistics = self._measure()
        return self._statistics

    def quantize(self, recipe: Recipe, calibration: Sequence[Arrays] = ()) -> Quantized:
        """Return the model in int8 by `recipe`; `calibration` and errors as in `quantize_int8`."""
        fixed = recipe.activations == "fixed ranges"
        treated = _activations(self.model, recipe, self.statistics) if fixed or recipe.smoothing is not None else {}
        kept = {name for group in self.groups if group.name in recipe.fp32 for name in group.products}
        return quantize_int8(
            self.model,
            calibration,
            treatments=dict.fromkeys(kept, "fp32"),
            embeddings=recipe.embeddings,
            activations=treated,
            moments=self.statistics.moments if recipe.rounded_for else None,
            cache=self._matrices.setdefault((recipe.smoothing, recipe.rounded_for), {}),
        )


def _activations(model: onnx.ModelProto, recipe: Recipe, statistics: Statistics) -> dict[str, Activation]:
    graph = GraphReader(model.graph)
    products = graph.products().values()
    treated = {}
    for name in statistics.lows:
        smoothing = None
        if recipe.smoothing is not None and name in statistics.normed - statistics.shared:
            rows = [np.abs(graph.matrix(p.weights)).max(axis=1) for p in products if p.activation == name]
            largest = np.maximum(np.abs(statistics.lows[name]), np.abs(statistics.highs[name]))
            smoothing = _smoothing(largest, np.max(rows, axis=0), recipe.smoothing)
        if recipe.activations == "fixed ranges":
            scale = np.float32(1) if smoothing is None else smoothing
            limits, outliers = _limits(
                statistics.lows[name] / scale, statistics.highs[name] / scale, _OUTLIERS if smoothing is None else ()
            )
            treated[name] = Activation(smoothing, limits, outliers)
        elif smoothing is not None:
            treated[name] = Activation(smoothing)
    return treated


def _smoothing(activations: Float32, weights: Float32, alpha: float) -> Float32:
    """Return (k,) float32: what each feature is divided by, of the largest magnitudes (k,) in both operands.

    Xiao et al. 2023, "SmoothQuant", equation 4; their geometric mean is 1, so that ranges stay what they were.
    """
    tiny = np.float32(1e-5)
    factors = np.maximum(activations, tiny) ** alpha / np.maximum(weights, tiny) ** (1 - alpha)
    normal: Float32 = np.clip(factors / np.exp(np.log(factors).mean()), 1e-3, 1e3).astype(np.float32)
    return normal


def _limits(lows: Float32, highs: Float32, counts: Sequence[int]) -> tuple[tuple[float, float], tuple[int, ...]]:
    """Return the range of an activation's 8 bits, and the features that it leaves out, if that makes it narrower.

    Args:
        lows: (k,) float32, the lowest value of each feature.
        highs: (k,) float32, the highest.
        counts: how many features may be left out, the fewest first; smoothing leaves none that are worth it.
    """
    order = np.argsort(-np.maximum(np.abs(lows), np.abs(highs)), kind="stable")

    def limits(out: int) -> tuple[float, float]:
        rest = order[out:]
        return min(float(lows[rest].min()), 0.0), max(float(highs[rest].max()), 0.0)

    def width(out: int) -> float:
        low, high = limits(out)
        return high - low

    most = counts[-1] if counts else 0
    if not most or len(order) <= most or not 0 < width(most) * _NARROWER <= width(0):
        return limits(0), ()
    few = next(out for out in counts if width(out) <= _NEARLY * width(most))
    low, high = limits(few)
    return (low, high), tuple(sorted(int(i) for i in order[:few] if lows[i] < low or highs[i] > high))
