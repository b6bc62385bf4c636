"""ONNX graphs written from a checkpoint's weights, without PyTorch: only what the answer needs.

An encoder (`families` says which tensor is what) and a head, which says what it reads of the last layer.
"""

from __future__ import annotations

from torchless_export.graph.builder import build, check_supported, supports
from torchless_export.graph.form import (
    TARGETS,
    Form,
    Target,
    candidates,
    default_form,
    for_batch_invariance,
    for_left_padding,
)

__all__ = [
    "NAME",
    "TARGETS",
    "Form",
    "Target",
    "build",
    "candidates",
    "check_supported",
    "default_form",
    "for_batch_invariance",
    "for_left_padding",
    "supports",
]

NAME = "graph"
