"""What ONNX Runtime's errors say of the device: that its memory is full, or that it is lost; and half a batch.

Its exceptions are of a few types for everything, so that their texts decide. Those quoted in the tests are of
onnxruntime-gpu 1.31.1 (bfc_arena.cc, cuda_call.cc).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["halves_of", "is_out_of_memory", "lost_device", "padded_tokens"]

_OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer of size"  # the arena, when the device has no more
    r"|Available memory of \d+ is smaller than requested bytes of"  # the arena, at gpu_mem_limit
    r"|CUDA failure 2:|CUDA error cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|std::bad_alloc|bad allocation"
)
_CUDA_FAILURE = re.compile(r"CUDA failure (\d+): ([^;\n]{1,80}?) *(?:;|$)", re.MULTILINE)
# cudaError_t (driver_types.h) after which the process can do nothing more on the device, "must be terminated and
# relaunched", and those of a device that is not there any more.
_STICKY = frozenset(
    {
        46,  # cudaErrorDevicesUnavailable
        101,  # cudaErrorInvalidDevice
        214,  # cudaErrorECCUncorrectable
        220,  # cudaErrorNvlinkUncorrectable
        226,  # cudaErrorContained
        700,  # cudaErrorIllegalAddress
        702,  # cudaErrorLaunchTimeout
        709,  # cudaErrorContextIsDestroyed
        710,  # cudaErrorAssert
        714,  # cudaErrorHardwareStackError
        715,  # cudaErrorIllegalInstruction
        716,  # cudaErrorMisalignedAddress
        717,  # cudaErrorInvalidAddressSpace
        718,  # cudaErrorInvalidPc
        719,  # cudaErrorLaunchFailure
        721,  # cudaErrorTensorMemoryLeak
        999,  # cudaErrorUnknown
    }
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether this is a lack of memory, so that half the batch may do."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def lost_device(error: BaseException) -> str | None:
    """Return CUDA's own words, "719: unspecified launch failure", where it can do nothing more here; else None."""
    match = _CUDA_FAILURE.search(str(error))
    return f"{match[1]}: {match[2].strip()}" if match and int(match[1]) in _STICKY else None


def padded_tokens(inputs: Mapping[str, NDArray[np.int64]]) -> int:
    """Return the size of a batch, padding and all."""
    return max((int(np.size(array)) for array in inputs.values()), default=0)


def halves_of(inputs: Mapping[str, NDArray[np.int64]]) -> tuple[dict[str, NDArray[np.int64]], ...]:
    """Return the two halves of a batch; none of a batch of one text."""
    rows = min((len(array) for array in inputs.values()), default=0)
    cut = rows // 2
    return tuple(
        {name: array[part] for name, array in inputs.items()} for part in (slice(cut), slice(cut, None)) if cut
    )
