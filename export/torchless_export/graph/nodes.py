"""An ONNX graph as it is written: nodes, and constants that exist once however often they are read.

Knows nothing of what the graph computes. Constants are raw bytes, so that a model may pass 2 GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["MICROSOFT", "OPSET", "Graph"]

MICROSOFT = "com.microsoft"
# 20 has Gelu; every ONNX Runtime that torchless takes (1.23 and newer) reads it.
OPSET = 20
_IR_VERSION = 10

Make = Callable[[], NDArray[Any]]


class Graph:
    """Nodes and constants in the order in which they are added."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._names: dict[str, int] = {}
        self._domains = {""}

    def constant(self, name: str, make: Make) -> str:
        """Return `name`, the constant that `make()` gives; made the first time only."""
        if name not in self._constants:
            # Not ascontiguousarray, which makes a scalar an array of one.
            self._constants[name] = numpy_helper.from_array(np.asarray(make(), order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        """Return an int64 constant of one axis."""
        name = "ints_" + "_".join(str(value) for value in values)
        return self.constant(name, lambda: np.array(values, dtype=np.int64))

    def index(self, value: int) -> str:
        """Return an int64 scalar."""
        return self.constant(f"int_{value}", lambda: np.array(value, dtype=np.int64))

    def number(self, value: float) -> str:
        """Return a float32 scalar."""
        return self.constant(f"number_{value!r}", lambda: np.array(value, dtype=np.float32))

    def add(self, operator: str, *inputs: str, name: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        """Add a node of one output; returns the output's name, `output` or one made from `name`."""
        return self._add(operator, inputs, name, domain, [output] if output else None, 1, attributes)[0]

    def add_several(
        self, operator: str, *inputs: str, outputs: int, name: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node of several outputs; returns their names."""
        return self._add(operator, inputs, name, domain, None, outputs, attributes)

    def split(self, tensor: str, parts: int, *, axis: int, name: str) -> list[str]:
        """Add a node that cuts `tensor` into equal parts along an axis; returns their names."""
        return self.add_several("Split", tensor, outputs=parts, name=name, axis=axis, num_outputs=parts)

    def model(self, inputs: Sequence[str], output: str, axes: Sequence[str | int]) -> onnx.ModelProto:
        """Return the model: `inputs` int64 (batch, sequence), `output` float32 of the named or fixed `axes`."""
        model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="torchless")
        graph = model.graph
        graph.name = "torchless"
        for name in inputs:
            graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "sequence"]))
        graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, list(axes)))
        graph.node.extend(self._nodes)
        while self._constants:  # moved one by one, so that the weights are not held twice
            _, tensor = self._constants.popitem()
            graph.initializer.append(tensor)
        for domain in sorted(self._domains):
            model.opset_import.append(helper.make_opsetid(domain, 1 if domain else OPSET))
        return model

    def _add(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        domain: str,
        outputs: list[str] | None,
        count: int,
        attributes: Mapping[str, Any],
    ) -> list[str]:
        name = self._fresh(f"{name}/{operator}")
        made = outputs or ([name] if count == 1 else [f"{name}:{i}" for i in range(count)])
        self._nodes.append(helper.make_node(operator, inputs, made, name, domain=domain, **attributes))
        self._domains.add(domain)
        return made

    def _fresh(self, name: str) -> str:
        number = self._names[name] = self._names.get(name, 0) + 1
        return name if number == 1 else f"{name}_{number}"
