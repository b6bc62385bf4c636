"""Exports of tiny checkpoints: texts to judge them on, and what PyTorch answers to those."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless_export.report import ExportReport

pytest.importorskip("onnx")
pytest.importorskip("optimum")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from torchless_export import export

LONG = "waiting for this long and very dull film to end , " * 12
TEXTS = [
    "a good film", "Bad, bad, bad.", "what a waste of life!", "fine", "", "I have never loved a book so much?",
    ("the plot is funny", "but the actor is not"), ("", "great"), LONG, "é ü 中文 😀", "x",
]  # fmt: skip
MAX_LENGTH = 62  # of the tiny checkpoints' tokenizers


def fast_export(checkpoint: Path, bundle: Path, **options: Any) -> ExportReport:
    """Export fp32 alone, judged on few texts."""
    return export(checkpoint, bundle, **{"variants": ["fp32"], "calibration": TEXTS, **options})


def encode(checkpoint: Path, texts: list[Any], **options: Any) -> dict[str, Any]:
    """Return what the checkpoint's tokenizer gives under transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return dict(tokenizer(texts, return_tensors="np", **options))


def pytorch_logits(checkpoint: Path, texts: list[Any]) -> np.ndarray:
    """Return the checkpoint's logits under PyTorch."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype="float32").eval()
    inputs = encode(checkpoint, texts, padding=True, truncation=True, max_length=MAX_LENGTH)
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
