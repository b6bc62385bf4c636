"""What NVIDIA's own libraries say: the driver's GPUs, the versions that are loaded, memory, page-locked arrays.

Through `ctypes`, and only what is there already: nothing here needs a toolkit, and nothing here loads CUDA into a
process that has not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.devices import cuda_version, installed_distributions

__all__ = [
    "Gpu",
    "cuda_versions",
    "driver_version",
    "free_memory",
    "gpus",
    "library_packages",
    "page_locked",
]

_NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
# The CUDA runtimes that ONNX Runtime's wheels are built for, the newest first; and their cuDNN.
_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
_CUDNN = "libcudnn.so.9"
_PACKAGE = re.compile(r"nvidia-(cuda-runtime|cuda-nvrtc|cublas|cudnn|cufft|curand)(-cu\d+)?")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver's management library (NVML) has it; memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory: int
    free: int


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def driver_version() -> str | None:
    """Return the NVIDIA driver's version, "580.65.06"; None: there is no driver."""
    with _nvml() as library:
        return _string(library.nvmlSystemGetDriverVersion) if library else None


def gpus() -> list[Gpu]:
    """Return the GPUs in the order of their bus, which is CUDA's too where CUDA_DEVICE_ORDER is PCI_BUS_ID."""
    with _nvml() as library:
        count = ctypes.c_uint()
        if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        return [gpu for index in range(count.value) if (gpu := _gpu(library, index)) is not None]


def library_packages() -> dict[str, str]:
    """Return the CUDA and cuDNN libraries that pip installed: distribution to version."""
    return installed_distributions(_PACKAGE)


def cuda_versions() -> dict[str, str]:
    """Return the versions of the CUDA runtime and cuDNN in this process, "13.0" and "9.15.1"; none that is not."""
    found = {}
    runtime, cudnn = _loaded(*_RUNTIMES), _loaded(_CUDNN)
    version = ctypes.c_int()
    if runtime is not None and runtime.cudaRuntimeGetVersion(ctypes.byref(version)) == 0:
        found["CUDA runtime"] = cuda_version(version.value)
    if cudnn is not None:
        cudnn.cudnnGetVersion.restype = ctypes.c_size_t
        number = int(cudnn.cudnnGetVersion())
        found["cuDNN"] = f"{number // 10000}.{number % 10000 // 100}.{number % 100}"
    return found


def free_memory(index: int) -> int | None:
    """Return the bytes of GPU `index` that nobody has; None: no CUDA runtime is in this process."""
    runtime = _loaded(*_RUNTIMES)
    if runtime is None:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with _current(runtime, index) as usable:
        if not usable or runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
            return None
    return free.value


def page_locked(count: int, index: int) -> NDArray[np.int64]:
    """Return an array of `count` int64 in page-locked memory, which GPU `index` copies from without a detour.

    Where that cannot be had it is an ordinary array, which does the same in more time.
    """
    runtime = _loaded(*_RUNTIMES)
    if runtime is None:
        return np.empty(count, np.int64)
    pointer = ctypes.c_void_p()
    with _current(runtime, index) as usable:
        size = ctypes.c_size_t(count * 8)
        if not usable or runtime.cudaHostAlloc(ctypes.byref(pointer), size, ctypes.c_uint(0)) or not pointer.value:
            return np.empty(count, np.int64)
    memory = (ctypes.c_int64 * count).from_address(pointer.value)
    # The array keeps `memory`, and CUDA takes the pages back with it; at the process's end the driver does.
    weakref.finalize(memory, runtime.cudaFreeHost, ctypes.c_void_p(pointer.value)).atexit = False
    array: NDArray[np.int64] = np.ctypeslib.as_array(memory)
    return array


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """Yield NVML, started; None: there is none, or it does not start."""
    try:
        library = ctypes.CDLL(_NVML)
    except OSError:
        yield None
        return
    if library.nvmlInit_v2():
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def _gpu(library: Any, index: int) -> Gpu | None:
    handle = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)):
        return None
    memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
    library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    name = _string(lambda buffer, size: library.nvmlDeviceGetName(handle, buffer, size)) or "a GPU without a name"
    return Gpu(name, (major.value, minor.value), memory.total, memory.free)


def _string(ask: Any) -> str | None:
    """Return what an NVML function writes into (buffer, size); NVML_DEVICE_NAME_V2_BUFFER_SIZE is the most, 96."""
    buffer = ctypes.create_string_buffer(96)
    return None if ask(buffer, ctypes.c_uint(96)) else buffer.value.decode("utf-8", "replace")


def _loaded(*names: str) -> Any:
    """Return the first of these libraries that is in this process already; None: none is."""
    if not hasattr(os, "RTLD_NOLOAD"):  # Windows
        return None
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    return None


@contextlib.contextmanager
def _current(runtime: Any, index: int) -> Iterator[bool]:
    """Make GPU `index` this thread's own for as long as the `with` lasts; yields whether that worked."""
    before = ctypes.c_int()
    if runtime.cudaGetDevice(ctypes.byref(before)) or runtime.cudaSetDevice(ctypes.c_int(index)):
        yield False
        return
    try:
        yield True
    finally:
        runtime.cudaSetDevice(before)
