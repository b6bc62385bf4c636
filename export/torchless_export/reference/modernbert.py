"""ModernBERT: rotary positions, alternating local and global attention, a gated feed-forward network.

Warner et al. (2024), arXiv:2412.13663. Layers normalize before the residual; the embeddings are normalized already,
so the first layer's attention does not do it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchless_export.reference.activation_functions import ActivationFunction
from torchless_export.reference.encoder import Encoder
from torchless_export.reference.operations import (
    AttentionMask,
    Bool,
    Float32,
    Inputs,
    LayerNorm,
    Linear,
    attend,
    split_heads,
)
from torchless_export.reference.parameters import Parameters
from torchless_export.reference.settings import Limits, Settings, is_positive

__all__ = ["ModernBERT", "ModernBERTHead"]

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_POOLINGS = ("cls", "mean")


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    heads: int
    kind: str
    attention_norm: LayerNorm | None
    projections: Linear
    attention_output: Linear
    feed_forward_norm: LayerNorm
    up: Linear
    activation: ActivationFunction
    down: Linear

    def __call__(self, x: Float32, mask: AttentionMask, rotation: _Rotation) -> Float32:
        normalized = x if self.attention_norm is None else self.attention_norm(x)
        query, key, value = (split_heads(part, self.heads) for part in np.split(self.projections(normalized), 3, -1))
        context = attend(rotation(query), rotation(key), value, mask)
        x = x + self.attention_output(context)
        # GeGLU: Shazeer (2020), arXiv:2002.05202.
        activated, gate = np.split(self.up(self.feed_forward_norm(x)), 2, axis=-1)
        return x + self.down(self.activation(activated) * gate)


class _Rotation:
    """Rotary position embedding: Su et al. (2021), arXiv:2104.09864, feature i paired with feature i + size / 2."""

    def __init__(self, theta: float, size: int, length: int) -> None:
        # Rounded to float32 step by step as in the original: at position 8,000 the last digit of a frequency counts.
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        frequencies = np.float32(1) / np.power(theta, exponents.astype(np.float64)).astype(np.float32)
        angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
        self._cosine = np.cos(angles.astype(np.float64)).astype(np.float32)
        self._sine = np.sin(angles.astype(np.float64)).astype(np.float32)

    def __call__(self, x: Float32) -> Float32:
        """Rotate (batch, heads, sequence, size)."""
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate(
            [first * self._cosine - second * self._sine, second * self._cosine + first * self._sine], axis=-1
        )


class ModernBERT(Encoder):
    """The encoder of ModernBERT."""

    prefix: ClassVar[str] = "model"
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "classifier_pooling": "cls",
        "classifier_bias": False,
        "classifier_activation": "gelu",
    }
    limits: ClassVar[Limits] = {"rope_scaling": (None,), "partial_rotary_factor": (1,), "head_dim": (None,)}
    aliases: ClassVar[Mapping[str, str]] = {"rope_theta": "global_rope_theta"}

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        self.hidden_size = hidden = settings.integer("hidden_size")
        heads = settings.heads("num_attention_heads", hidden)
        self._head_size = hidden // heads
        if self._head_size % 2:
            raise settings.refusal("num_attention_heads", "only heads of an even size: rotary positions need pairs")
        epsilon, norm_bias = settings.number("norm_eps"), settings.flag("norm_bias")
        intermediate, feed_forward_bias = settings.integer("intermediate_size"), settings.flag("mlp_bias")
        attention_bias = settings.flag("attention_bias")
        self._window = settings.integer("local_attention", minimum=0) // 2
        self._thetas = _rope_thetas(settings)
        embeddings = parameters.under("embeddings")
        self._words = embeddings.embedding("tok_embeddings", settings.integer("vocab_size"), hidden, "input_ids")
        self._norm = embeddings.layer_norm("norm", hidden, epsilon, bias=norm_bias)
        self._layers = []
        for i, kind in enumerate(_layer_types(settings)):
            under = parameters.under(f"layers.{i}")
            layer = _Layer(
                heads=heads,
                kind=kind,
                attention_norm=under.layer_norm("attn_norm", hidden, epsilon, bias=norm_bias) if i else None,
                projections=under.linear("attn.Wqkv", hidden, 3 * hidden, bias=attention_bias),
                attention_output=under.linear("attn.Wo", hidden, hidden, bias=attention_bias),
                feed_forward_norm=under.layer_norm("mlp_norm", hidden, epsilon, bias=norm_bias),
                up=under.linear("mlp.Wi", hidden, 2 * intermediate, bias=feed_forward_bias),
                activation=settings.activation("hidden_activation"),
                down=under.linear("mlp.Wo", intermediate, hidden, bias=feed_forward_bias),
            )
            self._layers.append(layer)
        self._final_norm = parameters.layer_norm("final_norm", hidden, epsilon, bias=norm_bias)

    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden)."""
        masks = {
            _GLOBAL: AttentionMask(inputs.attention_mask),
            _LOCAL: AttentionMask(inputs.attention_mask, window=self._window),
        }
        length = inputs.input_ids.shape[1]
        rotations = {kind: _Rotation(theta, self._head_size, length) for kind, theta in self._thetas.items()}
        x = self._norm(self._words(inputs.input_ids))
        for layer in self._layers:
            x = layer(x, masks[layer.kind], rotations[layer.kind])
        return self._final_norm(x)


