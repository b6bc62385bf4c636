"""What a careful person writes with tokenizers, ONNX Runtime and NumPy and no torchless: all defaults but the threads.

ONNX Runtime's threads spin after each run, batches are cut in the order of the texts and padded to their longest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

DISTRIBUTIONS = ("tokenizers", "onnxruntime", "onnxruntime-gpu", "numpy")


class Engine:
    """A session on `options["file"]` in the directory `options["model"]`, which holds `tokenizer.json` too."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        folder = options["model"]
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            os.path.join(folder, options["file"]), session_options, providers=["CPUExecutionProvider"]
        )
        self._names = [node.name for node in self._session.get_inputs()]
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self._labels = {int(index): label for index, label in config["id2label"].items()}
        self._tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self._tokenizer.enable_truncation(config.get("max_position_embeddings", 512))
        self._tokenizer.enable_padding(pad_id=config.get("pad_token_id") or 0)

    def forward(self, ids: list[list[int]]) -> Callable[[], Any]:
        """Return a run of the session on `ids`."""
        array = np.array(ids, np.int64)
        made = {"input_ids": array, "attention_mask": np.ones_like(array), "token_type_ids": np.zeros_like(array)}
        inputs = {name: made[name] for name in self._names}
        run = self._session.run
        return lambda: run(None, inputs)[0]

    def answer(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        """Return tokenizing, running and softmax over `texts`, batch by batch in their order."""
        starts = range(0, len(texts), batch_size)
        encode, run = self._tokenizer.encode_batch, self._session.run
        return lambda: [
            label for start in starts for label in self._classify(texts[start : start + batch_size], encode, run)
        ]

    def beside(self, text: str, tokenizer: bool) -> Callable[[], float]:
        """Return the same on one text; what it returns is its seconds without ONNX Runtime's run.

        Those inside the tokenizers library count where `tokenizer` is true.
        """
        encode, run = _Timed(self._tokenizer.encode_batch), _Timed(self._session.run)

        def call() -> float:
            encode.seconds = run.seconds = 0.0
            start = time.perf_counter()
            self._classify([text], encode, run)
            return time.perf_counter() - start - run.seconds - (0.0 if tokenizer else encode.seconds)

        return call

    def _classify(self, texts: list[str], encode: Callable[..., Any], run: Callable[..., Any]) -> list[str]:
        encodings = encode(texts)
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        inputs = {
            name: np.array([getattr(encoding, columns[name]) for encoding in encodings], np.int64)
            for name in self._names
        }
        logits = run(None, inputs)[0]
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = shifted / shifted.sum(axis=1, keepdims=True)
        return [self._labels[int(index)] for index in scores.argmax(axis=1)]


class _Timed:
    """A function that knows how long its calls took, in seconds."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = self._function(*arguments)
        self.seconds += time.perf_counter() - start
        return result
