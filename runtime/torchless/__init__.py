"""Hugging Face text encoders without PyTorch: exported, verified, fast.

    import torchless

    classify = torchless.pipeline(model="my-bundle")
    classify("I've been waiting for this my whole life.")   # [{'label': 'POSITIVE', 'score': 0.99}]

Importing this module loads neither NumPy nor ONNX Runtime; the first name that needs them does.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from torchless.errors import (
    BundleError,
    BundleVersionError,
    CheckpointError,
    InferenceError,
    InputError,
    InputTypeError,
    ParityError,
    ProviderError,
    TorchlessError,
    TorchlessWarning,
    UnknownFunctionError,
)

if TYPE_CHECKING:
    from torchless.bundle import Bundle
    from torchless.explanation import Explanation
    from torchless.manifest import Manifest
    from torchless.pipelines.base import Pipeline
    from torchless.pipelines.factory import pipeline
    from torchless.pipelines.feature_extraction import FeatureExtractionPipeline
    from torchless.pipelines.text_classification import TextClassificationPipeline

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "BundleVersionError",
    "CheckpointError",
    "Explanation",
    "FeatureExtractionPipeline",
    "InferenceError",
    "InputError",
    "InputTypeError",
    "Manifest",
    "ParityError",
    "Pipeline",
    "ProviderError",
    "TextClassificationPipeline",
    "TorchlessError",
    "TorchlessWarning",
    "UnknownFunctionError",
    "__version__",
    "pipeline",
]

_LAZY = {
    "Bundle": "torchless.bundle",
    "Explanation": "torchless.explanation",
    "FeatureExtractionPipeline": "torchless.pipelines.feature_extraction",
    "Manifest": "torchless.manifest",
    "Pipeline": "torchless.pipelines.base",
    "TextClassificationPipeline": "torchless.pipelines.text_classification",
    "pipeline": "torchless.pipelines.factory",
}

# Silent unless the application configures it (Python's logging HOWTO, "Configuring Logging for a Library").
logging.getLogger("torchless").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'torchless' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
