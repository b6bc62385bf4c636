"""Products by constant weights."""

from __future__ import annotations

from collections.abc import Callable

from torchless_export.graph.activation import activate, adds_bias
from torchless_export.graph.form import Form
from torchless_export.graph.nodes import MICROSOFT, Graph
from torchless_export.graph.parts import Linear
from torchless_export.graph.tensors import Tensors
from torchless_export.weights import Float32

__all__ = ["add_dense", "add_product"]


def add_product(
    graph: Graph,
    x: str,
    path: str,
    weight: Callable[[], Float32],
    bias: Callable[[], Float32] | None,
    *,
    output: str = "",
) -> str:
    """Add `x @ weight + bias`; returns (..., out), named `output` where that is given."""
    constant = graph.constant(f"{path}.weight", weight)
    if bias is None:
        return graph.add("MatMul", x, constant, name=path, output=output)
    product = graph.add("MatMul", x, constant, name=path)
    return graph.add("Add", product, graph.constant(f"{path}.bias", bias), name=path, output=output)


def add_dense(
    graph: Graph,
    tensors: Tensors,
    x: str,
    part: Linear,
    path: str,
    form: Form,
    *,
    activation: str = "",
    index: int = 0,
    output: str = "",
) -> str:
    """Add the dense layer `part` at `path`, the `index`-th of several, and its activation.

    Returns (..., out), named `output` where there is no activation.
    """
    name = f"{path}:{index}" if part.times > 1 else path

    def weight() -> Float32:
        return tensors.matrix(path, part, index)

    def bias() -> Float32:
        return tensors.bias(path, part, index)

    biased = tensors.has_bias(part)
    if activation and biased and adds_bias(activation, form):
        product = add_product(graph, x, name, weight, None)
        return graph.add("BiasGelu", product, graph.constant(f"{name}.bias", bias), name=name, domain=MICROSOFT)
    return activate(
        graph, activation, add_product(graph, x, name, weight, bias if biased else None, output=output), name, form
    )
