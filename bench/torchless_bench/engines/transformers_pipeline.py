"""transformers with PyTorch, in float32 on the CPU: its pipeline, and the model's forward pass by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

DISTRIBUTIONS = ("transformers", "torch", "tokenizers", "numpy")


class Engine:
    """The checkpoint in the directory `options["model"]`."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        folder = options["model"]
        # float() after loading, since the argument that says it has another name in every other version.
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._pipeline = transformers.pipeline(
            "text-classification", model=self._model, tokenizer=tokenizer, device=torch.device("cpu")
        )

    def forward(self, ids: list[list[int]]) -> Callable[[], Any]:
        """Return the model on `ids` in inference mode."""
        array = torch.tensor(ids)
        mask, model = torch.ones_like(array), self._model

        def call() -> Any:
            with torch.inference_mode():
                return model(input_ids=array, attention_mask=mask).logits

        return call

    def answer(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        """Return the pipeline on `texts`: one string where there is one, else the list in batches."""
        classify = self._pipeline
        if len(texts) == 1:
            return lambda: [a["label"] for a in classify(texts[0])]
        return lambda: [a["label"] for a in classify(texts, batch_size=batch_size, truncation=True)]
