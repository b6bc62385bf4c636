"""From encodings to the arrays that a graph takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchless.batching import mask, pad
from torchless.errors import InputError, InputTypeError, one_line
from torchless.manifest import TokenizerSpec
from torchless.pipelines.inputs import TokenizerArguments
from torchless.truncation import Encoding

Arrays = dict[str, NDArray[np.int64]]


def read_arrays(inputs: Any) -> Arrays:
    """Return what somebody gives in the place of `preprocess`'s answer as arrays.

    Raises:
        InputTypeError: no mapping of names to arrays.
        InputError: rows of unlike lengths.
    """
    if not isinstance(inputs, Mapping):
        raise InputTypeError(f"the inputs are {type(inputs).__name__}, wanted the arrays that `preprocess` gives")
    try:
        return {name: np.asarray(array) for name, array in inputs.items()}
    except ValueError as error:
        raise InputError(f"the inputs are no arrays: {one_line(str(error), 200)}; pad them to one length") from None


def collate(
    encodings: Sequence[Encoding], arguments: TokenizerArguments, spec: TokenizerSpec, names: Sequence[str]
) -> Arrays:
    """Return the graph's inputs `names`, each (batch, sequence) int64, for these encodings.

    Raises:
        InputError: padding where there is nothing to pad with, or beyond the model's position table.
    """
    ids = [encoding.ids for encoding in encodings]
    lengths = [len(row) for row in ids]
    longest = max(lengths, default=0)
    width = arguments.padded(longest)
    if spec.position_limit is not None and width > spec.position_limit:
        raise InputError(f"padding to {width} tokens, the model's position table holds {spec.position_limit}")
    if spec.pad_id is None and min(lengths, default=width) != width:
        raise InputError("the tokenizer has no pad token; use batch_size=1, without padding")
    # What the graph does not take is not made.
    arrays = {"input_ids": pad(ids, spec.pad_id or 0, side=spec.padding_side, length=width)}
    if "attention_mask" in names:
        arrays["attention_mask"] = mask(lengths, width, side=spec.padding_side)
    if "token_type_ids" in names:
        typed = "token_type_ids" in spec.inputs if arguments.type_ids is None else arguments.type_ids
        types = [encoding.type_ids if typed else [0] * len(encoding) for encoding in encodings]
        arrays["token_type_ids"] = pad(types, spec.pad_type_id, side=spec.padding_side, length=width)
    return arrays
