"""The table of the families, and the reference that looks a checkpoint's up in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchless.errors import CheckpointError, InputError
from torchless_export.checkpoint import Checkpoint
from torchless_export.reference.activation_functions import ACTIVATION_FUNCTIONS
from torchless_export.reference.bert import ALBERT, BERT, ELECTRA, DistilBERT, RoBERTa
from torchless_export.reference.deberta import DeBERTaV2
from torchless_export.reference.encoder import Encoder, FirstTokenHead, Head
from torchless_export.reference.modernbert import ModernBERT, ModernBERTHead
from torchless_export.reference.mpnet import MPNet
from torchless_export.reference.operations import Inputs
from torchless_export.reference.parameters import Parameters
from torchless_export.reference.settings import Settings
from torchless_export.weights import Weights

__all__ = ["FAMILIES", "Family", "NumPyReference"]

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
ReadHead = Callable[[Settings, Parameters, Parameters, int], Head]

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture.

    Attributes:
        encoder: what gives the hidden states.
        head: reads what gives the logits, from the settings, all parameters, those of the encoder, the hidden size.
    """

    encoder: type[Encoder]
    head: ReadHead


def _first_token(
    dense: str, classifier: str, *, activation: str = "", activation_key: str = "", in_encoder: bool = False
) -> ReadHead:
    """Return what reads a head on the first token.

    Args:
        dense: the name of its first layer.
        classifier: the name of its second.
        activation: the function between them; or
        activation_key: the config's key that names it.
        in_encoder: whether `dense` is saved with the encoder.
    """

    def read(settings: Settings, parameters: Parameters, encoder: Parameters, hidden_size: int) -> Head:
        return FirstTokenHead(
            dense=(encoder if in_encoder else parameters).linear(dense, hidden_size, hidden_size),
            activation=settings.activation(activation_key) if activation_key else ACTIVATION_FUNCTIONS[activation],
            classifier=parameters.linear(classifier, hidden_size, settings.labels),
        )

    return read


_ROBERTA = Family(RoBERTa, _first_token("classifier.dense", "classifier.out_proj", activation="tanh"))

FAMILIES: Mapping[str, Family] = {
    "albert": Family(ALBERT, _first_token("pooler", "classifier", activation="tanh", in_encoder=True)),
    "bert": Family(BERT, _first_token("pooler.dense", "classifier", activation="tanh", in_encoder=True)),
    "camembert": _ROBERTA,
    "deberta-v2": Family(DeBERTaV2, _first_token("pooler.dense", "classifier", activation_key="pooler_hidden_act")),
    "distilbert": Family(DistilBERT, _first_token("pre_classifier", "classifier", activation="relu")),
    "electra": Family(ELECTRA, _first_token("classifier.dense", "classifier.out_proj", activation="gelu")),
    "modernbert": Family(ModernBERT, ModernBERTHead),
    "mpnet": Family(MPNet, _first_token("classifier.dense", "classifier.out_proj", activation="tanh")),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""The config's `model_type` -> what computes it."""


class NumPyReference:
    """The checkpoint's forward pass in NumPy."""

    name = "numpy"

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read the checkpoint's weights, as float32.

        Raises:
            CheckpointError: an architecture, a task or a setting that is not implemented, or a tensor that is missing
                or of another shape; the line names it.
        """
        file, task = checkpoint.path / "config.json", checkpoint.task.name
        family = FAMILIES.get(checkpoint.architecture)
        if family is None:
            raise CheckpointError(
                f"{file}: model_type is {checkpoint.architecture!r}, the NumPy reference knows {', '.join(FAMILIES)}; "
                "with torch and transformers installed PyTorch judges instead"
            )
        if task not in ("text-classification", "feature-extraction"):
            raise CheckpointError(
                f"{checkpoint.path}: the task is {task}, the NumPy reference knows text-classification and "
                "feature-extraction; with torch and transformers installed PyTorch judges instead"
            )
        settings = Settings(checkpoint, family.encoder.defaults, family.encoder.limits, family.encoder.aliases)
        with Weights(checkpoint) as weights:
            parameters = Parameters(weights)
            base = parameters.base(family.encoder.prefix)
            self._encoder = family.encoder(settings, base)
            self._head: Head | None = None
            if task == "text-classification":
                self._head = family.head(settings, parameters, base, self._encoder.hidden_size)

    def forward(self, inputs: Mapping[str, Int64]) -> Float32:
        """Run the model.

        Args:
            inputs: (batch, sequence) int64: `input_ids`; `attention_mask`, all ones if absent; `token_type_ids`, all
                zeros if absent, and ignored by models that have none.

        Returns:
            logits (batch, labels) for text-classification, the last hidden state (batch, sequence, hidden) for
            feature-extraction, float32. What overflows is infinite or not a number, as in PyTorch.

        Raises:
            InputError: an input that is unknown, of the wrong shape or type, or holds a value the model has no row for.
        """
        checked = _check(inputs)
        with np.errstate(over="ignore", invalid="ignore"):
            hidden = self._encoder(checked)
            return hidden if self._head is None else self._head(hidden, checked.attention_mask)


def _check(inputs: Mapping[str, Int64]) -> Inputs:
    for name, array in inputs.items():
        if name not in _INPUTS:
            raise InputError(f"{name}: unknown, a model takes {', '.join(_INPUTS)}")
        if array.ndim != 2 or array.dtype.kind not in "iu" or not array.size:
            raise InputError(f"{name} is {array.dtype} {list(array.shape)}, wanted int64 [batch, sequence], not empty")
    if "input_ids" not in inputs:
        raise InputError(f"input_ids: missing, only {', '.join(inputs) or 'nothing'} was given")
    ids = inputs["input_ids"]
    for name, array in inputs.items():
        if array.shape != ids.shape:
            raise InputError(f"{name} is {list(array.shape)}, input_ids {list(ids.shape)}; wanted one shape")
    mask = inputs.get("attention_mask", np.ones_like(ids))
    if not ((mask == 0) | (mask == 1)).all():
        raise InputError(f"attention_mask holds {mask.min()} to {mask.max()}, wanted 0 and 1")
    return Inputs(ids, mask.astype(np.bool_), inputs.get("token_type_ids", np.zeros_like(ids)))
