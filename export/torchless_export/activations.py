"""Activations of an fp32 model on calibration texts: ranges and second moments of the features of tensors.

They are reduced inside the graph, so that memory does not grow with the texts; the weights are lent to ONNX
Runtime as they lie in the model, without a second copy and without protobuf's limit of 2 GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from torchless.errors import CheckpointError, ProviderError, one_line
from torchless_export.onnx_graph import opset_version, with_graph

__all__ = ["feature_ranges", "second_moments"]

Float32 = npt.NDArray[np.float32]

_PREFIX = "torchless_range_"
# Smaller initializers go into the graph: ONNX Runtime reads shapes and axes from them.
_LEND_FROM = 4096
_SQUARES = 256 << 20
_CHECK = "check the checkpoint"


def feature_ranges(
    model: onnx.ModelProto, widths: Mapping[str, int], batches: Iterable[Mapping[str, npt.NDArray[np.int64]]]
) -> Iterator[dict[str, tuple[Float32, Float32]]]:
    """Yield, batch by batch, tensor name -> (lows (k,), highs (k,)) float32: the range of each feature.

    Features lie along the tensor's last axis.

    Args:
        model: fp32, its weights inside.
        widths: tensor name -> k, the size of its last axis.
        batches: model inputs, each `{name: (batch, sequence) int64}`.

    Raises:
        CheckpointError: an activation is not finite.
        ProviderError: onnxruntime is not installed.
    """
    names = list(widths)
    session = _session(model, widths, _add_ranges)
    outputs = [f"{_PREFIX}{i}_{end}" for i in range(len(names)) for end in ("low", "high")]
    for batch in batches:
        results = session.run(outputs, dict(batch))
        for name, low, high in zip(names, results[0::2], results[1::2], strict=True):
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise CheckpointError(f"activation {name!r}: not finite on the calibration texts; {_CHECK}")
        yield dict(zip(names, zip(results[0::2], results[1::2], strict=True), strict=True))


def second_moments(
    model: onnx.ModelProto, widths: Mapping[str, int], batches: Sequence[Mapping[str, npt.NDArray[np.int64]]]
) -> tuple[dict[str, Float32], dict[str, int]]:
    """Return tensor name -> (k, k) float32, the sum of `x.T @ x` over its rows x, and -> how many rows there were.

    Args and errors as `feature_ranges`. The texts are run again for each part of the tensors whose squares fit into
    256 MB.
    """
    moments: dict[str, Float32] = {}
    rows: dict[str, int] = {}
    for part in _parts(widths):
        session = _session(model, part, _add_moments)
        outputs = [f"{_PREFIX}{i}_{what}" for i in range(len(part)) for what in ("moments", "shape")]
        for batch in batches:
            results = session.run(outputs, dict(batch))
            for name, square, shape in zip(part, results[0::2], results[1::2], strict=True):
                if not np.isfinite(square).all():
                    raise CheckpointError(f"activation {name!r}: not finite on the calibration texts; {_CHECK}")
                moments[name] = moments[name] + square if name in moments else square
                rows[name] = rows.get(name, 0) + int(shape[0])
    return moments, rows


def _parts(widths: Mapping[str, int]) -> Iterator[dict[str, int]]:
    part: dict[str, int] = {}
    for name, width in widths.items():
        if part and 4 * sum(k * k for k in (*part.values(), width)) > _SQUARES:
            yield part
            part = {}
        part[name] = width
    if part:
        yield part


def _session(
    model: onnx.ModelProto,
    widths: Mapping[str, int],
    reduce: Callable[[onnx.GraphProto, Mapping[str, int], bool], None],
) -> Any:
    """Return an ONNX Runtime session of `model` that also gives what `reduce` makes of each tensor."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        reason = one_line(str(error))
        raise ProviderError(
            f"int8 calibration: onnxruntime cannot be imported ({reason}); pip install 'torchless[cpu]'"
        ) from error
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    lent: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < _LEND_FROM:
            graph.initializer.append(tensor)
            continue
        lent[tensor.name] = ort.OrtValue.ortvalue_from_numpy(numpy_helper.to_array(tensor))
        stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = onnx.TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="lent")
    reduce(graph, widths, opset_version(model) >= 18)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_external_initializers(list(lent), list(lent.values()))
    return ort.InferenceSession(
        with_graph(model, graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _add_ranges(graph: onnx.GraphProto, widths: Mapping[str, int], axes_are_inputs: bool) -> None:
    """Add the outputs `<prefix><i>_low` and `_high`, (k,) float32, for the i-th tensor."""
    axes = f"{_PREFIX}axes"
    graph.initializer.append(numpy_helper.from_array(np.array([0], dtype=np.int64), axes))
    for i, (name, width) in enumerate(widths.items()):
        rows = _add_rows(graph, i, name, width)
        for operator, end in (("ReduceMin", "low"), ("ReduceMax", "high")):
            output = f"{_PREFIX}{i}_{end}"
            if axes_are_inputs:
                graph.node.append(helper.make_node(operator, [rows, axes], [output], keepdims=0))
            else:
                graph.node.append(helper.make_node(operator, [rows], [output], axes=[0], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [width]))


def _add_moments(graph: onnx.GraphProto, widths: Mapping[str, int], axes_are_inputs: bool) -> None:
    """Add the outputs `<prefix><i>_moments`, (k, k) float32, and `_shape`, (2,) int64, for the i-th tensor."""
    for i, (name, width) in enumerate(widths.items()):
        rows = _add_rows(graph, i, name, width)
        turned, square, shape = (f"{_PREFIX}{i}_{what}" for what in ("turned", "moments", "shape"))
        graph.node.append(helper.make_node("Transpose", [rows], [turned], perm=[1, 0]))
        graph.node.append(helper.make_node("MatMul", [turned, rows], [square]))
        graph.node.append(helper.make_node("Shape", [rows], [shape]))
        graph.output.append(helper.make_tensor_value_info(square, onnx.TensorProto.FLOAT, [width, width]))
        graph.output.append(helper.make_tensor_value_info(shape, onnx.TensorProto.INT64, [2]))


def _add_rows(graph: onnx.GraphProto, i: int, name: str, width: int) -> str:
    """Add the tensor `name` as (rows, width); returns its name."""
    rows, sizes = f"{_PREFIX}{i}_rows", f"{_PREFIX}{i}_sizes"
    graph.initializer.append(numpy_helper.from_array(np.array([-1, width], dtype=np.int64), sizes))
    graph.node.append(helper.make_node("Reshape", [name, sizes], [rows]))
    return rows
