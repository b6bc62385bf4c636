"""Feature extraction: the model's last hidden state for each token, or one vector for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from torchless.bundle import Bundle
from torchless.errors import InputError, warn_once
from torchless.pipelines.base import Pipeline
from torchless.pipelines.flow import Batch, Call
from torchless.pipelines.inputs import check_count, keeps_errors
from torchless.postprocess import POOLINGS, check_finite, choose_pooling, normalize_rows

Float32 = NDArray[np.float32]


class FeatureExtractionPipeline(Pipeline):
    """What `transformers.pipeline("feature-extraction")` gives at batch size 1, from a bundle.

    Batches are packed by length as for every task; rows of padding are cut off again, so that a text's answer does not
    depend on its company's lengths.
    """

    task: ClassVar[str] = "feature-extraction"

    def __init__(
        self,
        bundle: Bundle,
        *,
        return_tensors: bool | str | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        tokenizer_arguments: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Open `bundle`; `return_tensors` and `tokenize_kwargs` are the defaults of every call, the rest `Pipeline`'s.

        Raises:
            InputError: `return_tensors` asks for another library's tensors, or an argument stands twice.
        """
        for name in ("top_k", "function_to_apply", "return_all_scores"):
            if name in options:
                del options[name]
                warn_once(f"the argument {name!r} has no meaning for {self.task} and is ignored")
        self._as_arrays = _wants_arrays(return_tensors)
        super().__init__(bundle, tokenizer_arguments=_merged(tokenizer_arguments or {}, tokenize_kwargs), **options)
        self._options["return_tensors"] = return_tensors

    def __call__(
        self,
        inputs: Any,
        *,
        return_tensors: bool | str | None = None,
        pooling: str | None = None,
        normalize: bool = False,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        window: int | None = None,
        on_error: str = "raise",
        **tokenizer_arguments: Any,
    ) -> Any:
        """Return the hidden states; the shape of the answer follows that of the input, as in transformers.

        One text gives nested lists [1][sequence][hidden] of floats, a list of texts a list of those, an iterator an
        iterator of them, which reads at most one batch ahead. With `pooling`, one text gives an array (1, hidden)
        float32, a list one array (batch, hidden), an iterator an iterator of arrays (1, hidden).

        Args:
            inputs: a string, a dict of text and text_pair, a list of them, or an iterator over them.
            return_tensors: "np" or True: arrays (1, sequence, hidden) float32 instead of nested lists.
            pooling: "cls", the first token's vector, or "mean", the mean over the tokens, special ones included (as
                sentence-transformers' `Pooling` module takes both); None: every token's vector.
            normalize: divide each pooled vector by its Euclidean length.
            tokenize_kwargs: tokenizer arguments, as transformers' pipeline takes them for this task.
            batch_size: the most texts in a batch; None: packed by length.
            window: of an iterator, the texts read ahead and sorted by length among themselves; None: one batch.
            on_error: "return": a text that cannot be answered has its error, an object, in the place of its answer,
                and the others are answered. A list then gives a list, with `pooling` too: of arrays (1, hidden).
            tokenizer_arguments: the same as `tokenize_kwargs`; `truncation`, `max_length`, ...

        Raises:
            InputError, InputTypeError: an input or an argument cannot be processed.
            InferenceError: ONNX Runtime failed, or a value is not finite.
        """
        arguments = self._arguments(_merged(tokenizer_arguments, tokenize_kwargs))
        as_arrays = self._as_arrays if return_tensors is None else _wants_arrays(return_tensors)
        _check_pooling(pooling, normalize)

        def finish(batch: Batch) -> list[Any]:
            return self._finish(self._texts(batch), as_arrays, pooling, normalize)

        size = check_count("batch_size", batch_size) or self._batch_size
        keep_errors = keeps_errors(on_error)
        call = Call(finish, arguments, size, check_count("window", window), keep_errors=keep_errors)
        answer = self._respond(inputs, call)
        if pooling is not None and isinstance(answer, list) and not keep_errors:
            return np.concatenate(answer) if answer else np.empty((0, self._width), np.float32)
        return answer

    def forward(self, inputs: Mapping[str, NDArray[np.int64]]) -> Float32:
        """Run the graph on what `preprocess` gives; returns the last hidden state (batch, sequence, hidden) float32.

        Rows of padding are among it: `attention_mask` says which.

        Raises:
            InferenceError: ONNX Runtime failed, or a value is not finite.
        """
        hidden = super().forward(inputs)
        check_finite(hidden)
        return hidden

    def postprocess(
        self,
        hidden: Float32,
        attention_mask: NDArray[np.int64] | None = None,
        *,
        return_tensors: bool | str | None = None,
        pooling: str | None = None,
        normalize: bool = False,
    ) -> list[Any]:
        """Turn hidden states (batch, sequence, hidden) into answers, one a row; see `__call__`.

        Args:
            hidden: what `forward` gives.
            attention_mask: (batch, sequence), 1 where there is a token, as `preprocess` gives it; None: no padding.
            return_tensors: as for `__call__`.
            pooling: as for `__call__`.
            normalize: as for `__call__`.

        Raises:
            InputError: the two do not fit each other.
        """
        rows = np.asarray(hidden, np.float32)
        if rows.ndim != 3:
            raise InputError(f"the hidden states have the shape {rows.shape}, wanted (batch, sequence, hidden)")
        mask = np.ones(rows.shape[:2], bool) if attention_mask is None else np.asarray(attention_mask) > 0
        if mask.shape != rows.shape[:2]:
            raise InputError(f"the attention mask has the shape {mask.shape}, wanted {rows.shape[:2]}")
        _check_pooling(pooling, normalize)
        as_arrays = self._as_arrays if return_tensors is None else _wants_arrays(return_tensors)
        return self._finish([row[kept] for row, kept in zip(rows, mask, strict=True)], as_arrays, pooling, normalize)

    def _texts(self, batch: Batch) -> list[Float32]:
        """Return each text's rows (sequence, hidden), without those of its padding."""
        if self._tokenizer.spec.padding_side == "right":
            return [rows[:length] for rows, length in zip(batch.rows, batch.lengths, strict=True)]
        width = batch.rows.shape[1]
        return [rows[width - length :] for rows, length in zip(batch.rows, batch.lengths, strict=True)]

    def _finish(self, texts: Sequence[Float32], as_arrays: bool, pooling: str | None, normalize: bool) -> list[Any]:
        if pooling is None:
            # Copies: an answer must not keep its whole batch in memory, nor change with it.
            return [rows[None].copy() if as_arrays else [rows.tolist()] for rows in texts]
        pool = choose_pooling(pooling)
        vectors = [pool(rows)[None] for rows in texts]
        return [normalize_rows(vector) for vector in vectors] if normalize else vectors


def _wants_arrays(return_tensors: bool | str | None) -> bool:
    if return_tensors not in (None, False, True, "np"):
        raise InputError(f"return_tensors is {return_tensors!r}, wanted 'np' for NumPy arrays, or None for lists")
    return bool(return_tensors)


def _check_pooling(pooling: str | None, normalize: bool) -> None:
    if pooling is not None:
        choose_pooling(pooling)
    elif normalize:
        raise InputError(f"normalize=True is for pooled vectors; pass pooling, one of {', '.join(POOLINGS)}")


def _merged(arguments: Mapping[str, Any], tokenize_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Join the two ways to pass tokenizer arguments; one that stands in both is refused, as transformers does."""
    more = tokenize_kwargs or {}
    if twice := arguments.keys() & more.keys():
        raise InputError(f"the argument {min(twice)!r} stands twice, by itself and in tokenize_kwargs; leave one out")
    return {**arguments, **more}
