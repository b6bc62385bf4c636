"""The original of an export: its tokenizer and its forward pass, which judge whatever is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torchless.errors import CheckpointError, InputError
from torchless_export import pytorch_reference
from torchless_export.checkpoint import Checkpoint
from torchless_export.parity import Arrays, Float32, Reference, TextInput
from torchless_export.reference import NumPyReference
from torchless_export.tokenizer import TokenizersReference, resolve


class Original(Reference, Protocol):
    """A reference that also says what the bundle's tokenizer is."""

    def save_tokenizer(self, folder: Path) -> Mapping[str, Any]:
        """Write the resolved `tokenizer.json` into `folder`, and beside it what Hugging Face tools look for.

        Returns:
            tokenizer_config.json with what a class adds to it: a checkpoint's own need not even name the pad token.
        """
        ...


class NumPyOriginal:
    """The checkpoint as NumPy and the tokenizers library alone compute it."""

    name = "numpy"

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read the checkpoint's tokenizer and weights.

        Raises:
            CheckpointError: an architecture, a setting or a tokenizer that only transformers knows; the line names it.
        """
        self._path = checkpoint.path
        self._resolved = resolve(checkpoint)
        self._tokenizer = TokenizersReference(checkpoint)
        self._model = NumPyReference(checkpoint)

    def save_tokenizer(self, folder: Path) -> Mapping[str, Any]:
        """Write the resolved `tokenizer.json` into `folder`, and beside it what Hugging Face tools look for."""
        (folder / "tokenizer.json").write_text(self._resolved.tokenizer_json, encoding="utf-8", newline="\n")
        for name, data in self._resolved.files.items():
            (folder / name).write_bytes(data)
        return self._resolved.config

    def encode(self, texts: Sequence[TextInput], max_length: int | None) -> Arrays:
        """Tokenize texts, cut to `max_length` tokens and padded: arrays (batch, sequence) int64."""
        return self._tokenizer.encode(texts, max_length)

    def forward(self, inputs: Arrays) -> Float32:
        """Return logits (batch, labels), or the last hidden state (batch, sequence, hidden), float32.

        Raises:
            CheckpointError: the tokenizer gives what the model has no row for.
        """
        try:
            return self._model.forward(inputs)
        except InputError as error:
            raise CheckpointError(
                f"{self._path}: the original fails on texts that judge: {error}; correct config.json or the "
                "tokenizer's files, or judge on texts that it can answer (--calibration)"
            ) from error


def open_original(checkpoint: Checkpoint) -> Original:
    """Open the checkpoint under PyTorch in float32 where that and transformers are installed, else in NumPy.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    if pytorch_reference.AVAILABLE:
        return pytorch_reference.PyTorchReference(checkpoint)
    return NumPyOriginal(checkpoint)


def answerable(original: Original) -> Callable[[TextInput], bool]:
    """Return a function that tells whether a text has any tokens: without, the original fails on it.

    Where the empty one has, it is special tokens, and all have.
    """

    def has_tokens(text: TextInput) -> bool:
        return original.encode([text], None)["input_ids"].size > 0

    return (lambda text: True) if has_tokens("") else has_tokens
