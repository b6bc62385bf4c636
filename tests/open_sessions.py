"""Sessions of a bundle's variants as they are opened on the CPU, and inputs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from torchless.bundle import Bundle
from torchless.devices import Device
from torchless.manifest import OutputSpec
from torchless.session import Session

CPU = Device("cpu")
LOGITS = OutputSpec("logits", "float32", ("batch", "labels"))
IDS = {"input_ids": "int64"}


def open_variant(bundle: Path, variant: str = "fp32", **options: Any) -> Session:
    """Open a variant of a bundle on the CPU."""
    opened_bundle = Bundle.open(bundle)
    described = opened_bundle.manifest.variants[variant]
    with opened_bundle.model(variant) as source:
        return Session(source, device=CPU, inputs=described.inputs, output=described.output, **options)


def inputs_of(*rows: list[int]) -> dict[str, np.ndarray]:
    """Return the inputs of these ids, all of one length."""
    ids = np.array(rows, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def batch(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random inputs for the sample: every text has a token, and padding on the right."""
    chance = np.random.default_rng(seed)
    mask = (np.arange(length) < chance.integers(1, length + 1, (rows, 1))).astype(np.int64)
    return {"attention_mask": mask, "input_ids": chance.integers(5, 900, mask.shape) * mask}