def _layer_types(settings: Settings) -> list[str]:
    """Return the kind of each layer's attention: named by transformers 5, every nth global before."""
    layers = settings.layers("num_hidden_layers")
    every = settings.integer("global_attn_every_n_layers")
    counted = [_LOCAL if i % every else _GLOBAL for i in range(layers)]
    named = settings.get("layer_types")
    if named is None:
        return counted
    if not isinstance(named, list) or len(named) != layers or not all(kind in (_GLOBAL, _LOCAL) for kind in named):
        raise settings.refusal("layer_types", f"only {_GLOBAL!r} and {_LOCAL!r}, one for each of the {layers} layers")
    if settings.has("global_attn_every_n_layers") and named != counted:
        raise settings.refusal("layer_types", f"only what global_attn_every_n_layers, {every}, says too")
    return named


def _rope_thetas(settings: Settings) -> dict[str, float]:
    """Return the base of the angles for each kind: under `rope_parameters` from transformers 5 on."""
    thetas = {_GLOBAL: settings.number("global_rope_theta")}
    no_local = settings.get("local_rope_theta") is None
    thetas[_LOCAL] = thetas[_GLOBAL] if no_local else settings.number("local_rope_theta")
    given = settings.get("rope_parameters")
    if given is None:
        return thetas
    known = f"only 'rope_type': 'default' and a 'rope_theta' for {_GLOBAL!r} and {_LOCAL!r}, no others beside them"
    if not isinstance(given, dict) or not given.keys() <= thetas.keys():
        raise settings.refusal("rope_parameters", known)
    for kind, old_key in ((_GLOBAL, "global_rope_theta"), (_LOCAL, "local_rope_theta")):
        values = given.get(kind) or {}
        theta: Any = values.get("rope_theta", thetas[kind]) if isinstance(values, dict) else None
        if (
            not is_positive(theta)
            or not values.keys() <= {"rope_type", "rope_theta"}
            or values.get("rope_type", "default") != "default"
            or (settings.has(old_key) and theta != thetas[kind])
        ):
            raise settings.refusal("rope_parameters", known)
        thetas[kind] = float(theta)
    return thetas


class ModernBERTHead:
    """The first token's hidden state or the mean of all that are not masked, a layer, its norm, the classifier."""

    def __init__(self, settings: Settings, parameters: Parameters, encoder: Parameters, hidden_size: int) -> None:
        """Read the head's tensors, which lie beside those of the encoder.

        Raises:
            CheckpointError: one is missing or of another shape, or a setting is not implemented.
        """
        epsilon, norm_bias = settings.number("norm_eps"), settings.flag("norm_bias")
        self._pooling = settings.choice("classifier_pooling", _POOLINGS)
        self._dense = parameters.linear("head.dense", hidden_size, hidden_size, bias=settings.flag("classifier_bias"))
        self._activation = settings.activation("classifier_activation")
        self._norm = parameters.layer_norm("head.norm", hidden_size, epsilon, bias=norm_bias)
        self._classifier = parameters.linear("classifier", hidden_size, settings.labels)

    def __call__(self, hidden: Float32, attention_mask: Bool) -> Float32:
        """Return the logits (batch, labels) for hidden states (batch, sequence, hidden)."""
        if self._pooling == "mean":
            counts = attention_mask.sum(axis=1, keepdims=True)
            sums = np.sum(hidden * attention_mask[:, :, None], axis=1, dtype=np.float64)
            pooled = (sums / counts).astype(np.float32)
        else:
            pooled = hidden[:, 0]
        return self._classifier(self._norm(self._activation(self._dense(pooled))))
