"""The `fp16` variant: weights and hidden states in float16, for the matrix units of GPUs.

ONNX Runtime's CUDA kernels sum products, softmax and normalizations in float32 and round what they give; so what is
lost is the rounding of weights and of each node's output, to 11 bits. What stays float32: the head's products behind
the last normalization, whose result is the answer and whose time is nothing; the angles of rotary positions, which 11
bits do not tell apart; nodes whose operator takes no float16; and the graph's output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from torchless.errors import CheckpointError
from torchless_export.onnx_graph import Names, opset_version, pruned, with_graph

__all__ = ["emulation", "tensor_types", "to_float16"]

_FLOAT, _HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
_LARGEST = float(np.finfo(np.float16).max)
# What masks add to scores in float32. In its place the lowest number of which two can be added without an infinity,
# whose softmax, were a row full of them, is not a number; and e to the power of it is still 0.
_LOWEST = float(np.finfo(np.float32).min)
_LOWEST_HALF = -_LARGEST / 2

# What a head does behind the last normalization.
_OF_HEADS = frozenset(
    (
        "Add",
        "BiasGelu",
        "Cast",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Gelu",
        "Gemm",
        "LeakyRelu",
        "MatMul",
        "Mish",
        "Mul",
        "ReduceSum",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Squeeze",
        "Tanh",
        "Unsqueeze",
    )
)
# Of ONNX Runtime's own operators the outputs, from the second on, that are no float: all others are of their first
# input's type.
_INTEGERS_BESIDE = {"RemovePadding": TensorProto.INT32}


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp32 model in float16; its inputs, its opset and its float32 output stay what they are.

    Raises:
        CheckpointError: a weight beyond float16's range, or an operator that is not known.
    """
    return _Conversion(model).convert()


def emulation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp16 model as float32 arithmetic that rounds every result to float16, as a GPU does between nodes.

    ONNX Runtime's CPU kernels alone would not: it runs most float16 nodes in float32 and drops the roundings between
    them, and with them what overflows.

    Raises:
        CheckpointError: as `tensor_types`.
    """
    types = tensor_types(model)
    names = Names(model.graph)
    nodes = []
    for node in model.graph.node:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for attribute in made.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == _HALF:
                attribute.t.CopyFrom(_widened(attribute.t))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                attribute.i = _FLOAT
        nodes.append(made)
        for place, name in enumerate(node.output):
            if types.get(name) == _HALF:
                whole, rounded = names.fresh(f"{name}:whole"), names.fresh(f"{name}:rounded")
                made.output[place] = whole
                nodes.append(helper.make_node("Cast", [whole], [rounded], f"{rounded}/Cast", to=_HALF))
                # The conversion has given Casts of its own the names of what they make.
                nodes.append(helper.make_node("Cast", [rounded], [name], f"{rounded}/Widen", to=_FLOAT))
    graph = model.graph
    bare = onnx.GraphProto(name=graph.name, doc_string=graph.doc_string, input=graph.input, output=graph.output)
    constants = [_widened(tensor) if tensor.data_type == _HALF else tensor for tensor in graph.initializer]
    return with_graph(model, pruned(bare, nodes, constants))


class _Conversion:
    """One model on its way: every float tensor may be there in float32, in float16, or in both."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._types = tensor_types(model)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names = Names(model.graph)
        self._outputs = {value.name for value in model.graph.output}
        # (tensor, type) -> the name under which it is there.
        self._there: dict[tuple[str, int], str] = {(value.name, _FLOAT): value.name for value in model.graph.input}
        self._nodes: list[onnx.NodeProto] = []
        self._made: list[onnx.TensorProto] = []

    def convert(self) -> onnx.ModelProto:
        graph = self._model.graph
        kept = _head(graph.node, self._outputs) | _angles(graph.node)
        opset = opset_version(self._model)
        for number, node in enumerate(graph.node):
            wide = number in kept or not _takes_half(node, opset, self._types)
            self._convert(node, _FLOAT if wide else _HALF)
        for name in self._outputs:
            if self._types[name] == _FLOAT and (name, _FLOAT) not in self._there:
                self._cast(name, _FLOAT, name)
        bare = onnx.GraphProto(name=graph.name, doc_string=graph.doc_string, input=graph.input, output=graph.output)
        others = [tensor for tensor in graph.initializer if tensor.data_type != _FLOAT]
        return with_graph(self._model, pruned(bare, self._nodes, [*others, *self._made]))

    def _convert(self, node: onnx.NodeProto, kind: int) -> None:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for place, name in enumerate(node.input):
            if self._types.get(name) == _FLOAT:
                made.input[place] = self._as(name, kind)
        if kind == _HALF:
            for attribute in made.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                    attribute.i = _HALF
                elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == _FLOAT:
                    attribute.t.CopyFrom(_rounded(attribute.t, node.name))
            if node.op_type == "ConstantOfShape" and not node.attribute:
                made.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16))))
        self._nodes.append(made)
        for place, name in enumerate(node.output):
            if self._types.get(name) == _FLOAT:
                # The graph's output keeps its name for the float32 that it is.
                apart = kind == _HALF and name in self._outputs
                given = self._names.fresh(f"{name}:float16") if apart else name
                made.output[place] = self._there[name, kind] = given

    def _as(self, name: str, kind: int) -> str:
        """Return the float tensor `name` as float32 or float16: cast where it is not there as such."""
        if (name, kind) not in self._there:
            if name in self._constants:
                self._there[name, kind] = self._constant(self._constants[name], kind)
            else:
                self._cast(name, kind, self._names.fresh(f"{name}:{'float16' if kind == _HALF else 'float32'}"))
        return self._there[name, kind]

    def _constant(self, tensor: onnx.TensorProto, kind: int) -> str:
        if kind == _HALF:
            self._made.append(_rounded(tensor, tensor.name))
            return tensor.name
        # A name of its own: the same constant may be there in float16 as well.
        wide = onnx.TensorProto()
        wide.CopyFrom(tensor)
        wide.name = self._names.fresh(f"{tensor.name}:float32")
        self._made.append(wide)
        return wide.name

    def _cast(self, name: str, kind: int, given: str) -> None:
        source = self._there[name, _FLOAT if kind == _HALF else _HALF]
        self._nodes.append(helper.make_node("Cast", [source], [given], f"{given}/Cast", to=kind))
        self._there[name, kind] = given


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every tensor, by the operators' schemas.

    Raises:
        CheckpointError: an operator that is not known, or one with a graph of its own.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    opset = opset_version(model)
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise CheckpointError(
                f"fp16: the graph has {node.op_type}, which runs a graph of its own; leave the variant out"
            )
        types.update(zip(node.output, _output_types(node, opset, types), strict=True))
    return types


