"""Inputs for the sample checkpoint, and sessions as ONNX Runtime opens them by itself, for the tests on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from torchless.devices import CUDA_PROVIDER, Device, cuda_options


def batch(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs for the sample: every text has a token, and padding on the right."""
    chance = np.random.default_rng(seed)
    mask = (np.arange(length) < chance.integers(1, length + 1, (rows, 1))).astype(np.int64)
    return {"input_ids": chance.integers(5, 900, mask.shape) * mask, "attention_mask": mask}


def plain_session(model: Any, *, cuda: bool) -> Any:
    """Open a graph as ONNX Runtime does it by itself."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda:
        providers.insert(0, (CUDA_PROVIDER, cuda_options(Device("cuda"))))
    return onnxruntime.InferenceSession(model, options, providers, enable_fallback=0)
