"""BERT and the encoders that are BERT but for one thing: DistilBERT, RoBERTa, ELECTRA, ALBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torchless_export.reference.encoder import Encoder
from torchless_export.reference.operations import AttentionMask, Float32, Inputs, Int64
from torchless_export.reference.parameters import Parameters
from torchless_export.reference.post_norm import (
    Embeddings,
    LayerNames,
    LayerShape,
    PostNormLayer,
    absolute_positions,
    positions_without_padding,
)
from torchless_export.reference.settings import Settings

__all__ = ["ALBERT", "BERT", "ELECTRA", "DistilBERT", "RoBERTa"]

_BERT_NAMES = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
_DISTILBERT_NAMES = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)
_ALBERT_NAMES = LayerNames(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    attention_output="attention.dense",
    attention_norm="attention.LayerNorm",
    up="ffn",
    down="ffn_output",
    output_norm="full_layer_layer_norm",
)


class DistilBERT(Encoder):
    """Sanh, Debut, Chaumond, Wolf (2019), arXiv:1910.01108: BERT without token types."""

    prefix: ClassVar[str] = "distilbert"
    defaults: ClassVar[Mapping[str, Any]] = {
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "activation": "gelu",
        "max_position_embeddings": 512,
    }
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    }

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        self.hidden_size = size = settings.integer("dim")
        shape = LayerShape(
            hidden=size,
            heads=settings.heads("n_heads", size),
            intermediate=settings.integer("hidden_dim"),
            activation=settings.activation("activation"),
            epsilon=1e-12,
        )
        self._embeddings = Embeddings.read(parameters, settings, size, shape.epsilon, has_types=False)
        self._layers = [
            PostNormLayer.read(parameters.under(f"transformer.layer.{i}"), _DISTILBERT_NAMES, shape)
            for i in range(settings.layers("n_layers"))
        ]

    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden)."""
        x = self._embeddings(inputs, absolute_positions(inputs.input_ids))
        mask = AttentionMask(inputs.attention_mask)
        for layer in self._layers:
            x = layer(x, mask)
        return x


class BERT(Encoder):
    """Devlin, Chang, Lee, Toutanova (2019), arXiv:1810.04805. MiniLM is one."""

    prefix: ClassVar[str] = "bert"
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        shape = LayerShape.of(settings)
        self.hidden_size = shape.hidden
        self._embeddings = Embeddings.read(parameters, settings, shape.hidden, shape.epsilon)
        self._layers = [
            PostNormLayer.read(parameters.under(f"encoder.layer.{i}"), _BERT_NAMES, shape)
            for i in range(settings.layers("num_hidden_layers"))
        ]

    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden)."""
        x = self._embeddings(inputs, self._positions(inputs.input_ids))
        mask = AttentionMask(inputs.attention_mask)
        for layer in self._layers:
            x = layer(x, mask)
        return x

    def _positions(self, input_ids: Int64) -> Int64:
        return absolute_positions(input_ids)


class RoBERTa(BERT):
    """Liu et al. (2019), arXiv:1907.11692, and so XLM-RoBERTa and CamemBERT: BERT, its positions without padding."""

    prefix: ClassVar[str] = "roberta"
    defaults: ClassVar[Mapping[str, Any]] = {**BERT.defaults, "pad_token_id": 1}

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        super().__init__(settings, parameters)
        self._pad_id = settings.integer("pad_token_id", minimum=0)

    def _positions(self, input_ids: Int64) -> Int64:
        return positions_without_padding(input_ids, self._pad_id)


class ELECTRA(Encoder):
    """Clark, Luong, Le, Manning (2020), arXiv:2003.10555: BERT, its embeddings projected where they are narrower."""

    prefix: ClassVar[str] = "electra"
    defaults: ClassVar[Mapping[str, Any]] = {
        **BERT.defaults,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    }

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        shape, size = LayerShape.of(settings), settings.integer("embedding_size")
        self.hidden_size = shape.hidden
        self._embeddings = Embeddings.read(parameters, settings, size, shape.epsilon)
        self._project = parameters.linear("embeddings_project", size, shape.hidden) if size != shape.hidden else None
        self._layers = [
            PostNormLayer.read(parameters.under(f"encoder.layer.{i}"), _BERT_NAMES, shape)
            for i in range(settings.layers("num_hidden_layers"))
        ]

    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden)."""
        x = self._embeddings(inputs, absolute_positions(inputs.input_ids))
        if self._project is not None:
            x = self._project(x)
        mask = AttentionMask(inputs.attention_mask)
        for layer in self._layers:
            x = layer(x, mask)
        return x


class ALBERT(Encoder):
    """Lan et al. (2020), arXiv:1909.11942: BERT, its embeddings projected and its layers shared in groups."""

    prefix: ClassVar[str] = "albert"
    defaults: ClassVar[Mapping[str, Any]] = {
        **BERT.defaults,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
    }

    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        shape, size = LayerShape.of(settings), settings.integer("embedding_size")
        self.hidden_size = shape.hidden
        self._embeddings = Embeddings.read(parameters, settings, size, shape.epsilon)
        encoder = parameters.under("encoder")
        self._project = encoder.linear("embedding_hidden_mapping_in", size, shape.hidden)
        layers, groups = settings.layers("num_hidden_layers"), settings.layers("num_hidden_groups")
        shared = [
            [
                PostNormLayer.read(
                    encoder.under(f"albert_layer_groups.{group}.albert_layers.{i}"), _ALBERT_NAMES, shape
                )
                for i in range(settings.layers("inner_group_num"))
            ]
            for group in range(groups)
        ]
        # The division is rounded before it is cut, as in the original: for some numbers that changes the group.
        self._layers = [layer for i in range(layers) for layer in shared[int(i / (layers / groups))]]

    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden)."""
        x = self._project(self._embeddings(inputs, absolute_positions(inputs.input_ids)))
        mask = AttentionMask(inputs.attention_mask)
        for layer in self._layers:
            x = layer(x, mask)
        return x
