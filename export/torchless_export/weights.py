"""A checkpoint's tensors as float32 arrays, read one at a time: what needs them all at once is the caller's choice.

Half-precision checkpoints are widened, which is exact; what the arrays hold was looked at once, here.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from torchless.errors import CheckpointError, one_line
from torchless_export.checkpoint import Checkpoint

Float32 = NDArray[np.float32]

# As safetensors calls them. Numbers of 8 bits mean nothing without a scale, which is in no tensor that is read here.
_FLOATING = ("F64", "F32", "F16", "BF16")


class Weights:
    """The tensors of a checkpoint by name, single or sharded; a context manager.

    Attributes:
        names: every tensor's name; tensors that share storage were saved under one of their names.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Open the checkpoint's safetensors files.

        Raises:
            CheckpointError: the safetensors library cannot read one.
        """
        importlib.import_module("ml_dtypes")  # tells NumPy what bfloat16 is
        self._checkpoint = checkpoint
        self._files = contextlib.ExitStack()
        self._where: dict[str, Any] = {}
        safe_open = importlib.import_module("safetensors").safe_open
        try:
            for path in checkpoint.weights:
                file = self._files.enter_context(safe_open(path, framework="np"))
                self._where |= dict.fromkeys(file.keys(), file)
        except Exception as error:  # safetensors' errors derive from Exception alone
            self._files.close()
            raise CheckpointError(f"{path}: safetensors cannot read it: {one_line(str(error), 200)}") from error
        self.names: frozenset[str] = frozenset(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._where))

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> Float32:
        """Return the tensor `name` as a new float32 array.

        Args:
            name: the tensor's name in the files.
            shape: what it must be; None: anything.

        Raises:
            CheckpointError: missing, of another shape, not of a floating type of 16 bits and more, or a value that is
                not finite in float32; the line names the tensor.
        """
        path = self._checkpoint.path
        if name not in self._where:
            raise CheckpointError(
                f"{path}: its weights lack the tensor {name}; export a checkpoint that was fine-tuned for the task"
            )
        found = self._checkpoint.tensors[name]
        if shape is not None and found != shape:
            raise CheckpointError(
                f"{path}: the tensor {name} is {list(found)}, config.json wants {list(shape)}; "
                "they are not of one model"
            )
        file = self._where[name]
        try:
            kind = file.get_slice(name).get_dtype()
            stored = file.get_tensor(name) if kind in _FLOATING else None
        except Exception as error:  # as above
            raise CheckpointError(f"{path}: the tensor {name} cannot be read: {one_line(str(error), 200)}") from error
        if stored is None:
            raise CheckpointError(f"{path}: the tensor {name} is {kind}, wanted {', '.join(_FLOATING)}")
        with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 is told of below
            array = np.ascontiguousarray(stored.astype(np.float32))
        if not np.isfinite(array).all():
            at = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            raise CheckpointError(f"{path}: the tensor {name} holds {array[tuple(at)]} at {at}, wanted finite numbers")
        return array

    def close(self) -> None:
        """Close the files; arrays that were read stay."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
