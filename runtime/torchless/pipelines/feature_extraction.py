"""Feature extraction: the base model's last hidden state for each text, or one vector made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from torchless.errors import InputError
from torchless.pipelines.base import Arrays, Pipeline, check_batch_size
from torchless.pipelines.inputs import TokenizerArguments, read_inputs, read_text
from torchless.postprocess import check_finite
from torchless.tokenization import TextInput

POOLINGS = ("cls", "mean")

Float32 = NDArray[np.float32]


class FeatureExtractionPipeline(Pipeline):
    """What `transformers.pipeline("feature-extraction")` gives, from a bundle, never with rows of padding."""

    task: ClassVar[str] = "feature-extraction"

    def __call__(
        self,
        inputs: Any,
        *,
        return_tensors: bool | str | None = None,
        pooling: str | None = None,
        normalize: bool = False,
        batch_size: int | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        **tokenizer_arguments: Any,
    ) -> Any:
        """Extract features; the shape of the answer follows that of the input, as in transformers.

        A string gives nested lists `[1, sequence, hidden]`, a list of strings a list of these, an iterator an
        iterator. The answers are those of transformers at batch size 1, whatever the batches here.

        Args:
            inputs: a string, a dict of text and text_pair, a list of them, or an iterator over them.
            return_tensors: True or "np" for arrays (1, sequence, hidden) float32 instead of nested lists.
            pooling: "cls" (the first token) or "mean" (over all tokens) for one vector a text: an array
                (batch, hidden) float32 for a list, (1, hidden) for a string and for each item of an iterator.
            normalize: scale each pooled vector to length 1.
            batch_size: the most texts in a batch; None: packed by length.
            tokenize_kwargs: tokenizer arguments in transformers' form for this task.
            tokenizer_arguments: `truncation`, `max_length`, ... as transformers' tokenizers take them.

        Raises:
            InputError, InputTypeError: an input or an argument cannot be processed.
            InferenceError: ONNX Runtime failed, or a feature is not finite.
        """
        finish = _Finish(return_tensors, pooling, normalize)
        twice = tokenizer_arguments.keys() & (tokenize_kwargs or {}).keys()
        if twice:
            raise InputError(f"{', '.join(sorted(twice))} given twice, as an argument and in tokenize_kwargs; give it once")
        arguments = self._arguments({**(tokenize_kwargs or {}), **tokenizer_arguments})
        size = check_batch_size(batch_size) or self._batch_size
        given, single = read_inputs(inputs)
        if single:
            return self._extract([read_text(given)], arguments, size, finish)[0]
        if not isinstance(given, list):
            return self._stream(given, arguments, size, finish)
        answers = self._extract([read_text(item, i) for i, item in enumerate(given)], arguments, size, finish)
        return np.concatenate(answers) if pooling is not None and answers else answers

    def forward(self, inputs: Mapping[str, NDArray[np.int64]]) -> Float32:
        """Run the graph on what `preprocess` gives; returns the last hidden state (batch, sequence, hidden) float32.

        Raises:
            InferenceError: ONNX Runtime failed, or a feature is not finite.
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
    ) -> Any:
        """Turn hidden states (batch, sequence, hidden) into answers, one a row, without the rows of padding.

        `attention_mask` (batch, sequence) says which rows are tokens; None: all. With `pooling` an array
        (batch, hidden) float32.

        Raises:
            InputError: an unknown `pooling`, or `normalize` without one.
        """
        finish = _Finish(return_tensors, pooling, normalize)
        mask = np.ones(hidden.shape[:2], dtype=np.int64) if attention_mask is None else attention_mask
        answers = finish(hidden, mask)
        return np.concatenate(answers) if pooling is not None and answers else answers

    def _extract(
        self, texts: Sequence[TextInput], arguments: TokenizerArguments, size: int | None, finish: _Finish, first: int = 0
    ) -> list[Any]:
        answers: list[Any] = [None] * len(texts)
        for positions, inputs, hidden in self._outputs(texts, arguments, size, first):
            for position, answer in zip(positions, finish(hidden, _mask(inputs)), strict=True):
                answers[position] = answer
        return answers

    def _stream(
        self, inputs: Iterable[Any], arguments: TokenizerArguments, size: int | None, finish: _Finish
    ) -> Iterator[Any]:
        for first, texts in self._texts_of(inputs, size):
            yield from self._extract(texts, arguments, size, finish, first)


class _Finish:
    """The postprocessing of one call, checked before its first text is run."""

    def __init__(self, return_tensors: bool | str | None, pooling: str | None, normalize: bool) -> None:
        if return_tensors not in (None, False, True, "np"):
            raise InputError(f"return_tensors is {return_tensors!r}, wanted True or 'np' for NumPy arrays, or False")
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"pooling is {pooling!r}, wanted one of {', '.join(POOLINGS)}, or None for every token")
        if normalize and pooling is None:
            raise InputError("normalize=True makes one vector of length 1: name the pooling too, 'cls' or 'mean'")
        self._arrays = bool(return_tensors)
        self._pooling = pooling
        self._normalize = normalize

    def __call__(self, hidden: Float32, mask: NDArray[np.int64]) -> list[Any]:
        kept = mask.astype(bool)
        if self._pooling is None:
            rows = [states[keep][None] for states, keep in zip(hidden, kept, strict=True)]
            return rows if self._arrays else [row.tolist() for row in rows]
        if self._pooling == "cls":
            pooled = hidden[np.arange(len(hidden)), kept.argmax(axis=1)]
        else:
            # The mean over the tokens, special ones included (sentence-transformers, `Pooling`, mode mean).
            weights = kept.astype(np.float32)[..., None]
            pooled = (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), np.float32(1e-9))
        if self._normalize:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), np.float32(1e-12))
        return list(pooled[:, None])


def _mask(inputs: Arrays) -> NDArray[np.int64]:
    return inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))
