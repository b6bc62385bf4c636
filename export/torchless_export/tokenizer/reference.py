"""What judges token ids without transformers: the tokenizers library, its padding and truncation included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from torchless.errors import InputError
from torchless_export.checkpoint import Checkpoint
from torchless_export.tokenizer.resolution import load_tokenizer

TextInput = str | tuple[str, str]


class TokenizersReference:
    """The checkpoint's own tokenizer.json in the tokenizers library, set up in memory as transformers does.

    It reads the checkpoint, never the resolved file, and lets the library cut and pad (`enable_truncation`,
    `enable_padding`): what torchless saves, batches, cuts and pads by itself is judged against that.

    Attributes:
        name: "tokenizers".
        inputs: the tokenizer's `model_input_names`; `encode` gives ids and mask in any case.
    """

    name = "tokenizers"

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the checkpoint's tokenizer.

        Raises:
            CheckpointError: as `resolve`.
        """
        self._loaded = load_tokenizer(checkpoint)
        self.inputs = self._loaded.inputs

    def encode(self, texts: Sequence[TextInput], max_length: int | None) -> dict[str, NDArray[np.int64]]:
        """Tokenize texts, or pairs of texts as tuples, as one batch.

        Args:
            texts: at least one.
            max_length: tokens to keep of each, special ones included, by the strategy `longest_first`; None: all.

        Returns:
            `input_ids`, `attention_mask`, and `token_type_ids` if they are of `inputs`: (batch, sequence) int64,
            padded to the longest.

        Raises:
            InputError: several texts, and the tokenizer has no pad token.
        """
        loaded, backend = self._loaded, self._loaded.backend
        if max_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(max_length, strategy="longest_first", direction=loaded.truncation_side)
        if loaded.pad_id is not None:
            backend.enable_padding(
                direction=loaded.padding_side, pad_id=loaded.pad_id, pad_token=loaded.tokens["pad_token"], pad_type_id=0
            )
        elif len(texts) > 1:
            raise InputError(f"{len(texts)} texts at once, and the tokenizer has no pad token; give them one by one")
        encodings = backend.encode_batch(list(texts))
        arrays = {
            "input_ids": [encoding.ids for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
        }
        # Without a mask a model would attend to the padding, and its answer to a text would depend on the batch.
        given = {"input_ids", "attention_mask", *self.inputs}
        return {name: np.array(rows, dtype=np.int64) for name, rows in arrays.items() if name in given}
