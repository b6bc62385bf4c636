"""Hidden states without their padding: the tokens of a batch laid end to end, (tokens, hidden).

For masks whose ones come first. The operators are ONNX Runtime's for CUDA alone; their shapes and meaning are those of
its sources (`contrib_ops/cuda/bert/remove_padding.cc`, `packed_multihead_attention.cc`, `restore_padding.cc`).
"""

from __future__ import annotations

from torchless_export.graph.nodes import MICROSOFT, Graph

__all__ = ["Packing"]


class Packing:
    """The layout of one graph's tokens: set by `remove`, read by the rest."""

    def __init__(self, graph: Graph, lengths: str) -> None:
        """Prepare to pack texts of `lengths` tokens, (batch,) int32, each 1 or more."""
        self._graph = graph
        self._lengths = lengths
        self._offsets = ""
        self._starts = ""

    def remove(self, x: str) -> str:
        """Return (batch, sequence, hidden) without its padding: (tokens, hidden)."""
        packed, self._offsets, self._starts, _ = self._graph.add_several(
            "RemovePadding", x, self._lengths, outputs=4, name="packing", domain=MICROSOFT
        )
        return packed

    def attend(self, query: str, key: str, value: str, *, heads: int, name: str) -> str:
        """Return the attention of each text's tokens to one another, all (tokens, hidden)."""
        return self._graph.add(
            "PackedMultiHeadAttention", query, key, value, "", self._offsets, self._starts, name=name,
            domain=MICROSOFT, num_heads=heads, scale=1.0,
        )  # fmt: skip

    def first(self, x: str) -> str:
        """Return the first token of each text: (batch, hidden) of (tokens, hidden)."""
        graph = self._graph
        # The last of the batch + 1 starts is the number of tokens.
        starts = graph.add("Slice", self._starts, graph.ints(0), graph.ints(-1), graph.ints(0), name="first_token")
        return graph.add("Gather", x, starts, name="first_token", axis=0)

    def restore(self, x: str, output: str = "") -> str:
        """Return (tokens, hidden) with zeros for padding: (batch, sequence, hidden), named `output`."""
        return self._graph.add("RestorePadding", x, self._offsets, name="packing", domain=MICROSOFT, output=output)
