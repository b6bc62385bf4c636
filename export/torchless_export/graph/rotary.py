"""Rotary positions and windows, as ModernBERT's config says them in the words of transformers 4 and 5.

Each run computes the angles of as many positions as its texts have tokens: there is no table that a text could be too
long for, as there is none in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchless.errors import CheckpointError
from torchless_export.checkpoint import Checkpoint
from torchless_export.graph.nodes import Graph
from torchless_export.graph.positions import Positions
from torchless_export.weights import Float32

__all__ = ["Rotary", "Rotations", "read_rotary"]

_FLOAT = 1  # onnx.TensorProto.FLOAT
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
        CheckpointError: rotary positions of another kind; the line names the key.
    """
    config, layers, size = checkpoint.config, sizes["layers"], sizes["hidden"] // sizes["heads"]

    def refuse(key: str, found: Any, wanted: str) -> CheckpointError:
        return CheckpointError(f"{checkpoint.path / 'config.json'}: {key} is {found!r:.80}, wanted {wanted}")

    if size % 2:
        raise refuse("num_attention_heads", sizes["heads"], "heads of an even width: rotary positions turn pairs")
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


class Rotations:
    """The angles by which one graph's queries and keys turn; what layers share is added once."""

    def __init__(self, graph: Graph, positions: Positions, size: int) -> None:
        """`size`: the width of a head, whose feature i is paired with feature i + size / 2."""
        self._graph = graph
        self._positions = positions
        self._size = size
        self._column = ""
        self._tables: dict[float, tuple[str, str]] = {}

    def tables(self, theta: float) -> tuple[str, str]:
        """Return the cosines and sines of the angles, each (sequence, size / 2), as `RotaryEmbedding` takes them.

        The angles are products in float32, as transformers takes them: at large positions the rounding shows.
        """
        if theta not in self._tables:
            graph, name = self._graph, f"rotary.{theta!r}"
            if not self._column:
                numbers = graph.add("Cast", self._positions.columns(), name="rotary", to=_FLOAT)
                self._column = graph.add("Unsqueeze", numbers, graph.ints(1), name="rotary")
            row = graph.constant(f"{name}.frequencies", lambda: _frequencies(self._size, theta)[None, :])
            angles = graph.add("Mul", self._column, row, name=name)
            self._tables[theta] = graph.add("Cos", angles, name=name), graph.add("Sin", angles, name=name)
        return self._tables[theta]


def _frequencies(size: int, theta: float) -> Float32:
    """Return what each pair turns by from one position to the next, (size / 2,) float32, rounded as transformers'."""
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies: Float32 = np.float32(1) / np.power(np.float32(theta), exponents)
    return frequencies
