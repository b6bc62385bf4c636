"""A model's layers, read from the checkpoint by the names that transformers gives its tensors."""

from __future__ import annotations

from torchless_export.reference.operations import Embedding, Float32, LayerNorm, Linear
from torchless_export.weights import Weights

__all__ = ["Parameters"]

# Checkpoints converted from TensorFlow have the older names (transformers: `_fix_state_dict_key_on_load`).
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class Parameters:
    """The tensors under one part of the names: `parameters.under("encoder.layer.0").linear("output.dense", 64, 32)`."""

    def __init__(self, weights: Weights, prefix: str = "") -> None:
        self._weights = weights
        self._prefix = prefix

    def under(self, part: str) -> Parameters:
        """Return the tensors whose names go on with `part` and a dot."""
        return Parameters(self._weights, f"{self._prefix}{part}.")

    def base(self, prefix: str) -> Parameters:
        """Return the encoder's tensors: under `prefix` where a headed model was saved, else where these are."""
        start = f"{self._prefix}{prefix}."
        return self.under(prefix) if any(name.startswith(start) for name in self._weights.names) else self

    def tensor(self, name: str, shape: tuple[int, ...]) -> Float32:
        """Return the tensor as float32.

        Raises:
            CheckpointError: it is missing, of another shape, or holds what is not a finite number.
        """
        full = self._prefix + name
        if full not in self._weights:
            for new, old in _OLD_NAMES.items():
                older = full.removesuffix(new) + old
                if full.endswith(new) and older in self._weights:
                    full = older
        return self._weights.read(full, shape)

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> Linear:
        """Return the linear layer from `inputs` to `outputs` features."""
        return Linear(
            weight=self.tensor(f"{name}.weight", (outputs, inputs)),
            bias=self.tensor(f"{name}.bias", (outputs,)) if bias else None,
        )

    def layer_norm(self, name: str, size: int, epsilon: float, *, bias: bool = True) -> LayerNorm:
        """Return the layer normalization over `size` features."""
        return LayerNorm(
            weight=self.tensor(f"{name}.weight", (size,)),
            bias=self.tensor(f"{name}.bias", (size,)) if bias else None,
            epsilon=epsilon,
        )

    def embedding(self, name: str, rows: int, size: int, what: str) -> Embedding:
        """Return the table of `rows` vectors, looked up with `what`."""
        return Embedding(weight=self.tensor(f"{name}.weight", (rows, size)), what=what)
