"""From Hugging Face checkpoints to torchless bundles.

from torchless_export import export

report = export("my-checkpoint", "my-bundle", calibration="texts.tsv")
print(report)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchless_export.exporter import export
    from torchless_export.report import ExportReport

__all__ = ["ExportReport", "export"]


def __getattr__(name: str) -> Any:
    import importlib

    modules = {"export": "torchless_export.exporter", "ExportReport": "torchless_export.report"}
    if name not in modules:
        raise AttributeError(f"module 'torchless_export' has no attribute {name!r}")
    value = getattr(importlib.import_module(modules[name]), name)
    globals()[name] = value
    return value
