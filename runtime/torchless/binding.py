"""Runs with bound inputs and outputs: one copy to the device for all inputs, and one back.

ONNX Runtime's plain `run` copies every input by itself from memory that the device cannot read directly. Here they go
side by side into one page-locked array, over in one copy, and are read where they lie. On the CPU the same code binds
arrays of the CPU; nothing but the tests does that.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.devices import Device
from torchless.nvidia import page_locked

__all__ = ["BoundRunner", "Slot", "checked_arrays"]

Inputs = Mapping[str, NDArray[np.int64]]

# Inputs begin at multiples of as many int64, 256 bytes, as CUDA's own allocations do.
_ALIGNMENT = 32
# The smallest slot, 8 KiB; sizes are powers of two, so that a slot serves many shapes. Larger ones than `_KEPT` (8 MiB)
# are for one run alone.
_SMALLEST, _KEPT = 1 << 10, 1 << 20


class Slot:
    """Memory for the inputs of one run at a time, on the host and on the device, bound to a session.

    Attributes:
        binding: ONNX Runtime's, to which outputs are to be bound.
    """

    def __init__(self, ort: Any, session: Any, device: Device, capacity: int) -> None:
        """Take memory for `capacity` int64 on both sides.

        Raises:
            Exception: ONNX Runtime's, for want of memory.
        """
        kind = device.kind
        self._host = page_locked(capacity, device.index) if kind == "cuda" else np.empty(capacity, np.int64)
        self._host.fill(0)
        self._device = ort.OrtValue.ortvalue_from_shape_and_type([capacity], np.int64, kind, device.index)
        self._where = (kind, device.index)
        self._bound: tuple[tuple[str, ...], tuple[int, int]] | None = None
        self.binding = session.io_binding()

    def views(self, names: Sequence[str], shape: tuple[int, int]) -> dict[str, NDArray[np.int64]]:
        """Return arrays (batch, sequence) over the host's memory, one for each input, to write into; see `send`."""
        stride = _stride(shape)
        size = shape[0] * shape[1]
        return {
            name: self._host[place * stride : place * stride + size].reshape(shape) for place, name in enumerate(names)
        }

    def send(self, names: Sequence[str], shape: tuple[int, int]) -> None:
        """Copy what was written to the device, and bind it as the session's inputs."""
        self._device.update_inplace(self._host)
        if self._bound != (tuple(names), shape):
            start, stride = self._device.data_ptr(), 8 * _stride(shape)
            for place, name in enumerate(names):
                self.binding.bind_input(name, *self._where, np.int64, list(shape), start + place * stride)
            self._bound = (tuple(names), shape)

    @staticmethod
    def size(count: int, shape: tuple[int, int]) -> int:
        """Return the int64 that `count` inputs of this shape take, rounded up to a power of two."""
        return max(_SMALLEST, 1 << (count * _stride(shape) - 1).bit_length())


class BoundRunner:
    """Runs a session on bound memory. May be called from many threads: each run has a slot of its own."""

    def __init__(self, ort: Any, session: Any, output: str, device: Device, options: Any = None) -> None:
        """Prepare runs of `session` whose one result is `output`; `options` are ONNX Runtime's run options."""
        self._ort, self._session, self._output, self._device = ort, session, output, device
        self._names = tuple(node.name for node in session.get_inputs())
        self._options = options
        self._free: dict[int, list[Slot]] = {}
        self._lock = threading.Lock()

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        """Run on inputs (batch, sequence) int64; returns the output float32.

        Raises:
            ValueError: not the session's inputs.
            Exception: ONNX Runtime's own.
        """
        arrays = checked_arrays(self._names, inputs)
        shape: tuple[int, int] = arrays[0].shape
        capacity = Slot.size(len(arrays), shape)
        slot = self._take(capacity)
        for view, array in zip(slot.views(self._names, shape).values(), arrays, strict=True):
            view[...] = array
        slot.send(self._names, shape)
        slot.binding.bind_output(self._output, self._device.kind, self._device.index)
        self._session.run_with_iobinding(slot.binding, self._options)
        [output] = slot.binding.get_outputs()
        result: NDArray[np.float32] = output.numpy()
        # Gives the output's memory back to the arena. A slot whose run failed is not used again.
        slot.binding.clear_binding_outputs()
        self._give(capacity, slot)
        return result

    def _take(self, capacity: int) -> Slot:
        with self._lock:
            free = self._free.get(capacity)
            if free:
                return free.pop()
        return Slot(self._ort, self._session, self._device, capacity)

    def _give(self, capacity: int, slot: Slot) -> None:
        if capacity <= _KEPT:
            with self._lock:
                self._free.setdefault(capacity, []).append(slot)


def checked_arrays(names: Sequence[str], inputs: Inputs) -> list[NDArray[np.int64]]:
    """Return the inputs in the order of `names`.

    Raises:
        ValueError: one is missing or unknown, or they are not int64 arrays of one shape (batch, sequence).
    """
    if inputs.keys() != set(names):
        raise ValueError(f"the inputs are {sorted(inputs)}, wanted {sorted(names)}")
    arrays = [inputs[name] for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.dtype != np.int64 or array.ndim != 2 or array.shape != arrays[0].shape:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, wanted int64 of two axes, the same for all inputs"
            )
    return arrays


def _stride(shape: tuple[int, int]) -> int:
    return max(1, -(-shape[0] * shape[1] // _ALIGNMENT)) * _ALIGNMENT
