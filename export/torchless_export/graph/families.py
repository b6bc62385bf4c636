"""The architectures, as data: which tensor plays which role, where positions come from, what the head reads.

Every row was written from the modelling code of transformers 4.57 and 5.x; paths are those of its state dicts, below
the family's prefix. Sizes are named, and looked up in the config (`settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torchless_export.graph.parts import (
    Convolution,
    Disentangled,
    Embeddings,
    Family,
    Head,
    Layer,
    Linear,
    Norm,
    Setting,
    Table,
)

__all__ = ["FAMILIES"]

_FIXED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({},),
    "quantization_config": (None,),
}


def _settings(**defaults: Any) -> dict[str, Setting]:
    """Return the settings under the names that most configs use, with a family's defaults."""
    keys = {
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate": "intermediate_size",
        "positions": "max_position_embeddings",
        "types": "type_vocab_size",
        "activation": "hidden_act",
        "eps": "layer_norm_eps",
        "pad": "pad_token_id",
        "embedding": "embedding_size",
        "groups": "num_hidden_groups",
        "inner": "inner_group_num",
        "buckets": "relative_attention_num_buckets",
    }
    return {name: Setting((keys[name],), default) for name, default in defaults.items()}


_BERT_SETTINGS = _settings(
    vocab=30522, hidden=768, layers=12, heads=12, intermediate=3072, positions=512, types=2, activation="gelu",
    eps=1e-12, pad=0,
)  # fmt: skip

_BERT = Family(
    prefix="bert.",
    roots=("embeddings.", "encoder."),
    settings=_BERT_SETTINGS,
    fixed=_FIXED,
    embeddings=Embeddings(
        word=Table("embeddings.word_embeddings", "vocab"),
        position=Table("embeddings.position_embeddings", "positions"),
        token_type=Table("embeddings.token_type_embeddings", "types"),
        norm=Norm("embeddings.LayerNorm"),
    ),
    layer=Layer(
        path="encoder.layer.{layer}",
        query=Linear("attention.self.query"),
        key=Linear("attention.self.key"),
        value=Linear("attention.self.value"),
        attended=Linear("attention.output.dense"),
        attention_norm=Norm("attention.output.LayerNorm"),
        up=Linear("intermediate.dense", out="intermediate"),
        down=Linear("output.dense", into="intermediate"),
        output_norm=Norm("output.LayerNorm"),
    ),
    head=Head(((Linear(".pooler.dense"), "tanh"), (Linear("classifier", out="labels"), ""))),
    token_types=True,
)

_ROBERTA = replace(
    _BERT,
    prefix="roberta.",
    settings=_BERT_SETTINGS | _settings(pad=1),
    embeddings=replace(_BERT.embeddings, count_from_pad=True),
    head=Head(((Linear("classifier.dense"), "tanh"), (Linear("classifier.out_proj", out="labels"), ""))),
    token_types=False,
)

_ELECTRA = replace(
    _BERT,
    prefix="electra.",
    roots=("embeddings.", "embeddings_project.", "encoder."),
    settings=_BERT_SETTINGS | _settings(hidden=256, heads=4, intermediate=1024, embedding=128),
    embeddings=Embeddings(
        word=Table("embeddings.word_embeddings", "vocab", "embedding"),
        position=Table("embeddings.position_embeddings", "positions", "embedding"),
        token_type=Table("embeddings.token_type_embeddings", "types", "embedding"),
        norm=Norm("embeddings.LayerNorm", "embedding"),
        projection=Linear("embeddings_project", into="embedding"),
    ),
    head=Head(((Linear("classifier.dense"), "gelu"), (Linear("classifier.out_proj", out="labels"), ""))),
)

_ALBERT = replace(
    _ELECTRA,
    prefix="albert.",
    roots=("embeddings.", "encoder."),
    settings=_settings(
        vocab=30000, hidden=4096, layers=12, heads=64, intermediate=16384, positions=512, types=2,
        activation="gelu_new", eps=1e-12, pad=0, embedding=128, groups=1, inner=1,
    ),
    embeddings=replace(
        _ELECTRA.embeddings,
        projection=Linear("encoder.embedding_hidden_mapping_in", into="embedding"),
        always_projected=True,
    ),
    layer=Layer(
        path="encoder.albert_layer_groups.{group}.albert_layers.{inner}",
        query=Linear("attention.query"),
        key=Linear("attention.key"),
        value=Linear("attention.value"),
        attended=Linear("attention.dense"),
        attention_norm=Norm("attention.LayerNorm"),
        up=Linear("ffn", out="intermediate"),
        down=Linear("ffn_output", into="intermediate"),
        output_norm=Norm("full_layer_layer_norm"),
    ),
    head=Head(((Linear(".pooler"), "tanh"), (Linear("classifier", out="labels"), ""))),
)  # fmt: skip

_DISTILBERT = Family(
    prefix="distilbert.",
    roots=("embeddings.", "transformer."),
    settings={
        "vocab": Setting(("vocab_size",), 30522),
        "hidden": Setting(("dim", "hidden_size"), 768),
        "layers": Setting(("n_layers", "num_hidden_layers"), 6),
        "heads": Setting(("n_heads", "num_attention_heads"), 12),
        "intermediate": Setting(("hidden_dim",), 3072),
        "positions": Setting(("max_position_embeddings",), 512),
        "activation": Setting(("activation",), "gelu"),
        "eps": Setting((), 1e-12),
    },
    fixed=_FIXED,
    embeddings=Embeddings(
        word=Table("embeddings.word_embeddings", "vocab"),
        position=Table("embeddings.position_embeddings", "positions"),
        norm=Norm("embeddings.LayerNorm"),
    ),
    layer=Layer(
        path="transformer.layer.{layer}",
        query=Linear("attention.q_lin"),
        key=Linear("attention.k_lin"),
        value=Linear("attention.v_lin"),
        attended=Linear("attention.out_lin"),
        attention_norm=Norm("sa_layer_norm"),
        up=Linear("ffn.lin1", out="intermediate"),
        down=Linear("ffn.lin2", into="intermediate"),
        output_norm=Norm("output_layer_norm"),
    ),
    head=Head(((Linear("pre_classifier"), "relu"), (Linear("classifier", out="labels"), ""))),
)

