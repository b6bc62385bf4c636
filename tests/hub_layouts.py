"""Bundles as the hub's repositories with ONNX files have them, and the warning that opening one gives."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

UNVERIFIED = r"not a torchless bundle: .* \(unverified\)"

# What a bundle holds beside its graphs and its manifest.
DESCRIPTIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
GRAPHS = {"fp32": ("model.onnx", "model.onnx"), "int8": ("model_int8.onnx", "model_quantized.onnx")}


def lay_out(bundle: Path, folder: Path, variants: Sequence[str] = tuple(GRAPHS)) -> Path:
    """Copy a bundle's files to where a repository of the hub has them, without the manifest."""
    (folder / "onnx").mkdir(parents=True)
    for name in DESCRIPTIONS:
        shutil.copyfile(bundle / name, folder / name)
    for variant in variants:
        ours, theirs = GRAPHS[variant]
        shutil.copyfile(bundle / ours, folder / "onnx" / theirs)
    return folder
