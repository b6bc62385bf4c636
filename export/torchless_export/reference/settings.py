"""`config.json` as a forward pass reads it: typed, with transformers' defaults, and refused where it asks for more."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

from torchless.errors import CheckpointError
from torchless_export.checkpoint import Checkpoint
from torchless_export.reference.activation_functions import ACTIVATION_FUNCTIONS, ActivationFunction

__all__ = ["Limits", "Settings", "is_positive"]

Limits = Mapping[str, tuple[Any, ...]]

# Keys of any architecture that change the arithmetic, and the values that are computed here (or no such key).
_LIMITS: Limits = {
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "position_embedding_type": ("absolute",),
}
# Far above any model; a hostile config must not make a list of a billion layers.
_LARGEST = 1 << 31
_MOST_LAYERS = 1000


class Settings:
    """The values of `config.json`.

    Attributes:
        labels: how many the head has.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        defaults: Mapping[str, Any],
        limits: Limits,
        aliases: Mapping[str, str],
    ) -> None:
        """Check what the architecture's `limits` name.

        Args:
            checkpoint: whose config it is.
            defaults: the values of keys that it lacks, as in transformers' class of the config.
            limits: further keys, and the values of them that are implemented.
            aliases: other names that transformers takes for some keys.

        Raises:
            CheckpointError: a value that is not implemented.
        """
        self._file = checkpoint.path / "config.json"
        self._config = checkpoint.config
        self._defaults = defaults
        self.labels = len(checkpoint.labels)
        for key, values in {**_LIMITS, **limits}.items():
            if key in self._config and self._config[key] not in values:
                raise self.refusal(key, f"only {' or '.join(map(repr, values))}")
        for alias, key in aliases.items():
            if alias in self._config and self._config[alias] != self.get(key):
                raise CheckpointError(
                    f"{self._file}: {alias} is {self._config[alias]!r} and {key}, another name of the same, "
                    f"{self.get(key)!r}; keep one"
                )
        code = self._config.get("auto_map")
        if isinstance(code, dict) and any(name.startswith("AutoModel") for name in code):
            raise self.refusal("auto_map", "no code that comes with a checkpoint")

    def refusal(self, key: str, known: str) -> CheckpointError:
        """Return the error for a key whose value asks for what is not implemented; `known` says what is."""
        return CheckpointError(
            f"{self._file}: {key} is {self.get(key)!r}, the NumPy reference knows {known}; "
            "with torch and transformers installed PyTorch judges instead"
        )

    def has(self, key: str) -> bool:
        """Return whether the file itself has the key."""
        return key in self._config

    def get(self, key: str) -> Any:
        """Return the value as it stands, or the default."""
        return self._config.get(key, self._defaults.get(key))

    def integer(self, key: str, *, minimum: int = 1, maximum: int = _LARGEST) -> int:
        """Return a whole number.

        Raises:
            CheckpointError: something else, or one out of bounds.
        """
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._wrong(key, f"a whole number from {minimum} to {maximum}")
        return value

    def number(self, key: str) -> float:
        """Return a positive number.

        Raises:
            CheckpointError: something else.
        """
        value = self.get(key)
        if not is_positive(value):
            raise self._wrong(key, "a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return true or false.

        Raises:
            CheckpointError: something else.
        """
        value = self.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def choice(self, key: str, among: Collection[str]) -> str:
        """Return one of the names.

        Raises:
            CheckpointError: another.
        """
        value = self.get(key)
        if not isinstance(value, str) or value not in among:
            raise self.refusal(key, f"only {', '.join(among)}")
        return value

    def activation(self, key: str) -> ActivationFunction:
        """Return the activation function that the key names.

        Raises:
            CheckpointError: an unknown one.
        """
        return ACTIVATION_FUNCTIONS[self.choice(key, ACTIVATION_FUNCTIONS)]

    def layers(self, key: str) -> int:
        """Return the number of layers."""
        return self.integer(key, minimum=1, maximum=_MOST_LAYERS)

    def heads(self, key: str, hidden_size: int) -> int:
        """Return the number of attention heads.

        Raises:
            CheckpointError: the hidden size is not a multiple of it.
        """
        heads = self.integer(key)
        if hidden_size % heads:
            raise self._wrong(key, f"a divisor of the hidden size {hidden_size}")
        return heads

    def _wrong(self, key: str, wanted: str) -> CheckpointError:
        found = repr(self.get(key)) if key in self._config or key in self._defaults else "missing"
        return CheckpointError(f"{self._file}: {key} is {found}, wanted {wanted}; take that of the weights")


def is_positive(value: Any) -> bool:
    """Return whether a value from JSON is a positive number that float64 can hold."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value <= sys.float_info.max
