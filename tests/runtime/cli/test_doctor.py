"""`torchless.cli.doctor`: what exporting needs, by what is installed, and what is there of CUDA."""

from __future__ import annotations

from typing import Any

import pytest

from torchless import session
from torchless.cli import doctor
from torchless.devices import CPU_PROVIDER, CUDA_PROVIDER
from torchless.errors import ProviderError
from torchless.nvidia import Gpu


@pytest.mark.parametrize(
    ("lacking", "says", "not_said"),
    [
        ([], "`torchless export` has what every architecture needs", "not installed"),
        (
            ["torch"],
            "not installed: torch; other architectures need them: pip install 'torchless[cpu,optimum]'",
            "every",
        ),
        (
            ["torch", "transformers", "optimum-onnx"],
            "`torchless export` has what the architectures need whose",
            "every",
        ),
        (["onnx"], "not installed: onnx; `torchless export` needs them: pip install 'torchless[cpu,export]'", "other"),
        (["onnx", "safetensors", "torch"], "not installed: onnx, safetensors; ", "has what"),
    ],
)
def test_what_exporting_needs(monkeypatch: pytest.MonkeyPatch, lacking: list[str], says: str, not_said: str) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in lacking else "1.0")
    shown = "\n".join(map(str, doctor._exporting()))
    assert says in shown
    assert not_said not in shown
    assert "FAULT" not in shown
    assert all(f"{name} 1.0" in shown for name in (*doctor._EXPORT, *doctor._CONVERT) if name not in lacking)


H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30, 79 << 30)
LIBRARY = "libcublasLt.so.13, which libonnxruntime_providers_cuda.so needs, is not found: `pip install torchless[gpu]`"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts a machine in place of this one, and gives what doctor says of its providers."""

    def examine(
        driver: Any = (1, "13.0"),
        problems: tuple[str | None, ...] = (None,),
        providers: tuple[str, ...] = (CUDA_PROVIDER, CPU_PROVIDER),
        gpus: tuple[Gpu, ...] = (H100,),
        packages: dict[str, str] | None = None,
        broken: bool = False,
    ) -> list[str]:
        def available() -> list[str]:
            if broken:
                raise ProviderError("ONNX Runtime cannot be imported")
            return list(providers)

        monkeypatch.setattr(session, "available_providers", available)
        monkeypatch.setattr(session, "probe_provider", lambda provider: None)
        monkeypatch.setattr(session, "cuda_problem", lambda index: problems[index])
        monkeypatch.setattr(session, "cuda_build", lambda: "13.0")
        monkeypatch.setattr(session, "runtime_version", lambda: "1.31.1")
        for name, value in {
            "cuda_driver": driver, "gpus": list(gpus), "driver_version": "580.65.06",
            "library_packages": {"nvidia-cudnn-cu13": "9.15.1", "nvidia-cublas": "13.1"},
            "cuda_versions": {"CUDA runtime": "13.0", "cuDNN": "9.15.1"},
            "installed_runtimes": packages or {},
        }.items():  # fmt: skip
            monkeypatch.setattr(doctor, name, lambda value=value: value)
        return list(map(str, doctor._providers()))

    return examine


def test_a_machine_whose_gpus_run(machine: Any) -> None:
    assert machine((2, "13.0"), (None, "cuda:1: CUDAExecutionProvider does not run: no"), gpus=(H100, H100)) == [
        "  ok     ONNX Runtime 1.31.1 imports; it was built with CUDAExecutionProvider, CPUExecutionProvider",
        "  ok     CPUExecutionProvider: runs a node",
        "         GPU 0: NVIDIA H100 80GB HBM3, compute capability 9.0, 79.0 of 80.0 GiB free",
        "         GPU 1: NVIDIA H100 80GB HBM3, compute capability 9.0, 79.0 of 80.0 GiB free",
        "  ok     NVIDIA driver 580.65.06, CUDA up to 13.0",
        "         built for CUDA 13.0; NVIDIA's libraries from pip: nvidia-cublas 13.1, nvidia-cudnn-cu13 9.15.1",
        "  ok     CUDAExecutionProvider: runs a node on cuda:0 with CUDA runtime 13.0, cuDNN 9.15.1",
        "  FAULT  CUDAExecutionProvider: cuda:1: CUDAExecutionProvider does not run: no",
    ]


def test_what_is_wrong_with_all_gpus_is_said_once(machine: Any) -> None:
    shown = machine((3, "13.0"), (LIBRARY,) * 3)
    assert [line for line in shown if "FAULT" in line] == [f"  FAULT  CUDAExecutionProvider: {LIBRARY}"]


def test_a_gpu_package_without_a_driver(machine: Any) -> None:
    shown = machine("no NVIDIA driver is installed here", ("no NVIDIA driver is installed here",), gpus=())
    assert shown[-1] == "  FAULT  CUDAExecutionProvider: no NVIDIA driver is installed here"
    assert not any("NVIDIA driver 580" in line for line in shown)


def test_a_gpu_that_the_package_cannot_use(machine: Any) -> None:
    shown = machine(providers=(CPU_PROVIDER,))
    assert any("NVIDIA H100" in line for line in shown)
    assert shown[-1].endswith("pip uninstall -y onnxruntime, then pip install 'torchless[gpu]'")
    assert not any("FAULT" in line for line in shown)


def test_what_is_left_of_one_wheel_where_the_other_was_taken_away(machine: Any) -> None:
    assert machine(broken=True, packages={"onnxruntime-gpu": "1.31.1"}) == [
        "  FAULT  ONNX Runtime cannot be imported",
        "  FAULT  onnxruntime-gpu is installed, but not whole: pip install --force-reinstall --no-deps onnxruntime-gpu",
    ]
