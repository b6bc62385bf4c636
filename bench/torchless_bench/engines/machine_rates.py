"""What ONNX Runtime reaches here where nothing is in its way: large matrix products, and reading weights.

The model is one node, written as the bytes of its ONNX file (onnx.proto, version 8 of the format), so that no more
needs to be installed than where a bundle runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "numpy")

_FLOAT, _UINT8, _INT8, _INT32, _FLOAT16 = 1, 2, 3, 6, 10  # TensorProto.DataType

# Operator, and the types of the array given, of the weights, and of the result.
_PRODUCTS = {
    "fp32": ("MatMul", _FLOAT, _FLOAT, _FLOAT),
    "memory": ("MatMul", _FLOAT, _FLOAT, _FLOAT),
    "fp16": ("MatMul", _FLOAT16, _FLOAT16, _FLOAT16),
    "int8": ("MatMulInteger", _UINT8, _INT8, _INT32),
}
_DTYPES = {_FLOAT: np.float32, _UINT8: np.uint8, _INT8: np.int8, _FLOAT16: np.float16}

# An int8 product is no kernel of the CUDA provider, a float16 product none that a CPU has of its own.
_PLACES = {"cpu": ("fp32", "int8", "memory"), "cuda": ("fp32", "fp16", "memory")}


def problem(options: dict[str, Any]) -> str | None:
    """Say that ONNX Runtime has no CUDA here."""
    if options["device"] == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    return "the installed onnxruntime is the CPU package"


class Engine:
    """On `options["device"]`."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        self._device, _, index = options["device"].partition(":")
        self._index = int(index or 0)
        self._threads = threads

    def rate(self, what: str, rows: int, shared: int, columns: int) -> Callable[[], Any]:
        """Return the product of `(rows, shared)` and constant `(shared, columns)` in the precision `what`."""
        if what not in _PLACES[self._device]:
            raise NotImplementedError(f"no {what} products on {self._device}")
        operator, given, weights, result = _PRODUCTS[what]
        draw = np.random.default_rng(0)
        # Small whole numbers: they are the same in every type, and no product of float16 overflows.
        right = draw.integers(-3, 4, (shared, columns)).astype(_DTYPES[weights])
        left = draw.integers(0, 4, (rows, shared)).astype(_DTYPES[given])
        model = one_product(operator, (given, weights, result), right, (rows, shared, columns))
        return self._call(model, left)

    def _call(self, model: bytes, left: Any) -> Callable[[], Any]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        if self._device == "cpu":
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            feed, run = {"x": left}, session.run
            return lambda: run(None, feed)[0][0, 0]
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        cuda = ("CUDAExecutionProvider", {"device_id": self._index})
        session = onnxruntime.InferenceSession(model, options, providers=[cuda])
        # Both ends stay on the device: what the bus takes is not what is asked here.
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(left, "cuda", self._index))
        binding.bind_output("y", "cuda", self._index)
        return lambda: session.run_with_iobinding(binding)  # which waits for the device at its end


def one_product(operator: str, types: tuple[int, int, int], weights: Any, sizes: tuple[int, int, int]) -> bytes:
    """Return an ONNX model, y = x times the constant `weights`; `types` and `sizes` as in `_PRODUCTS` and `rate`."""
    rows, shared, columns = sizes
    given, constant, result = types
    tensor = _packed(1, shared, columns) + _number(2, constant) + _text(8, "w") + _bytes(9, weights.tobytes())
    node = _text(1, "x") + _text(1, "w") + _text(2, "y") + _text(4, operator)
    graph = _bytes(1, node) + _text(2, "one product") + _bytes(5, tensor)
    graph += _bytes(11, _value("x", given, rows, shared)) + _bytes(12, _value("y", result, rows, columns))
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 13))


def _value(name: str, kind: int, *sizes: int) -> bytes:
    shape = b"".join(_bytes(1, _number(1, size)) for size in sizes)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _packed(field: int, *values: int) -> bytes:
    return _bytes(field, b"".join(map(_varint, values)))


def _varint(value: int) -> bytes:
    """Return a number as Protocol Buffers write it: seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))
