"""Activation functions by the names that transformers' configs use (`ACT2FN` in its `activations.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torchless_export.graph.form import Form
from torchless_export.graph.nodes import MICROSOFT, Graph

__all__ = ["ACTIVATIONS", "activate", "adds_bias"]

_Make = Callable[[Graph, str, str, Form], str]


def activate(graph: Graph, activation: str, tensor: str, name: str, form: Form) -> str:
    """Add the activation of `tensor`; "" is none. Returns the result, of the same shape."""
    return ACTIVATIONS[activation](graph, tensor, name, form) if activation else tensor


def adds_bias(activation: str, form: Form) -> bool:
    """Whether the activation's node adds the bias before it as well (`com.microsoft.BiasGelu`)."""
    return form.gelu == "bias" and ACTIVATIONS[activation] is _gelu


def _gelu(graph: Graph, x: str, name: str, form: Form) -> str:
    if form.gelu == "erf":
        scaled = graph.add("Mul", x, graph.number(math.sqrt(0.5)), name=name)
        erf = graph.add("Erf", scaled, name=name)
        half = graph.add("Mul", x, graph.number(0.5), name=name)
        return graph.add("Mul", half, graph.add("Add", erf, graph.number(1.0), name=name), name=name)
    return graph.add("Gelu", x, name=name, domain=MICROSOFT if form.gelu == "contrib" else "")


def _gelu_tanh(graph: Graph, x: str, name: str, form: Form) -> str:
    return graph.add("Gelu", x, name=name, approximate="tanh")


def _gelu_clipped(graph: Graph, x: str, name: str, form: Form) -> str:
    return graph.add("Clip", _gelu(graph, x, name, form), graph.number(-10.0), graph.number(10.0), name=name)


def _silu(graph: Graph, x: str, name: str, form: Form) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x, name=name), name=name)


def _quick_gelu(graph: Graph, x: str, name: str, form: Form) -> str:
    scaled = graph.add("Mul", x, graph.number(1.702), name=name)
    return graph.add("Mul", x, graph.add("Sigmoid", scaled, name=name), name=name)


def _relu_squared(graph: Graph, x: str, name: str, form: Form) -> str:
    relu = graph.add("Relu", x, name=name)
    return graph.add("Mul", relu, relu, name=name)


def _relu_6(graph: Graph, x: str, name: str, form: Form) -> str:
    return graph.add("Clip", x, graph.number(0.0), graph.number(6.0), name=name)


def _operator(operator: str) -> _Make:
    return lambda graph, x, name, form: graph.add(operator, x, name=name)


ACTIVATIONS: Mapping[str, _Make] = {
    "gelu": _gelu,
    "gelu_10": _gelu_clipped,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "leaky_relu": lambda graph, x, name, form: graph.add("LeakyRelu", x, name=name, alpha=0.01),
    "linear": lambda graph, x, name, form: x,
    "mish": _operator("Mish"),
    "quick_gelu": _quick_gelu,
    "relu": _operator("Relu"),
    "relu2": _relu_squared,
    "relu6": _relu_6,
    "sigmoid": _operator("Sigmoid"),
    "silu": _silu,
    "swish": _silu,
    "tanh": _operator("Tanh"),
}
