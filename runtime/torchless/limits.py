"""How long a text may be: the model's position table, and where truncation cuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Their position ids begin after the pad token's: transformers' `create_position_ids_from_input_ids`.
_COUNT_FROM_PAD = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "lilt",
        "longformer",
        "luke",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
# MPNet's padding index is the constant 1, whatever its config says.
_PAD_CONSTANT = {"mpnet": 1}
# Rotary or relative positions: nothing is looked up by position.
_WITHOUT_TABLE = frozenset({"eurobert", "funnel", "modernbert", "nomic_bert", "t5", "xlnet"})
_TABLE_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length")


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens the model's position table holds, by its `config.json`; None: it has none."""
    kind = str(config.get("model_type"))
    if kind in _WITHOUT_TABLE:
        return None
    if kind in ("deberta", "deberta-v2") and config.get("position_biased_input") is False:
        return None
    sizes: list[int] = [config[key] for key in _TABLE_KEYS if isinstance(config.get(key), int)]
    if not sizes or sizes[0] < 1:
        return None
    if kind in _COUNT_FROM_PAD:
        pad = _PAD_CONSTANT.get(kind, config.get("pad_token_id"))
        return max(1, sizes[0] - 1 - (pad if isinstance(pad, int) else 1))
    return sizes[0]


def max_length(tokenizer_config: Mapping[str, Any], limit: int | None) -> int | None:
    """Return where `truncation=True` cuts: the tokenizer's `model_max_length`, bounded by the position table.

    transformers writes a huge number (int(1e30)) where a tokenizer knows no maximum.
    """
    given = tokenizer_config.get("model_max_length")
    known = int(given) if isinstance(given, int | float) and 1 <= given < 1 << 31 else None
    return min((length for length in (known, limit) if length is not None), default=None)
