"""Sessions as ONNX Runtime opens them by itself, for the tests on a GPU."""

from __future__ import annotations

from typing import Any

import onnxruntime

from torchless.devices import CUDA_PROVIDER, Device, cuda_options


def plain_session(model: Any, *, cuda: bool) -> Any:
    """Open a graph as ONNX Runtime does it by itself."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda:
        providers.insert(0, (CUDA_PROVIDER, cuda_options(Device("cuda"))))
    return onnxruntime.InferenceSession(model, options, providers, enable_fallback=0)
