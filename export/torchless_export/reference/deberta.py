"""DeBERTa-v2 and v3: attention that tells what a token is from where it stands.

He, Liu, Gao, Chen (2021), arXiv:2006.03654; He, Gao, Chen (2021), arXiv:2111.09543. The score of a query and a key is
the sum of content to content, content to position and position to content, where a position is the key's distance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from torchless_export.reference.activation_functions import ActivationFunction
from torchless_export.reference.encoder import Encoder, FeedForward
from torchless_export.reference.operations import (
    AttentionMask,
    Bool,
    Float32,
    Inputs,
    Int64,
    LayerNorm,
    attend,
    split_heads,
)
from torchless_export.reference.parameters import Parameters
from torchless_export.reference.settings import Settings

__all__ = ["DeBERTaV2"]


class _Shape:
    """Sizes and options."""

    def __init__(self, settings: Settings) -> None:
        self.hidden = settings.integer("hidden_size")
        self.heads = settings.heads("num_attention_heads", self.hidden)
        self.intermediate = settings.integer("intermediate_size")
        self.layers = settings.layers("num_hidden_layers")
        self.activation = settings.activation("hidden_act")
        self.epsilon = settings.number("layer_norm_eps")
        self.terms = _position_terms(settings)
        self.relative = settings.flag("relative_attention")
        # Content to content counts too, and so does a term that has no positions to read.
        self.divisor = math.sqrt(self.hidden // self.heads * (1 + len(self.terms)))
        given = settings.integer("max_relative_positions", minimum=-1)
        self.furthest = given if given > 0 else settings.integer("max_position_embeddings")


def _position_terms(settings: Settings) -> tuple[str, ...]:
    """Return which of "c2p" and "p2c" are added to the scores."""
    given = settings.get("pos_att_type")
    terms = [name.strip() for name in given.lower().split("|")] if isinstance(given, str) else given or []
    if not isinstance(terms, list) or sorted(map(str, terms)) not in ([], ["c2p"], ["p2c"], ["c2p", "p2c"]):
        raise settings.refusal("pos_att_type", "only 'c2p' and 'p2c', each once")
    return tuple(terms)


class _Embeddings:
    """Words, and positions and types where the config wants them, projected, normalized; masked tokens are zero."""

    def __init__(self, settings: Settings, parameters: Parameters, shape: _Shape) -> None:
        under = parameters.under("embeddings")
        width = shape.hidden if settings.get("embedding_size") is None else settings.integer("embedding_size")
        types = settings.integer("type_vocab_size", minimum=0)
        rows = settings.integer("max_position_embeddings")
        self._words = under.embedding("word_embeddings", settings.integer("vocab_size"), width, "input_ids")
        self._types = under.embedding("token_type_embeddings", types, width, "token_type_ids") if types else None
        self._positions = (
            under.embedding("position_embeddings", rows, width, "position_ids")
            if settings.flag("position_biased_input")
            else None
        )
        self._project = under.linear("embed_proj", width, shape.hidden, bias=False) if width != shape.hidden else None
        self._norm = under.layer_norm("LayerNorm", shape.hidden, shape.epsilon)

    def __call__(self, inputs: Inputs) -> Float32:
        x = self._words(inputs.input_ids)
        if self._positions is not None:
            x += self._positions(np.arange(x.shape[1]))
        if self._types is not None:
            x += self._types(inputs.token_type_ids)
        if self._project is not None:
            x = self._project(x)
        return self._norm(x) * inputs.attention_mask[:, :, None]


class _Attention:
    """Disentangled self-attention; positions are projected by matrices of their own, or by those of the tokens."""

    def __init__(self, shape: _Shape, parameters: Parameters, positions: Float32 | None, *, share: bool) -> None:
        """Project the positions.

        Args:
            shape: the model's.
            parameters: the layer's.
            positions: (2 * span, hidden), of the buckets of distances from -span to span - 1; None: there are none.
            share: whether they are projected as tokens are.
        """
        hidden = shape.hidden
        self._shape = shape
        self._span = 0 if positions is None else len(positions) // 2
        self._query = parameters.linear("query_proj", hidden, hidden)
        self._key = parameters.linear("key_proj", hidden, hidden)
        self._value = parameters.linear("value_proj", hidden, hidden)
        # (heads, 2 * span, size), or None without the term.
        self._position_keys: Float32 | None = None
        self._position_queries: Float32 | None = None
        if positions is not None and "c2p" in shape.terms:
            project = self._key if share else parameters.linear("pos_key_proj", hidden, hidden)
            self._position_keys = split_heads(project(positions), shape.heads)
        if positions is not None and "p2c" in shape.terms:
            project = self._query if share else parameters.linear("pos_query_proj", hidden, hidden)
            self._position_queries = split_heads(project(positions), shape.heads)

    def __call__(self, x: Float32, mask: AttentionMask, buckets: Int64) -> Float32:
        """Return the context (batch, sequence, hidden).

        Args:
            x: hidden states (batch, sequence, hidden).
            mask: which query sees which key.
            buckets: (sequence, sequence): of the distance of each query (row) from each key.
        """
        query, key, value = (split_heads(f(x), self._shape.heads) for f in (self._query, self._key, self._value))
        columns = np.clip(buckets + self._span, 0, 2 * self._span - 1)

        def bias(queries: Float32, keys: Float32, rows: slice) -> Float32:
            total = np.zeros((*queries.shape[:2], keys.shape[1]), np.float32)
            if self._position_keys is not None:
                products = queries @ np.swapaxes(self._position_keys, -1, -2)
                total += _look_up(products, columns[rows])
            if self._position_queries is not None:
                # The distance is again the query's from the key: so in the published code, not in the paper's (4).
                products = keys @ np.swapaxes(self._position_queries, -1, -2)
                total += np.swapaxes(_look_up(products, columns[rows].T), -1, -2)
            total /= np.float32(self._shape.divisor)
            return total

        return attend(query, key, value, mask, scale=self._shape.divisor, bias=bias)


def _look_up(products: Float32, columns: Int64) -> Float32:
    """Return (heads, m, n): in row i, of `products` (heads, m, positions) what row i of `columns` (m, n) names."""
    return np.take_along_axis(products, columns[None, :, :], axis=-1)


class _Layer:
    def __init__(self, shape: _Shape, parameters: Parameters, attention: _Attention) -> None:
        hidden = shape.hidden
        self._attention = attention
        self._attention_output = parameters.linear("attention.output.dense", hidden, hidden)
        self._attention_norm = parameters.layer_norm("attention.output.LayerNorm", hidden, shape.epsilon)
        self._feed_forward = FeedForward(
            up=parameters.linear("intermediate.dense", hidden, shape.intermediate),
            activation=shape.activation,
            down=parameters.linear("output.dense", shape.intermediate, hidden),
        )
        self._output_norm = parameters.layer_norm("output.LayerNorm", hidden, shape.epsilon)

    def __call__(self, x: Float32, mask: AttentionMask, buckets: Int64) -> Float32:
        x = self._attention_norm(x + self._attention_output(self._attention(x, mask, buckets)))
        return self._output_norm(x + self._feed_forward(x))


class _Convolution:
    """A convolution over the embeddings, added to the first layer's output."""

    def __init__(self, settings: Settings, parameters: Parameters, shape: _Shape) -> None:
        self._kernel = settings.integer("conv_kernel_size")
        groups = settings.integer("conv_groups")
        if self._kernel % 2 == 0:
            raise settings.refusal("conv_kernel_size", "only odd ones")
        if shape.hidden % groups:
            raise settings.refusal("conv_groups", f"only divisors of the hidden size {shape.hidden}")
        weight = parameters.tensor("conv.weight", (shape.hidden, shape.hidden // groups, self._kernel))
        self._weights = np.split(weight, groups)
        self._bias = parameters.tensor("conv.bias", (shape.hidden,))
        self._activation: ActivationFunction = settings.activation("conv_act")
        self._norm: LayerNorm = parameters.layer_norm("LayerNorm", shape.hidden, shape.epsilon)

    def __call__(self, embedded: Float32, x: Float32, tokens: Bool) -> Float32:
        """Return (batch, sequence, hidden) for the embeddings and the first layer's output, both of that shape."""
        length, around = x.shape[1], self._kernel // 2
        padded = np.pad(embedded, ((0, 0), (around, around), (0, 0)))
        groups = np.split(padded, len(self._weights), axis=-1)
        convolved = np.concatenate(
            [
                sum(group[:, i : i + length] @ weight[:, :, i].T for i in range(self._kernel))
                for group, weight in zip(groups, self._weights, strict=True)
            ],
            axis=-1,
        )
        return self._norm(x + self._activation(convolved + self._bias)) * tokens[:, :, None]


class DeBERTaV2(Encoder):
    """Far distances share buckets, and a convolution may stand beside the first layer."""

    prefix: ClassVar[str] = "deberta"
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": False,
        "max_relative_positions": -1,
        "position_biased_input": True,
        "pos_att_type": None,
        "pooler_hidden_act": "gelu",
        "position_buckets": -1,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "conv_kernel_size": 0,
        "conv_groups": 1,
        "conv_act": "tanh",
    }

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        shape = _Shape(settings)
        self.hidden_size = shape.hidden
        _check_pooler(settings, shape)
        head_size = settings.get("attention_head_size")
        if head_size is not None and head_size != shape.hidden // shape.heads:
            raise settings.refusal("attention_head_size", "only the hidden size divided by the number of heads")
        self._embeddings = _Embeddings(settings, parameters, shape)
        encoder = parameters.under("encoder")
        self._furthest = shape.furthest
        self._buckets = settings.integer("position_buckets", minimum=-1) if shape.relative else -1
        positions = self._position_vectors(settings, encoder, shape) if shape.relative else None
        share = settings.flag("share_att_key")
        self._layers = []
        for i in range(shape.layers):
            under = encoder.under(f"layer.{i}")
            attention = _Attention(shape, under.under("attention.self"), positions, share=share)
            self._layers.append(_Layer(shape, under, attention))
        has_convolution = settings.integer("conv_kernel_size", minimum=0) > 0
        self._convolution = _Convolution(settings, encoder.under("conv"), shape) if has_convolution else None

    def _position_vectors(self, settings: Settings, encoder: Parameters, shape: _Shape) -> Float32:
        """Return (2 * span, hidden): the vector of each bucket."""
        span = self._buckets if self._buckets > 0 else shape.furthest
        if self._buckets > 0 and not 1 <= self._buckets // 2 < shape.furthest - 1:
            raise settings.refusal("position_buckets", f"only 2 to {2 * shape.furthest - 3}, or -1")
        vectors = encoder.tensor("rel_embeddings.weight", (2 * span, shape.hidden))
        norms = [name.strip() for name in str(settings.get("norm_rel_ebd")).lower().split("|")]
        if not set(norms) <= {"none", "layer_norm"}:
            raise settings.refusal("norm_rel_ebd", "only 'none' and 'layer_norm'")
        if "layer_norm" in norms:
            vectors = encoder.layer_norm("LayerNorm", shape.hidden, shape.epsilon)(vectors)
        return vectors

    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden)."""
        x = embedded = self._embeddings(inputs)
        mask = AttentionMask(inputs.attention_mask, masks_queries=True)
        buckets = _distances(x.shape[1])
        if self._buckets > 0:
            buckets = _logarithmic_buckets(buckets, self._buckets, self._furthest)
        for i, layer in enumerate(self._layers):
            x = layer(x, mask, buckets)
            if i == 0 and self._convolution is not None:
                x = self._convolution(embedded, x, inputs.attention_mask)
        return x


def _check_pooler(settings: Settings, shape: _Shape) -> None:
    size = settings.get("pooler_hidden_size")
    if size is not None and size != shape.hidden:
        raise settings.refusal("pooler_hidden_size", f"only the hidden size, {shape.hidden}")


def _distances(length: int) -> Int64:
    """Return (length, length): the position of the query (row) minus that of the key."""
    positions = np.arange(length)
    return positions[:, None] - positions[None, :]


def _logarithmic_buckets(distances: Int64, buckets: int, furthest: int) -> Int64:
    """Return the bucket of each distance, of the same shape and sign: He, Gao, Chen (2021), appendix A.

    Up to half of `buckets` it is the distance itself, from there on it grows with the logarithm, to reach `buckets`
    - 1 at `furthest` - 1. As in the original the logarithms are float32: on the edge of a bucket a digit decides.
    """
    exact = buckets // 2
    size = np.abs(distances)
    ratio = np.maximum(size, exact).astype(np.float32) / np.float32(exact)
    furthest_ratio = float(np.float32((furthest - 1) / exact))
    logarithm = np.log(ratio.astype(np.float64)).astype(np.float32) / np.float32(math.log(furthest_ratio))
    far = np.ceil(logarithm * np.float32(exact - 1)) + exact
    return np.where(size <= exact, distances, np.sign(distances) * far.astype(np.int64))
