"""Built graphs, texts for them, and what they give beside what transformers gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from torchless_export import graph
from torchless_export.checkpoint import Checkpoint
from torchless_export.graph.families import FAMILIES
from torchless_export.weights import Weights

Arrays = dict[str, NDArray[Any]]
COUNT_FROM_PAD = {name for name, family in FAMILIES.items() if family.embeddings.count_from_pad}
SMALL = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}


def built(checkpoint: Checkpoint, **options: Any) -> onnx.ModelProto:
    """Return the checkpoint's graph."""
    with Weights(checkpoint) as weights:
        return graph.build(checkpoint, weights, **options)


def run(model: onnx.ModelProto, inputs: Arrays, level: Any = None, dump: Path | None = None) -> NDArray[np.float32]:
    """Return what the graph gives, at a graph optimization level of ONNX Runtime; what it runs is written to `dump`."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    if dump is not None:
        options.optimized_model_filepath = str(dump)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})[0]


def texts(batch: int, length: int, mask: str, *, seed: int, pad: int, vocab: int, types: bool) -> Arrays:
    """Return random inputs whose mask is of one kind; every text has a token, as tokenizers give them."""
    chance = np.random.default_rng(seed)
    attention = np.ones((batch, length), dtype=np.int64)
    for row in attention[:: 1 if mask in ("one", "holes") else 2]:
        kept = int(chance.integers(1, length + 1))
        if mask == "right":
            row[kept:] = 0
        elif mask == "left":
            row[: length - kept] = 0
        elif mask == "one":
            row[:] = 0
            row[chance.integers(length)] = 1
        elif mask == "holes":
            row[chance.random(length) < 0.4] = 0
            row[chance.integers(length)] = 1
    ids = chance.integers(0, vocab, (batch, length))
    ids[(ids == pad) & (chance.random(ids.shape) < 0.8)] = vocab - 1
    inputs = {"input_ids": np.where(attention, ids, pad), "attention_mask": attention}
    if types:
        inputs["token_type_ids"] = chance.integers(0, 2, (batch, length))
    return inputs


def largest_length(checkpoint: Checkpoint) -> int:
    """Return how many tokens the position table has rows for."""
    positions = int(checkpoint.config["max_position_embeddings"])
    pad = 1 if checkpoint.architecture == "mpnet" else checkpoint.config.get("pad_token_id", 0)
    return positions - pad - 1 if checkpoint.architecture in COUNT_FROM_PAD else positions


def check(model: Any, inputs: Arrays, onnx_model: onnx.ModelProto, tolerance: float = 1e-5, **options: Any) -> None:
    """Assert that the graph gives what transformers gives; `tolerance` by the largest number where that is above 1."""
    names = {i.name for i in onnx_model.graph.input}
    want = model.answers({name: array for name, array in inputs.items() if name in names})
    got = run(onnx_model, inputs, **options)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, float(np.abs(want).max())))
