"""What `device=` means, and which ONNX Runtime package is installed: known without importing it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchless.errors import InputError, InputTypeError, one_line

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

# Of `gpu_mem_limit`: less is surely another unit.
_LEAST_MEMORY = 1 << 20

_RUNTIMES = re.compile(r"onnxruntime(-(gpu|directml|openvino|rocm|migraphx|qnn|silicon|training))?")
_FORM = re.compile(r"(auto|cpu|cuda)(?::(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Device:
    """Where to run: `kind` is "auto", "cpu" or "cuda"; `index` counts GPUs from 0."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind


def parse_device(device: Any) -> Device:
    """Read `device`: "auto", "cpu", "cuda", "cuda:1", or transformers' forms -1, 0 and up, None, torch.device.

    None is "auto", -1 the CPU, and a number from 0 that GPU.

    Raises:
        InputError, InputTypeError: none of these.
    """
    if device is None:
        return Device("auto")
    if isinstance(device, int) and not isinstance(device, bool):
        if device < -1:
            raise InputError(f"device is {device}, wanted -1 for the CPU or a GPU's number from 0")
        return Device("cpu") if device == -1 else Device("cuda", device)
    # A torch.device prints as "cuda:0"; importing torch to recognise it is out of the question.
    if not isinstance(device, str) and type(device).__module__ != "torch":
        raise InputTypeError(f"device is {device!r}, wanted 'auto', 'cpu', 'cuda' or 'cuda:N'")
    match = _FORM.fullmatch(str(device).lower())
    if match is None or (match[2] and match[1] != "cuda"):
        raise InputError(f"device is {str(device)!r}, wanted 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return Device(match[1], int(match[2] or 0))


def cuda_options(device: Device, *, gpu_mem_limit: int | None = None, graphs: bool = False) -> dict[str, str]:
    """Return the CUDA provider's options (onnxruntime.ai, "CUDA Execution Provider", "Configuration Options")."""
    options = {
        "device_id": str(device.index),
        # TensorFloat-32 would round float32's products to float16's 11 bits, which no gate at export has seen.
        "use_tf32": "0",
        # The default times every algorithm anew for each shape; one family has one small convolution.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if gpu_mem_limit is not None:
        # Growing by doubling would stop at half of what is allowed.
        options |= {"gpu_mem_limit": str(gpu_mem_limit), "arena_extend_strategy": "kSameAsRequested"}
    if graphs:
        options["enable_cuda_graph"] = "1"
    return options


def check_memory_limit(limit: Any) -> int | None:
    """Return `limit`, bytes of device memory, or None for no limit.

    Raises:
        InputTypeError, InputError: it is no number of bytes.
    """
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InputTypeError(f"gpu_mem_limit is {limit!r}, wanted a whole number of bytes, or None for no limit")
    if not _LEAST_MEMORY <= limit < 1 << 63:
        raise InputError(f"gpu_mem_limit is {limit} bytes, wanted at least {_LEAST_MEMORY}, one MiB")
    return limit


def installed_runtimes() -> dict[str, str]:
    """Return the ONNX Runtime distributions found, name to version; more than one is a broken installation."""
    return installed_distributions(_RUNTIMES)


def installed_distributions(wanted: re.Pattern[str]) -> dict[str, str]:
    """Return the installed distributions whose normalized name is a full match of `wanted`, name to version."""
    import importlib.metadata  # 30 ms that a CPU pipeline does not need

    found = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if wanted.fullmatch(name):
            found[name] = distribution.version
    return found


def cuda_version(number: int) -> str:
    """Return a version of CUDA as its libraries count it: 13000 is "13.0"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def gpu_package_installed() -> bool:
    """Tell whether onnxruntime-gpu is installed, whole or overwritten, by names alone: every start asks."""
    return any(
        name.startswith("onnxruntime_gpu-") and name.endswith(".dist-info")
        for folder in sys.path
        for name in _names(folder)
    )


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:  # a zip file, or nothing at all
        return []


def cuda_library_problem(folder: Path) -> str | None:
    """Say why ONNX Runtime's CUDA provider, in its package's `folder`, cannot be loaded; None: it can, or who knows.

    ONNX Runtime itself tells standard error alone, and goes on without.
    """
    if sys.platform != "linux":
        return None
    names = ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so")
    for name in names:
        if not (folder / name).exists():
            return f"{name} is missing in {folder}: `pip install --force-reinstall onnxruntime-gpu`"
        try:
            ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL if name == names[0] else ctypes.DEFAULT_MODE)
        except OSError as error:
            if match := re.match(r"(\S+): cannot open shared object file", str(error)):
                return (
                    f"{match[1]}, which {name} needs, is not found: `pip install torchless[gpu]` brings NVIDIA's "
                    "libraries; those of the system have to be on LD_LIBRARY_PATH, in the same version of CUDA"
                )
            return f"{name} cannot be loaded: {one_line(str(error), 300)}"
    return None


def cuda_driver() -> tuple[int, str] | str:
    """Ask the CUDA driver itself: (number of GPUs, "13.0"), or a string that says what is wrong.

    Uses the driver API (`cuInit`, `cuDeviceGetCount`, `cuDriverGetVersion`): no toolkit is needed for it.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"the NVIDIA driver's {name} cannot be loaded: no NVIDIA driver is installed here"
    if status := driver.cuInit(0):
        known = {100: "the driver finds no GPU", 803: "the driver does not fit this GPU or kernel"}
        return f"the NVIDIA driver does not start: {known.get(status, f'cuInit gives {status}')}"
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    if count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return count.value, cuda_version(version.value)
