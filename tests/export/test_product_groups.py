"""Groups of products: one for each activation, named by layer and role in every naming that exporters have."""

from __future__ import annotations

import pytest

from torchless_export.product_groups import group_products
from torchless_export.products import Product, Weights


def product(name: str, activation: str, k: int = 4, n: int = 4) -> Product:
    return Product(name, activation, Weights(f"{name}.weight"), k, n)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("bert.encoder.layer.0.attention.self.query:query/MatMul", "layer 0 query, key, value"),
        ("bert.encoder.layer.11.attention.output.dense/MatMul", "layer 11 attention output"),
        ("bert.encoder.layer.3.intermediate.dense/MatMul", "layer 3 feed-forward in"),
        ("bert.encoder.layer.3.output.dense/MatMul", "layer 3 feed-forward out"),
        ("distilbert.transformer.layer.1.attention.q_lin/MatMul", "layer 1 query, key, value"),
        ("distilbert.transformer.layer.1.attention.out_lin/MatMul", "layer 1 attention output"),
        ("/distilbert/transformer/layer.1/ffn/lin1/MatMul", "layer 1 feed-forward in"),
        ("/distilbert/transformer/layer.1/ffn/lin2/MatMul", "layer 1 feed-forward out"),
        ("mpnet.encoder.layer.2.attention.attn.o/MatMul", "layer 2 attention output"),
        ("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output/MatMul", "layer 0 feed-forward out"),
        ("model.layers.4.attn.Wqkv/MatMul", "layer 4 query, key, value"),
        ("model.layers.4.mlp.Wo/MatMul", "layer 4 feed-forward out"),
        ("classifier/MatMul", "embeddings"),  # nothing came before it
    ],
)
def test_names(name: str, wanted: str):
    assert [group.name for group in group_products([product(name, "x")])] == [wanted]


def test_one_activation_is_one_group():
    groups = group_products(
        [
            product("projection", "e"),
            product("layer.0.attention.query", "x"),
            product("layer.0.attention.key", "x", n=8),
            product("layer.0.attention.value", "first"),
            product("pooler", "p"),
            product("classifier", "c", n=2),
        ]
    )
    assert [(g.name, g.products, g.weights) for g in groups] == [
        ("embeddings", ("projection",), 16),
        ("layer 0 query, key, value", ("layer.0.attention.query", "layer.0.attention.key"), 48),
        ("layer 0 query, key, value (2)", ("layer.0.attention.value",), 16),
        ("head", ("pooler",), 16),
        ("head (2)", ("classifier",), 8),
    ]
    assert group_products([]) == ()
