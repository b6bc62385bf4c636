"""Products in groups that are treated alike: those that read one activation, named by what they do and their layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torchless_export.products import Product

__all__ = ["ProductGroup", "group_products"]

# Module names of the families that the builders know, and of the same models traced: the first that is found counts.
_ROLES = (
    ("attention output", r"attention\.output|out_lin|attention\.dense|attn\.(Wo|o)\b"),
    ("query, key, value", r"query|key|value|qkv|[qkv]_lin|[qkv]_proj|in_proj|attn\.[qkv]\b"),
    ("feed-forward out", r"lin2|mlp\.Wo|ffn_output|output\.dense"),
    ("feed-forward in", r"lin1|mlp\.Wi|ffn|intermediate"),
)
_LAYER = re.compile(r"layers?(?:_groups)?\.(\d+)")


@dataclass(frozen=True, slots=True)
class ProductGroup:
    """The products that read one activation.

    Attributes:
        name: "layer 0 feed-forward in"; unique.
        activation: the tensor they read.
        products: their names.
        weights: the elements of their matrices.
    """

    name: str
    activation: str
    products: tuple[str, ...]
    weights: int


def group_products(products: Sequence[Product]) -> tuple[ProductGroup, ...]:
    """Return the groups in graph order; what lies in no layer is "embeddings" before the first and "head" behind."""
    by_activation: dict[str, list[Product]] = {}
    for product in products:
        by_activation.setdefault(product.activation, []).append(product)
    groups: list[ProductGroup] = []
    used: dict[str, int] = {}
    for activation, members in by_activation.items():
        name = _name(members[0].name) or ("head" if groups and groups[-1].name != "embeddings" else "embeddings")
        used[name] = used.get(name, 0) + 1
        unique = name if used[name] == 1 else f"{name} ({used[name]})"
        weights = sum(product.k * product.n for product in members)
        groups.append(ProductGroup(unique, activation, tuple(product.name for product in members), weights))
    return tuple(groups)


def _name(product: str) -> str:
    """Return the group's name, "" where the product lies in no layer."""
    path = product.replace("/", ".")
    layer = _LAYER.search(path)
    role = next((role for role, pattern in _ROLES if re.search(pattern, path, re.IGNORECASE)), "product")
    return f"layer {layer[1]} {role}" if layer else ""
