"""An ONNX Runtime whose CUDA provider is the CPU's: everything is asked as of CUDA, and answered with right numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnxruntime as ort

from torchless.devices import CPU_PROVIDER, CUDA_PROVIDER


class Binding:
    """An I/O binding to "cuda", and underneath to the CPU."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.inputs: dict[str, tuple[str, int, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def bind_input(self, name: str, kind: str, index: int, dtype: Any, shape: Any, pointer: int) -> None:
        self.inputs[name] = (kind, index, pointer)
        self.real.bind_input(name, "cpu", 0, dtype, shape, pointer)

    def bind_output(self, name: str, kind: str, index: int) -> None:
        assert kind == "cuda"
        self.real.bind_output(name, "cpu")


class Session:
    """A session of the CPU that says it is of CUDA."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.runs: list[tuple[Binding, str | None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_providers(self) -> list[str]:
        return [CUDA_PROVIDER, CPU_PROVIDER]

    def io_binding(self) -> Binding:
        return Binding(self.real.io_binding())

    def run(self, *arguments: Any) -> Any:
        raise AssertionError("a plain run, which copies each input by itself")

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        self.runs.append((binding, None if options is None else options.get_run_config_entry("gpu_graph_id")))
        self.real.run_with_iobinding(binding.real, options)


def runtime() -> SimpleNamespace:
    """Return the module; its `opened` has (provider options, session) for each session."""
    opened: list[tuple[dict[str, str], Session]] = []

    def open_session(model: Any, options: Any, providers: Any, **keywords: Any) -> Session:
        (provider, given), cpu = providers
        assert (provider, cpu) == (CUDA_PROVIDER, CPU_PROVIDER)
        session = Session(ort.InferenceSession(model, options, [CPU_PROVIDER], **keywords))
        opened.append((given, session))
        return session

    def value(shape: Any, dtype: Any, kind: str, index: int) -> Any:
        assert kind == "cuda"
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu")

    return SimpleNamespace(
        InferenceSession=open_session,
        SessionOptions=ort.SessionOptions,
        RunOptions=ort.RunOptions,
        OrtValue=SimpleNamespace(ortvalue_from_shape_and_type=value),
        get_available_providers=lambda: [CUDA_PROVIDER, CPU_PROVIDER],
        opened=opened,
    )
