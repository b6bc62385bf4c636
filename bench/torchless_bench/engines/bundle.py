"""torchless itself, on one variant of a bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
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

    def beside(self, text: str, tokenizer: bool) -> Callable[[], float]:
        """Return the pipeline on one string; what it returns is its seconds without ONNX Runtime's run.

        Those inside the tokenizers library count where `tokenizer` is true.
        """
        classify, session, texts = self._pipeline, self._pipeline._session, self._pipeline._tokenizer
        run, library = session._run, texts._library
        timed_run, timed_encode = _Timed(run), _Timed(library.encode_batch_fast)
        timed_library = SimpleNamespace(encode_batch_fast=timed_encode)

        def call() -> float:
            # Only meanwhile: other workloads call the same pipeline.
            session._run, texts._library = timed_run, timed_library
            timed_run.seconds = timed_encode.seconds = 0.0
            try:
                start = time.perf_counter()
                classify(text)
                seconds = time.perf_counter() - start
            finally:
                session._run, texts._library = run, library
            return seconds - timed_run.seconds - (0.0 if tokenizer else timed_encode.seconds)

        return call


class _Timed:
    """A function that knows how long its calls took, in seconds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = self._function(*arguments, **named)
        self.seconds += time.perf_counter() - start
        return result
