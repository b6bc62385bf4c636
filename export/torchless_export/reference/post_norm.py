"""Layers that normalize after each residual, and the embeddings before them: BERT's, and those of its relatives.

A layer is `x = norm(x + attention(x)); x = norm(x + feed_forward(x))`, as in Vaswani et al. (2017), arXiv:1706.03762.
The families name its tensors differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from torchless_export.reference.activation_functions import ActivationFunction
from torchless_export.reference.encoder import FeedForward
from torchless_export.reference.operations import (
    AttentionMask,
    Embedding,
    Float32,
    Inputs,
    Int64,
    LayerNorm,
    Linear,
    ScoreBias,
    attend,
    split_heads,
)
from torchless_export.reference.parameters import Parameters
from torchless_export.reference.settings import Settings

__all__ = [
    "Embeddings",
    "LayerNames",
    "LayerShape",
    "PostNormLayer",
    "absolute_positions",
    "positions_without_padding",
]


@dataclass(frozen=True, slots=True)
class LayerNames:
    """What a family calls the tensors of a layer."""

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer's tensors are sized by, and its activation function."""

    hidden: int
    heads: int
    intermediate: int
    activation: ActivationFunction
    epsilon: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read a config that has BERT's keys."""
        hidden = settings.integer("hidden_size")
        return cls(
            hidden=hidden,
            heads=settings.heads("num_attention_heads", hidden),
            intermediate=settings.integer("intermediate_size"),
            activation=settings.activation("hidden_act"),
            epsilon=settings.number("layer_norm_eps"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PostNormLayer:
    """Attention, then the feed-forward network, each added to what it read and normalized."""

    heads: int
    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: LayerNorm
    feed_forward: FeedForward
    output_norm: LayerNorm

    @classmethod
    def read(cls, parameters: Parameters, names: LayerNames, shape: LayerShape) -> Self:
        """Read the layer's tensors.

        Raises:
            CheckpointError: one is missing or of another shape.
        """
        hidden = shape.hidden
        return cls(
            heads=shape.heads,
            query=parameters.linear(names.query, hidden, hidden),
            key=parameters.linear(names.key, hidden, hidden),
            value=parameters.linear(names.value, hidden, hidden),
            attention_output=parameters.linear(names.attention_output, hidden, hidden),
            attention_norm=parameters.layer_norm(names.attention_norm, hidden, shape.epsilon),
            feed_forward=FeedForward(
                up=parameters.linear(names.up, hidden, shape.intermediate),
                activation=shape.activation,
                down=parameters.linear(names.down, shape.intermediate, hidden),
            ),
            output_norm=parameters.layer_norm(names.output_norm, hidden, shape.epsilon),
        )

    def __call__(self, x: Float32, mask: AttentionMask, bias: ScoreBias | None = None) -> Float32:
        """Map hidden states (batch, sequence, hidden) to the same shape; `bias` is added to the scores."""
        query, key, value = (split_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        x = self.attention_norm(x + self.attention_output(attend(query, key, value, mask, bias=bias)))
        return self.output_norm(x + self.feed_forward(x))


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The normalized sum of the vectors of a token, of its type (but in DistilBERT and MPNet) and of its position."""

    words: Embedding
    types: Embedding | None
    positions: Embedding
    norm: LayerNorm

    @classmethod
    def read(
        cls, parameters: Parameters, settings: Settings, size: int, epsilon: float, *, has_types: bool = True
    ) -> Self:
        """Read the tables, whose vectors have `size` features.

        Raises:
            CheckpointError: one is missing or of another shape.
        """
        under = parameters.under("embeddings")
        rows = settings.integer("max_position_embeddings")
        return cls(
            words=under.embedding("word_embeddings", settings.integer("vocab_size"), size, "input_ids"),
            types=under.embedding("token_type_embeddings", settings.integer("type_vocab_size"), size, "token_type_ids")
            if has_types
            else None,
            positions=under.embedding("position_embeddings", rows, size, "position_ids"),
            norm=under.layer_norm("LayerNorm", size, epsilon),
        )

    def __call__(self, inputs: Inputs, positions: Int64) -> Float32:
        """Return (batch, sequence, size) for positions (batch or 1, sequence).

        Raises:
            InputError: an id or a position without a vector.
        """
        x = self.words(inputs.input_ids)
        if self.types is not None:
            x += self.types(inputs.token_type_ids)
        return self.norm(x + self.positions(positions))


def absolute_positions(input_ids: Int64) -> Int64:
    """Return (1, sequence): the positions from 0, whatever the tokens are."""
    return np.arange(input_ids.shape[1], dtype=np.int64)[None, :]


def positions_without_padding(input_ids: Int64, pad_id: int) -> Int64:
    """Return (batch, sequence): tokens counted from `pad_id` + 1, pad tokens left out and at `pad_id` themselves.

    What counts is the token's id and not the attention mask (transformers: `create_position_ids_from_input_ids`).
    """
    counts = input_ids != pad_id
    positions: Int64 = np.cumsum(counts, axis=1, dtype=np.int64) * counts + pad_id
    return positions
