"""The names that callers may rely on, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import torchless


def test_all_is_exactly_the_public_names() -> None:
    reached = {name: getattr(torchless, name) for name in {*dir(torchless), *torchless._LAZY}}
    ours = [name for name, value in reached.items() if getattr(value, "__module__", "").startswith("torchless")]
    assert torchless.__all__ == sorted([*(name for name in ours if not name.startswith("_")), "__version__"])


def test_import_loads_nothing_heavy() -> None:
    heavy = "numpy onnxruntime tokenizers click tqdm huggingface_hub torch transformers onnx"
    heavy += " torchless_export torchless_bench"
    code = f"import sys, torchless; print(*(set({heavy.split()}) & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "\n"
