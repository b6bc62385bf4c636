"""DeBERTa's distances between tokens, as its config says them: which scores they enter, and their rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.errors import CheckpointError
from torchless_export.checkpoint import Checkpoint

__all__ = ["Distances", "read_distances"]

# A graph has the row of every distance, and with buckets nothing in the weights bounds their number.
_MOST_DISTANCES = 1 << 17
_MOST = 1 << 31


@dataclass(frozen=True, slots=True)
class Distances:
    """What DeBERTa's layers do beyond BERT's.

    Attributes:
        terms: products whose sum is a score; its divisor is the root of their number times the head size, whether
            distances enter or not (`DisentangledSelfAttention.forward`).
        to_position: a query's product with the position's key ("c2p") is one of them.
        to_content: a key's product with the position's query ("p2c") is one.
        shared: positions go through the content's products.
        normalized: the table's rows are normalized first; the norm may be there without a table.
        span: half the number of the table's rows.
        buckets: of the distances, 0 for none.
        furthest: from here on, all distances of one sign have one row.
        kernel, groups: of the convolution behind the first layer; a kernel of 0 is none.
    """

    terms: int
    to_position: bool
    to_content: bool
    shared: bool
    normalized: bool
    span: int
    buckets: int
    furthest: int
    kernel: int
    groups: int

    def rows(self) -> NDArray[np.int64]:
        """Return the table's row for each distance `query - key` from -furthest to furthest."""
        distance = np.arange(-self.furthest, self.furthest + 1)
        if self.buckets:
            distance = _log_buckets(distance, self.buckets, self.furthest)
        return np.clip(distance + self.span, 0, 2 * self.span - 1)


def read_distances(checkpoint: Checkpoint, sizes: Mapping[str, int], relative: bool) -> Distances:
    """Return what config.json says; `relative`: distances enter the scores at all.

    Raises:
        CheckpointError: a value of the wrong kind, or one that nothing here computes; the line names the key.
    """
    values = _Values(checkpoint)
    if values.config.get("attention_head_size", sizes["hidden"] // sizes["heads"]) != sizes["hidden"] // sizes["heads"]:
        raise values.refusal("attention_head_size", "hidden_size / num_attention_heads")
    if values.config.get("pooler_hidden_size", sizes["hidden"]) != sizes["hidden"]:
        raise values.refusal("pooler_hidden_size", f"hidden_size, {sizes['hidden']}")
    kinds = values.words("pos_att_type", ("c2p", "p2c"))
    buckets = max(0, values.integer("position_buckets", -1))
    furthest = values.integer("max_relative_positions", -1)
    if furthest < 1:
        furthest = sizes["positions"]
    if relative and buckets:
        if buckets < 4 or buckets % 2:
            raise values.refusal("position_buckets", "an even number, 4 or more; use --converter optimum")
        if not buckets // 2 < furthest - 1 < _MOST_DISTANCES:
            wanted = f"more than {buckets // 2 + 1}, and at most {_MOST_DISTANCES}"
            raise values.refusal("max_relative_positions", f"{wanted} (or below 1, and max_position_embeddings so)")
    kernel, groups = max(0, values.integer("conv_kernel_size", 0)), values.integer("conv_groups", 1)
    if kernel and kernel % 2 == 0:
        raise values.refusal("conv_kernel_size", "an odd number, or 0: others change the length of a text")
    if kernel and (groups < 1 or sizes["hidden"] % groups):
        raise values.refusal("conv_groups", f"a divisor of hidden_size, {sizes['hidden']}")
    return Distances(
        terms=1 + len(kinds),
        to_position=relative and "c2p" in kinds,
        to_content=relative and "p2c" in kinds,
        shared=values.flag("share_att_key"),
        normalized="layer_norm" in values.words("norm_rel_ebd", ("layer_norm",)),
        span=buckets or furthest,
        buckets=buckets,
        furthest=furthest,
        kernel=kernel,
        groups=groups,
    )


class _Values:
    """config.json, asked for values of one kind."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self._where = checkpoint.path / "config.json"

    def refusal(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: {key} is {self.config.get(key)!r:.80}, wanted {wanted}")

    def integer(self, key: str, default: int) -> int:
        value = self.config.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= _MOST:
            raise self.refusal(key, "a whole number")
        return value

    def flag(self, key: str) -> bool:
        value = self.config.get(key, False)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def words(self, key: str, known: tuple[str, ...]) -> set[str]:
        """Return which of the known words are there: in a list, or in a string between bars; "none" is no word."""
        value: Any = self.config.get(key)
        if isinstance(value, str):
            value = [word.strip() for word in value.lower().split("|")]
        found = [] if value is None else value
        if not isinstance(found, list) or any(word not in (*known, "none", "") for word in found):
            raise self.refusal(key, f"some of {', '.join(known)}, or none; use --converter optimum")
        return set(found).intersection(known)


def _log_buckets(distance: NDArray[np.int64], buckets: int, most: int) -> NDArray[np.int64]:
    """Return the bucket of each distance: half of them single distances, the rest in logarithmic steps up to `most`.

    In float32, as `make_log_bucket_position` computes it: where a distance falls on a step the rounding decides.
    """
    half = buckets // 2
    away = np.abs(distance)
    far = np.maximum(away, half).astype(np.float32) / np.float32(half)
    steps = np.log(far) / np.log(np.float32((most - 1) / half)) * np.float32(half - 1)
    return np.where(away <= half, distance, np.sign(distance) * (np.ceil(steps).astype(np.int64) + half))
