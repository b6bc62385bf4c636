"""optimum's ONNX Runtime model: in transformers' pipeline, and its forward pass by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime
import torch
import transformers
from optimum.onnxruntime import ORTModelForSequenceClassification

DISTRIBUTIONS = ("optimum", "optimum-onnx", "transformers", "torch", "onnxruntime", "onnxruntime-gpu", "tokenizers")


def problem(options: dict[str, Any]) -> str | None:
    """Say why there is no such GPU: optimum needs PyTorch's CUDA build for its tensors, and ONNX Runtime's."""
    if options.get("device", "cpu") == "cpu":
        return None
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the installed onnxruntime is the CPU package"
    return None if torch.cuda.is_available() else "PyTorch finds no CUDA GPU"


class Engine:
    """`options["file"]` in the directory `options["model"]` on `options["device"]`, all defaults but the threads."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        folder, device = options["model"], torch.device(options.get("device", "cpu"))
        provider = "CPUExecutionProvider" if device.type == "cpu" else "CUDAExecutionProvider"
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = threads
        self._model = ORTModelForSequenceClassification.from_pretrained(
            folder,
            file_name=options["file"],
            session_options=session_options,
            provider=provider,
            provider_options={"device_id": device.index or 0} if device.type == "cuda" else None,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._pipeline = transformers.pipeline(
            "text-classification", model=self._model, tokenizer=tokenizer, device=device
        )

    def forward(self, ids: list[list[int]]) -> Callable[[], Any]:
        """Return the model on `ids`, which it takes as PyTorch tensors, as in the pipeline; logits on the CPU."""
        array = torch.tensor(ids, device=self._model.device)
        mask, model = torch.ones_like(array), self._model
        return lambda: model(input_ids=array, attention_mask=mask).logits.cpu()

    def answer(self, texts: list[str], batch_size: int) -> Callable[[], Any]:
        """Return the pipeline on `texts`: one string where there is one, else the list in batches."""
        classify = self._pipeline
        if len(texts) == 1:
            return lambda: [a["label"] for a in classify(texts[0])]
        return lambda: [a["label"] for a in classify(texts, batch_size=batch_size, truncation=True)]
