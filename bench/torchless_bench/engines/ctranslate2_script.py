"""CTranslate2's encoder, which ends at the last hidden state, and the classifier's head in NumPy after it.

`prepare` makes the directory: CTranslate2's own files, `head.npz` with the head's layers in their order (`weight0`,
`bias0`, ...; all but the last followed by the activation that `activation` names), tokenizer and config.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import ctranslate2
import numpy as np
from tokenizers import Tokenizer

DISTRIBUTIONS = ("ctranslate2", "tokenizers", "numpy")

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}


class Engine:
    """The directory `options["model"]` with weights of `options["compute_type"]`, one batch at a time."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        folder = options["model"]
        self._encoder = ctranslate2.Encoder(
            folder, device="cpu", compute_type=options["compute_type"], inter_threads=1, intra_threads=threads
        )
        with np.load(os.path.join(folder, "head.npz")) as head:
            self._layers = [(head[f"weight{i}"].T, head[f"bias{i}"]) for i in range(len(head.files) // 2)]
            self._activation = _ACTIVATIONS[str(head["activation"])]
        with open(os.path.join(folder, "checkpoint_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self._labels = {int(index): label for index, label in config["id2label"].items()}
        self._tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self._tokenizer.enable_truncation(config.get("max_position_embeddings", 512))
        self._tokenizer.no_padding()  # CTranslate2 pads by itself

    def forward(self, ids: list[list[int]]) -> Callable[[], Any]:
        """Return the encoder and the head on `ids`."""
        return lambda: self._logits(ids)

    def answer(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        """Return tokenizing, encoder and head over `texts`, batch by batch in their order."""
        starts = range(0, len(texts), batch_size)
        return lambda: [label for start in starts for label in self._classify(texts[start : start + batch_size])]

    def _classify(self, texts: list[str]) -> list[str]:
        logits = self._logits([encoding.ids for encoding in self._tokenizer.encode_batch(texts)])
        return [self._labels[int(index)] for index in logits.argmax(axis=1)]

    def _logits(self, ids: list[list[int]]) -> Any:
        state = np.asarray(self._encoder.forward_batch(ids).last_hidden_state)[:, 0]
        for weight, bias in self._layers[:-1]:
            state = self._activation(state @ weight + bias)
        weight, bias = self._layers[-1]
        return state @ weight + bias
