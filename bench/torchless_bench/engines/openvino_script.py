"""OpenVINO on an ONNX file, with tokenizers and NumPy around it: what its tutorials do for one stream of requests.

Its CPU plugin computes in bfloat16 unasked where the processor can: the row says which precision it is held to.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
from tokenizers import Tokenizer

DISTRIBUTIONS = ("openvino", "tokenizers", "numpy")


def problem(options: dict[str, Any]) -> str | None:
    """Say that this processor does not compute in the precision asked for."""
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wanted = {"f32": "FP32", "bf16": "BF16"}[options["precision"]]
    return None if wanted in capabilities else f"OpenVINO does not compute in {wanted} on this processor"


class Engine:
    """`options["file"]` in the directory `options["model"]`, compiled for latency in `options["precision"]`."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        folder = options["model"]
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": options["precision"],
        }
        compiled = openvino.Core().compile_model(os.path.join(folder, options["file"]), "CPU", settings)
        self._names = [node.any_name for node in compiled.inputs]
        self._compiled = compiled
        self._own = threading.local()  # a request does one thing at a time
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self._labels = {int(index): label for index, label in config["id2label"].items()}
        self._tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self._tokenizer.enable_truncation(config.get("max_position_embeddings", 512))
        self._tokenizer.enable_padding(pad_id=config.get("pad_token_id") or 0)

    def forward(self, ids: list[list[int]]) -> Callable[[], Any]:
        """Return a request on `ids`."""
        array = np.array(ids, np.int64)
        made = {"input_ids": array, "attention_mask": np.ones_like(array), "token_type_ids": np.zeros_like(array)}
        inputs = {name: made[name] for name in self._names}
        request = self._compiled.create_infer_request()
        return lambda: request.infer(inputs)[0]

    def answer(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        """Return tokenizing, a request and the largest logit over `texts`, batch by batch in their order."""
        starts = range(0, len(texts), batch_size)
        return lambda: [label for start in starts for label in self._classify(texts[start : start + batch_size])]

    def _classify(self, texts: list[str]) -> list[str]:
        encodings = self._tokenizer.encode_batch(texts)
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        inputs = {
            name: np.array([getattr(encoding, columns[name]) for encoding in encodings], np.int64)
            for name in self._names
        }
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        logits = self._own.request.infer(inputs)[0]
        return [self._labels[int(index)] for index in logits.argmax(axis=1)]
