"""What an architecture is made of: the roles that tensors play, as the rows of `families` name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Convolution",
    "Disentangled",
    "Embeddings",
    "Family",
    "Head",
    "Layer",
    "Linear",
    "Norm",
    "Setting",
    "Table",
]


@dataclass(frozen=True, slots=True)
class Linear:
    """`path.weight` (out, into) and `path.bias` (out,); `into` and `out` name sizes.

    Attributes:
        times: several such matrices in one tensor, one after the other along `out`.
        bias: the flag that says whether there is a bias; "" for always, None for never.
    """

    path: str
    into: str = "hidden"
    out: str = "hidden"
    times: int = 1
    bias: str | None = ""


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalization: `path.weight` and `path.bias`, of `size`; `bias` as in `Linear`."""

    path: str
    size: str = "hidden"
    bias: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """`path.weight` (rows, width); `when` is the flag that says whether it is there, "" for always."""

    path: str
    rows: str
    width: str = "hidden"
    when: str = ""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What tokens become before the first layer.

    Attributes:
        word, position, token_type, norm: summed, then normalized.
        projection: from the tables' width to the model's, where the two sizes differ; `always` there in ALBERT.
        projected_first: before the normalization instead of behind it.
        count_from_pad: positions count the ids that are not the pad token's, from its id + 1 (fairseq's way), and
            pad tokens have that of their id; else they count columns from 0.
    """

    word: Table
    norm: Norm
    position: Table | None = None
    token_type: Table | None = None
    projection: Linear | None = None
    always_projected: bool = False
    projected_first: bool = False
    count_from_pad: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer; paths below `path`.

    Attributes:
        path: the layer's place; {layer} its number, {group} and {inner} for layers that share their weights in groups.
        query, key, value: the three products, or `qkv`: one tensor of all three.
        up: into the feed-forward network's width; of two matrices, the second gates what the first gives (GeGLU).
        norm_first: norms stand before attention and feed-forward network instead of after the sums (Xiong et al. 2020);
            the first layer has none before its attention, since the embeddings end in one.
    """

    path: str
    attended: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm
    query: Linear | None = None
    key: Linear | None = None
    value: Linear | None = None
    qkv: Linear | None = None
    norm_first: bool = False


@dataclass(frozen=True, slots=True)
class Convolution:
    """Over the sequence (DeBERTa): `path.weight` (hidden, hidden / groups, kernel) and `path.bias` (hidden,).

    What it makes of the embeddings is activated, added to what the first layer gives, and normalized by `norm`.
    """

    path: str
    norm: Norm


@dataclass(frozen=True, slots=True)
class Disentangled:
    """Attention whose scores also have products of content and distance (He et al. 2021, "DeBERTa").

    Attributes:
        table: a row for each distance, or bucket of distances; normalized by `norm`.
        key, query: each layer's products of those rows, unless it takes the content's; paths as in `Layer`.
        convolution: behind the first layer.
    """

    table: Table
    norm: Norm
    key: Linear
    query: Linear
    convolution: Convolution


@dataclass(frozen=True, slots=True)
class Head:
    """What comes after the encoder, for classification.

    Attributes:
        steps: dense layers, each with the activation behind it, "" for none, or the name of a setting that says; and
            norms. A path that starts with "." is below the encoder's prefix.
        reads: "first": only the first token's last hidden state; or the name of a setting that may say "mean": the
            mean over all tokens.
    """

    steps: tuple[tuple[Linear | Norm, str], ...]
    reads: str = "first"


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a value stands in config.json: the keys that transformers takes, and its default where none is there.

    The default's type says what is wanted: int a size, float a number below 1, bool a flag, str an activation, or one
    of `choices`. Where no key is there, a size may be that of another setting before it, `same_as`.
    """

    keys: tuple[str, ...]
    default: int | float | bool | str
    choices: tuple[str, ...] = ()
    same_as: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        prefix: before every encoder tensor of a checkpoint with a head; a bare model's have none.
        roots: the encoder's tensors start with one of these; one among them that nothing reads is refused.
        settings: every value read from config.json.
        fixed: key -> the values under which the arithmetic is the one built here; a key that is absent passes.
        final_norm: after the last layer.
        rotary: positions turn queries and keys (Su et al. 2021), with a window in some layers (ModernBERT).
        relative_bias: a table (buckets, heads) of biases by distance that all layers share (MPNet).
        disentangled: DeBERTa's attention; there padding also has no embedding, and its queries see all tokens evenly.
        token_types: the family's own tokenizer gives token type ids.
        ignored: suffixes of tensors that hold no weights.
    """

    prefix: str
    roots: tuple[str, ...]
    settings: Mapping[str, Setting]
    embeddings: Embeddings
    layer: Layer
    head: Head
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    final_norm: Norm | None = None
    rotary: bool = False
    relative_bias: Table | None = None
    disentangled: Disentangled | None = None
    token_types: bool = False
    ignored: tuple[str, ...] = ("position_ids", "token_type_ids")
