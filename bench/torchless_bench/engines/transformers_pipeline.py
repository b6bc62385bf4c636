"""transformers with PyTorch: its pipeline, and the model's forward pass by itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
import transformers

DISTRIBUTIONS = ("transformers", "torch", "tokenizers", "numpy")


def problem(options: dict[str, Any]) -> str | None:
    """Say why there is no such GPU, or nothing to compile with."""
    if options.get("device", "cpu") != "cpu" and not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    if options.get("compile") and not any(map(shutil.which, ("g++", "clang++"))):
        return "torch.compile needs a C++ compiler, and there is no g++ or clang++"
    return None


class Engine:
    """The checkpoint in the directory `options["model"]`.

    `options` may have `dtype` (default float32), `device` (default cpu), and `compile`.
    """

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        folder, device = options["model"], torch.device(options.get("device", "cpu"))
        # Converted after loading, since the argument that says it has another name in every other version.
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        self._model = model.to(device, getattr(torch, options.get("dtype", "float32"))).eval()
        self._device = device
        if options.get("compile"):
            self._model.compile(dynamic=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._pipeline = transformers.pipeline(
            "text-classification", model=self._model, tokenizer=tokenizer, device=device
        )

    def forward(self, ids: list[list[int]]) -> Callable[[], Any]:
        """Return the model on `ids` in inference mode, the logits brought to the CPU."""
        array = torch.tensor(ids, device=self._device)
        mask, model = torch.ones_like(array), self._model

        def call() -> Any:
            with torch.inference_mode():
                return model(input_ids=array, attention_mask=mask).logits.float().cpu()

        return call

    def answer(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        """Return the pipeline on `texts`: one string where there is one, else the list in batches."""
        classify = self._pipeline
        if len(texts) == 1:
            return lambda: [a["label"] for a in classify(texts[0])]
        return lambda: [a["label"] for a in classify(texts, batch_size=batch_size, truncation=True)]