def _output_types(node: onnx.NodeProto, opset: int, types: Mapping[str, int]) -> list[int]:
    if node.domain not in ("", "ai.onnx"):
        first = types[node.input[0]]
        return [first, *[_INTEGERS_BESIDE.get(node.op_type, first)] * (len(node.output) - 1)]
    said = {a.name: a.i if a.name in ("to", "dtype") else a.t.data_type for a in node.attribute}
    if node.op_type == "Cast":
        return [said["to"]]
    if node.op_type in ("Constant", "ConstantOfShape"):
        return [said.get("value", _FLOAT)]
    schema = _schema(node, opset)
    given = {formal.type_str: types[name] for name, formal in _formals(node.input, schema.inputs) if name in types}
    return [_concrete(formal.type_str, given, schema) for _, formal in _formals(node.output, schema.outputs)]


def _concrete(kind: str, given: Mapping[str, int], schema: Any) -> int:
    """Return the element type of `kind`: a variable that an input has set, or a type, or a variable of one type."""
    if kind in given:
        return given[kind]
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(kind, [kind])
    match = re.fullmatch(r"tensor\((\w+)\)", allowed[0])
    if len(allowed) != 1 or match is None:
        raise CheckpointError(f"fp16: what {schema.name} gives cannot be told from the graph; leave the variant out")
    return int(TensorProto.DataType.Value(match[1].upper()))


def _takes_half(node: onnx.NodeProto, opset: int, types: Mapping[str, int]) -> bool:
    """Whether the operator takes float16 wherever this node has a float."""
    if node.domain not in ("", "ai.onnx"):
        return True
    schema = _schema(node, opset)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    formals = [*_formals(node.input, schema.inputs), *_formals(node.output, schema.outputs)]
    return all(
        "tensor(float16)" in allowed.get(formal.type_str, [formal.type_str])
        for name, formal in formals
        if types.get(name) == _FLOAT
    )


def _schema(node: onnx.NodeProto, opset: int) -> Any:
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError as error:
        raise CheckpointError(
            f"fp16: the operator {node.op_type} is none of ONNX {opset}; leave the variant out"
        ) from error


def _formals(names: Sequence[str], formals: Sequence[Any]) -> list[tuple[str, Any]]:
    """Pair a node's tensors with what its schema says of them, whose last may stand for any number."""
    return [(name, formals[min(place, len(formals) - 1)]) for place, name in enumerate(names)]


def _head(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> set[int]:
    """Return the numbers of the nodes behind the last normalization, as far as they are of a head's operators."""
    makers = {name: number for number, node in enumerate(nodes) for name in node.output}
    found: set[int] = set()
    left = [makers[name] for name in outputs if name in makers]
    while left:
        number = left.pop()
        if number not in found and nodes[number].op_type in _OF_HEADS:
            found.add(number)
            left += [makers[name] for name in nodes[number].input if name in makers]
    return found


def _angles(nodes: Sequence[onnx.NodeProto]) -> set[int]:
    """Return the numbers of the nodes that take a sine or a cosine, and of those before them."""
    wanted: set[str] = set()
    found: set[int] = set()
    for number in range(len(nodes) - 1, -1, -1):  # a node stands behind all that it reads
        node = nodes[number]
        if node.op_type in ("Cos", "Sin") or wanted.intersection(node.output):
            found.add(number)
            wanted.update(name for name in node.input if name)
    return found


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _rounded(tensor: onnx.TensorProto, where: str) -> onnx.TensorProto:
    """Return a float32 tensor in float16.

    Raises:
        CheckpointError: a number beyond its range, but for the lowest of float32, which means "never".
    """
    array = np.where((given := numpy_helper.to_array(tensor)) == _LOWEST, np.float32(_LOWEST_HALF), given)
    largest = float(np.abs(array).max(initial=0.0))
    if np.isfinite(largest) and largest > _LARGEST:
        raise CheckpointError(f"fp16: {where} holds {largest:g}, beyond float16's {_LARGEST:g}; leave the variant out")
    return numpy_helper.from_array(array.astype(np.float16), tensor.name)
