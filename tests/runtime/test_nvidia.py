"""`torchless.nvidia`, with NVIDIA's libraries faked: what they are asked, and what is made of their answers."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from torchless import nvidia
from torchless.nvidia import Gpu


class Nvml:
    """The management library of a machine with two GPUs, the second of which does not answer."""

    def __init__(self, starts: int = 0) -> None:
        self.starts = starts
        self.open = 0

    def nvmlInit_v2(self) -> int:
        self.open += not self.starts
        return self.starts

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlSystemGetDriverVersion(self, buffer: Any, size: Any) -> int:
        buffer.value = b"580.65.06"
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        handle._obj.value = 7 + index.value
        return 15 if index.value else 0  # NVML_ERROR_GPU_IS_LOST

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: Any) -> int:
        assert (handle.value, size.value) == (7, 96)
        buffer.value = b"NVIDIA H100 80GB HBM3"
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free, memory._obj.used = 80 << 30, 79 << 30, 1 << 30
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = 9, 0
        return 0


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    library = Nvml()

    def load(name: str) -> Nvml:
        assert name == nvidia._NVML
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    return library


def test_the_gpus_that_answer(nvml: Nvml) -> None:
    assert nvidia.gpus() == [Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30, 79 << 30)]
    assert nvidia.driver_version() == "580.65.06"
    assert nvml.open == 0


def test_a_driver_that_does_not_start(nvml: Nvml) -> None:
    nvml.starts = 9  # NVML_ERROR_DRIVER_NOT_LOADED
    assert nvidia.gpus() == []
    assert nvidia.driver_version() is None
    assert nvml.open == 0


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise OSError("not found")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert nvidia.gpus() == []
    assert nvidia.driver_version() is None


def test_what_pip_installed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "nvidia_cuda_runtime": "13.0.96",
        "nvidia_cudnn_cu13": "9.15.1",
        "nvidia_cublas_cu12": "12.9",
        "nvidia": "0",
        "numpy": "2",
    }
    for name, version in names.items():
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert nvidia.library_packages() == {
        "nvidia-cuda-runtime": "13.0.96", "nvidia-cudnn-cu13": "9.15.1", "nvidia-cublas-cu12": "12.9",
    }  # fmt: skip


class Runtime:
    """A CUDA runtime of two GPUs, which hands out the C library's memory."""

    def __init__(self, refuses: bool = False) -> None:
        self.device = 0
        self.refuses = refuses
        self.asked: list[int] = []
        self.blocks: dict[int, Any] = {}

    def cudaRuntimeGetVersion(self, version: Any) -> int:
        version._obj.value = 13000
        return 0

    def cudaGetDevice(self, device: Any) -> int:
        device._obj.value = self.device
        return 0

    def cudaSetDevice(self, device: Any) -> int:
        if device.value > 1:
            return 101
        self.device = device.value
        return 0

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:
        self.asked.append(self.device)
        free._obj.value, total._obj.value = 123, 456
        return 0

    def cudaHostAlloc(self, pointer: Any, size: Any, flags: Any) -> int:
        self.asked.append(self.device)
        if self.refuses:
            return 2
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.blocks[pointer._obj.value] = block
        return 0

    def cudaFreeHost(self, pointer: Any) -> int:
        del self.blocks[pointer.value]
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    library = Runtime()
    monkeypatch.setattr(nvidia, "_loaded", lambda *names: library if names[0].startswith("libcudart") else None)
    return library


def test_page_locked_memory_goes_back_with_its_last_array(runtime: Runtime) -> None:
    array = nvidia.page_locked(100, 1)
    assert (array.shape, array.dtype) == ((100,), np.int64)
    assert runtime.asked == [1]
    assert runtime.device == 0
    array[:] = np.arange(100)
    view = array[90:]
    del array
    gc.collect()
    assert len(runtime.blocks) == 1
    assert view.tolist() == list(range(90, 100))
    del view
    gc.collect()
    assert runtime.blocks == {}


@pytest.mark.parametrize("index", [0, 7])
def test_where_there_is_none_an_ordinary_array_does(runtime: Runtime, index: int) -> None:
    runtime.refuses = True
    assert nvidia.page_locked(10, index).shape == (10,)
    assert runtime.blocks == {}
    assert runtime.device == 0


def test_free_memory(runtime: Runtime) -> None:
    assert nvidia.free_memory(1) == 123
    assert (runtime.asked, runtime.device) == ([1], 0)
    assert nvidia.free_memory(2) is None


def test_versions(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvidia.cuda_versions() == {"CUDA runtime": "13.0"}
    cudnn = SimpleNamespace(cudnnGetVersion=type("", (), {"__call__": lambda self: 91501})())
    monkeypatch.setattr(nvidia, "_loaded", lambda *names: runtime if names[0].startswith("libcudart") else cudnn)
    assert nvidia.cuda_versions() == {"CUDA runtime": "13.0", "cuDNN": "9.15.1"}


def test_nothing_is_loaded_that_was_not() -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists() or "libcudart" in maps.read_text():
        pytest.skip("CUDA is in this process, or nobody can tell")
    assert nvidia.cuda_versions() == {}
    assert nvidia.free_memory(0) is None
    assert nvidia.page_locked(4, 0).shape == (4,)
