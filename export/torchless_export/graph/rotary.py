"""Rotary positions and windows, as ModernBERT's config says them in the words of transformers 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchless.errors import CheckpointError
from torchless_export.checkpoint import Checkpoint
from torchless_export.weights import Float32

__all__ = ["Rotary", "read_rotary", "rotations"]

# The tables have a row for each position, and nothing in the weights bounds their number.
_MOST_POSITIONS = 1 << 17
# Of layers that see all tokens, and of those that see a window (ModernBertConfig).
_KINDS = (("full_attention", "global_rope_theta", 160000.0), ("sliding_attention", "local_rope_theta", 10000.0))


@dataclass(frozen=True, slots=True)
class Rotary:
    """Of each layer whether it sees a window alone, and the bases of positions without and with one."""

    local: tuple[bool, ...]
    thetas: tuple[float, float]


def read_rotary(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> Rotary:
    """Return what config.json says.

    Raises:
        CheckpointError: rotary positions of another kind, or too many; the line names the key.
    """
    config, layers, size = checkpoint.config, sizes["layers"], sizes["hidden"] // sizes["heads"]

    def refuse(key: str, found: Any, wanted: str) -> CheckpointError:
        return CheckpointError(f"{checkpoint.path / 'config.json'}: {key} is {found!r:.80}, wanted {wanted}")

    if size % 2:
        raise refuse("num_attention_heads", sizes["heads"], "heads of an even width: rotary positions turn pairs")
    if sizes["positions"] > _MOST_POSITIONS:
        raise refuse("max_position_embeddings", sizes["positions"], f"at most {_MOST_POSITIONS}")
    if config.get("rope_scaling") is not None:
        raise refuse("rope_scaling", config["rope_scaling"], "null; use --converter optimum")
    every, types = config.get("global_attn_every_n_layers", 3), config.get("layer_types")
    if types is None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise refuse("global_attn_every_n_layers", every, "a whole number, 1 or more")
        types = [_KINDS[bool(layer % every)][0] for layer in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not {kind for kind, *_ in _KINDS}.issuperset(types):
        raise refuse("layer_types", types, f"{layers} of {' or '.join(kind for kind, *_ in _KINDS)}")
    thetas: list[float] = []
    for kind, key, default in _KINDS:
        theta = config.get(key, default)
        if theta is None:  # ModernBertAttention of 4.57: no base of their own
            theta = thetas[0] if thetas else None
        given = config.get("rope_parameters")
        if given is not None:
            own = given.get(kind) if isinstance(given, dict) else None
            if not isinstance(own, dict) or own.get("rope_type", "default") != "default" or len(own) > 2:
                raise refuse("rope_parameters", given, f"{kind} of rope_type 'default'; use --converter optimum")
            key, theta = "rope_parameters", own.get("rope_theta", theta)
        if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 < theta < 1e30:
            raise refuse(key, theta, "a base above 1")
        thetas.append(float(theta))
    return Rotary(tuple(kind == _KINDS[1][0] for kind in types), (thetas[0], thetas[1]))


def rotations(positions: int, size: int, theta: float) -> tuple[Float32, Float32]:
    """Return the cosines and sines of the angles by which pairs turn, each (positions, size / 2) float32.

    The angles are products in float32, as transformers takes them: at large positions the rounding shows.
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / np.power(np.float32(theta), exponents)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)