_MPNET = replace(
    _ROBERTA,
    prefix="mpnet.",
    settings=_settings(
        vocab=30527, hidden=768, layers=12, heads=12, intermediate=3072, positions=512, activation="gelu",
        eps=1e-12, buckets=32,
    )
    | {"pad": Setting((), 1)},  # whatever the config says: MPNetEmbeddings.padding_idx
    embeddings=replace(_ROBERTA.embeddings, token_type=None),
    layer=replace(
        _BERT.layer,
        query=Linear("attention.attn.q"),
        key=Linear("attention.attn.k"),
        value=Linear("attention.attn.v"),
        attended=Linear("attention.attn.o"),
        attention_norm=Norm("attention.LayerNorm"),
    ),
    relative_bias=Table("encoder.relative_attention_bias", "buckets", "heads"),
)  # fmt: skip

_MODERNBERT = Family(
    prefix="model.",
    roots=("embeddings.", "layers.", "final_norm."),
    settings={
        "vocab": Setting(("vocab_size",), 50368),
        "hidden": Setting(("hidden_size",), 768),
        "layers": Setting(("num_hidden_layers",), 22),
        "heads": Setting(("num_attention_heads",), 12),
        "intermediate": Setting(("intermediate_size",), 1152),
        "window": Setting(("local_attention",), 128),
        "activation": Setting(("hidden_activation",), "gelu"),
        "head_activation": Setting(("classifier_activation",), "gelu"),
        "pooling": Setting(("classifier_pooling",), "cls", ("cls", "mean")),
        "eps": Setting(("norm_eps",), 1e-5),
        "norm_bias": Setting(("norm_bias",), False),
        "attention_bias": Setting(("attention_bias",), False),
        "mlp_bias": Setting(("mlp_bias",), False),
        "head_bias": Setting(("classifier_bias",), False),
    },
    fixed=_FIXED,
    embeddings=Embeddings(
        word=Table("embeddings.tok_embeddings", "vocab"),
        norm=Norm("embeddings.norm", bias="norm_bias"),
    ),
    layer=Layer(
        path="layers.{layer}",
        qkv=Linear("attn.Wqkv", times=3, bias="attention_bias"),
        attended=Linear("attn.Wo", bias="attention_bias"),
        attention_norm=Norm("attn_norm", bias="norm_bias"),
        up=Linear("mlp.Wi", out="intermediate", times=2, bias="mlp_bias"),
        down=Linear("mlp.Wo", into="intermediate", bias="mlp_bias"),
        output_norm=Norm("mlp_norm", bias="norm_bias"),
        norm_first=True,
    ),
    final_norm=Norm("final_norm", bias="norm_bias"),
    head=Head(
        (
            (Linear("head.dense", bias="head_bias"), "head_activation"),
            (Norm("head.norm", bias="norm_bias"), ""),
            (Linear("classifier", out="labels"), ""),
        ),
        reads="pooling",
    ),
    rotary=True,
)

_DEBERTA_V2 = replace(
    _BERT,
    prefix="deberta.",
    settings=_settings(
        vocab=128100, hidden=1536, layers=24, heads=24, intermediate=6144, positions=512, types=0, activation="gelu",
        eps=1e-7,
    )
    | {
        "embedding": Setting(("embedding_size",), 0, same_as="hidden"),
        "position_biased": Setting(("position_biased_input",), True),
        "relative": Setting(("relative_attention",), False),
        "head_activation": Setting(("pooler_hidden_act",), "gelu"),
        "convolution_activation": Setting(("conv_act",), "tanh"),
    },
    embeddings=Embeddings(
        word=Table("embeddings.word_embeddings", "vocab", "embedding"),
        position=Table("embeddings.position_embeddings", "positions", "embedding", when="position_biased"),
        token_type=Table("embeddings.token_type_embeddings", "types", "embedding"),
        norm=Norm("embeddings.LayerNorm"),
        projection=Linear("embeddings.embed_proj", into="embedding", bias=None),
        projected_first=True,
    ),
    layer=replace(
        _BERT.layer,
        query=Linear("attention.self.query_proj"),
        key=Linear("attention.self.key_proj"),
        value=Linear("attention.self.value_proj"),
    ),
    disentangled=Disentangled(
        table=Table("encoder.rel_embeddings", "distances", when="relative"),
        norm=Norm("encoder.LayerNorm"),
        key=Linear("attention.self.pos_key_proj"),
        query=Linear("attention.self.pos_query_proj"),
        convolution=Convolution("encoder.conv.conv", norm=Norm("encoder.conv.LayerNorm")),
    ),
    head=Head(((Linear("pooler.dense"), "head_activation"), (Linear("classifier", out="labels"), ""))),
    # Checkpoints may hold a position table that a config with position_biased_input false does not read.
    ignored=(*_BERT.ignored, "position_embeddings.weight"),
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    "albert": _ALBERT,
    "bert": _BERT,
    "camembert": _ROBERTA,
    "deberta-v2": _DEBERTA_V2,
    "distilbert": _DISTILBERT,
    "electra": _ELECTRA,
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""`model_type` -> the family."""
