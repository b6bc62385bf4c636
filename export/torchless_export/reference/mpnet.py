"""MPNet: a bias for each distance between two tokens, shared by all layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from torchless_export.reference.bert import BERT
from torchless_export.reference.encoder import Encoder
from torchless_export.reference.operations import AttentionMask, Float32, Inputs, Int64
from torchless_export.reference.parameters import Parameters
from torchless_export.reference.post_norm import (
    Embeddings,
    LayerNames,
    LayerShape,
    PostNormLayer,
    positions_without_padding,
)
from torchless_export.reference.settings import Limits, Settings

__all__ = ["MPNet"]

_NAMES = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)


class MPNet(Encoder):
    """Song et al. (2020), arXiv:2004.09297. It has no token types."""

    prefix: ClassVar[str] = "mpnet"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{key: value for key, value in BERT.defaults.items() if key != "type_vocab_size"},
        "relative_attention_num_buckets": 32,
    }
    # transformers reads the table as if it had 32 rows, whatever the config says.
    limits: ClassVar[Limits] = {"relative_attention_num_buckets": (32,)}

    # transformers ignores the config's `pad_token_id` too.
    _PAD_ID = 1

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        shape = LayerShape.of(settings)
        self.hidden_size = shape.hidden
        self._embeddings = Embeddings.read(parameters, settings, shape.hidden, shape.epsilon, has_types=False)
        encoder = parameters.under("encoder")
        self._bias = encoder.tensor(
            "relative_attention_bias.weight", (settings.integer("relative_attention_num_buckets"), shape.heads)
        )
        self._layers = [
            PostNormLayer.read(encoder.under(f"layer.{i}"), _NAMES, shape)
            for i in range(settings.layers("num_hidden_layers"))
        ]

    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden)."""
        x = self._embeddings(inputs, positions_without_padding(inputs.input_ids, self._PAD_ID))
        mask = AttentionMask(inputs.attention_mask)
        positions = np.arange(inputs.input_ids.shape[1])

        def bias(queries: Float32, keys: Float32, rows: slice) -> Float32:
            distance = positions[None, :] - positions[rows, None]
            return np.moveaxis(self._bias[_distance_bucket(distance, len(self._bias))], -1, 0)

        for layer in self._layers:
            x = layer(x, mask, bias)
        return x


def _distance_bucket(distance: Int64, buckets: int, furthest: int = 128) -> Int64:
    """Return the bucket, from 0, of each distance (key's position minus query's), of the same shape.

    Half of the buckets are for keys ahead. In each half the first half are for one distance each, the rest grow
    logarithmically up to `furthest`: Raffel et al. (2020), arXiv:1910.10683, section 2.1. As in the original the
    logarithms are float32: on the edge of a bucket a digit decides.
    """
    half = buckets // 2
    exact = half // 2
    size = np.abs(distance)
    logarithm = np.log(np.maximum(size, 1) / exact).astype(np.float32) / np.float32(math.log(furthest / exact))
    far = exact + (logarithm * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(size < exact, size, np.minimum(far, half - 1))
    return np.where(distance > 0, half, 0) + bucket
