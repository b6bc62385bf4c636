"""What a family is: an encoder, and a head on top of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torchless_export.reference.activation_functions import ActivationFunction
from torchless_export.reference.operations import Bool, Float32, Inputs, Linear
from torchless_export.reference.parameters import Parameters
from torchless_export.reference.settings import Limits, Settings

__all__ = ["Encoder", "FeedForward", "FirstTokenHead", "Head"]


class Encoder(ABC):
    """Token ids to hidden states.

    Attributes:
        prefix: what its tensors' names begin with where a headed model was saved (transformers: `base_model_prefix`).
        defaults: the values of the config's keys, as in transformers' class of the config.
        limits: keys that change the arithmetic, and the values of them that are implemented.
        aliases: other names of keys (transformers: `attribute_map`).
        hidden_size: the size of a hidden state.
    """

    prefix: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    limits: ClassVar[Limits] = {}
    aliases: ClassVar[Mapping[str, str]] = {}
    hidden_size: int

    @abstractmethod
    def __init__(self, settings: Settings, parameters: Parameters) -> None:
        """Read the encoder's tensors.

        Raises:
            CheckpointError: one is missing or of another shape, or a setting is not implemented.
        """

    @abstractmethod
    def __call__(self, inputs: Inputs) -> Float32:
        """Return the last hidden state (batch, sequence, hidden).

        Raises:
            InputError: an id or a position beyond its table.
        """


class Head(Protocol):
    """Hidden states to logits."""

    def __call__(self, hidden: Float32, attention_mask: Bool) -> Float32:
        """Return the logits (batch, labels) for hidden states (batch, sequence, hidden)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FirstTokenHead:
    """The first token's hidden state through a layer, its activation function, and the classifier."""

    dense: Linear
    activation: ActivationFunction
    classifier: Linear

    def __call__(self, hidden: Float32, attention_mask: Bool) -> Float32:
        """Return the logits (batch, labels) for hidden states (batch, sequence, hidden)."""
        return self.classifier(self.activation(self.dense(hidden[:, 0])))


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """The position-wise network: up, activation function, down."""

    up: Linear
    activation: ActivationFunction
    down: Linear

    def __call__(self, x: Float32) -> Float32:
        """Map (batch, sequence, hidden) to the same shape."""
        return self.down(self.activation(self.up(x)))
