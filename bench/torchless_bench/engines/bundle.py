"""torchless itself, on one variant of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import torchless
from torchless.devices import parse_device
from torchless.pipelines.factory import open_bundle
from torchless.session import cuda_problem

DISTRIBUTIONS = ("torchless", "tokenizers", "onnxruntime", "onnxruntime-gpu", "numpy")


def problem(options: dict[str, Any]) -> str | None:
    """Say why the variant or the device is not to be had."""
    variants = open_bundle(options["model"]).manifest.variants
    if options.get("variant") not in (None, *variants):
        return f"the bundle has no variant {options['variant']}, only {', '.join(variants)}"
    device = parse_device(options["device"])
    return cuda_problem(device.index) if device.kind == "cuda" else None


def files(options: dict[str, Any]) -> list[str]:
    """Return the files that are opened: the variant's own, the tokenizer, the settings and the manifest."""
    bundle = open_bundle(options["model"])
    variants = bundle.manifest.variants
    name = options.get("variant") or next(iter(variants))
    of_variants = {file for variant in variants.values() for file in variant.files} - set(variants[name].files)
    return [str(path) for path in bundle.path.iterdir() if path.is_file() and path.name not in of_variants]


class Engine:
    """One open pipeline; `options` are `model`, `variant`, `device` and `profile` of `torchless.pipeline`."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        self._pipeline: Any = torchless.pipeline(
            model=options["model"],
            variant=options.get("variant"),
            device=options["device"],
            profile=options.get("profile", "latency"),
            threads=threads,
        )

    def forward(self, ids: list[list[int]]) -> Callable[[], Any]:
        """Return `pipeline.forward` on `ids`."""
        array = np.array(ids, np.int64)
        made = {
            "input_ids": array,
            "attention_mask": np.ones_like(array),
            "token_type_ids": np.zeros_like(array),
        }
        inputs = {name: made[name] for name in self._pipeline.tokenizer_spec.inputs}
        run = self._pipeline.forward
        return lambda: run(inputs)

    def answer(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        """Return the pipeline on `texts`: one string where there is one, else the list."""
        classify = self._pipeline
        if len(texts) == 1:
            return lambda: [a["label"] for a in classify(texts[0])]
        return lambda: [a["label"] for a in classify(texts, batch_size=batch_size, truncation=True)]
