"""Text classification: a label and a score for each text, or for each pair of texts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from torchless.bundle import Bundle
from torchless.errors import BundleError, InputError, InputTypeError, warn_once
from torchless.explanation import Explanation
from torchless.pipelines.base import Pipeline
from torchless.pipelines.flow import Batch, Call
from torchless.pipelines.inputs import DEFAULT_TOP_K, TokenizerArguments, check_count, keeps_errors, read_texts
from torchless.postprocess import check_finite, check_top_k, choose_function, name_scores, rank
from torchless.tokenization import TextInput


class TextClassificationPipeline(Pipeline):
    """What `transformers.pipeline("text-classification")` gives, from a bundle.

    Attributes:
        problem_type: what the labels are: one of several, several at once, or a regression's values.
    """

    task: ClassVar[str] = "text-classification"

    def __init__(
        self,
        bundle: Bundle,
        *,
        top_k: int | None = DEFAULT_TOP_K,
        function_to_apply: str | None = None,
        return_all_scores: bool | None = None,
        **options: Any,
    ) -> None:
        """Open `bundle`; `top_k`, `function_to_apply` and `return_all_scores` are the defaults of every call.

        The rest is `Pipeline`'s.

        Raises:
            UnknownFunctionError: `function_to_apply` is none of softmax, sigmoid, none.
            BundleError: the graph gives another number of scores than there are labels.
        """
        self._ranking = _Ranking().changed(top_k, return_all_scores)
        self._function = function_to_apply
        if bundle.manifest.problem_type is None:
            raise BundleError(f"{bundle.path}: the manifest names no labels and no problem type; export it again")
        self.problem_type: str = bundle.manifest.problem_type
        choose_function(function_to_apply, self.problem_type, len(bundle.manifest.labels))
        super().__init__(bundle, **options)
        self._options |= {
            "top_k": top_k,
            "function_to_apply": function_to_apply,
            "return_all_scores": return_all_scores,
        }
        # Of a call without arguments, read once.
        self._plain_call = self._call(self._ranking, self._arguments({}))
        width = self._session.output_width if self._session else None
        if width is not None and width != len(self.labels):
            raise BundleError(
                f"{bundle.path}: the graph gives {width} scores, the manifest names {len(self.labels)} labels"
            )

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | None = DEFAULT_TOP_K,
        function_to_apply: str | None = None,
        batch_size: int | None = None,
        window: int | None = None,
        text_pair: str | None = None,
        return_all_scores: bool | None = None,
        on_error: str = "raise",
        **tokenizer_arguments: Any,
    ) -> Any:
        """Classify; the shape of the answer follows that of the input, as in transformers.

        A string gives `[{"label", "score"}]`; `{"text", "text_pair"}` a bare dict; a list of either a
        list of dicts; a stream (an iterator, a generator, a dataset) an iterator, which reads at most one batch
        ahead. With `top_k` (a count, or None for all) each answer is a list of dicts instead, best first.

        Args:
            inputs: a string, a dict, a list of them, or a stream of them.
            top_k: labels for each text.
            function_to_apply: "softmax", "sigmoid" or "none"; None: what the model's problem type wants.
            batch_size: the most texts in a batch; None: packed by length.
            window: of a stream, the texts read ahead and sorted by length among themselves; None: one batch.
            text_pair: the second text of every pair whose first is given alone.
            return_all_scores: of transformers before 5, with a warning: True gives all labels in the model's order,
                False the best one.
            on_error: "return": a text that cannot be answered has its error, an object, in the place of its answer,
                and the others are answered; a batch that the graph fails on fails for its texts alone.
            tokenizer_arguments: `truncation`, `max_length`, `padding`, ... as transformers' tokenizers take them.

        Raises:
            InputError, InputTypeError, UnknownFunctionError: an input or an argument cannot be processed.
            InferenceError: ONNX Runtime failed, or a logit is not finite.
        """
        if (
            top_k is DEFAULT_TOP_K
            and function_to_apply is None
            and batch_size is None
            and window is None
            and text_pair is None
            and return_all_scores is None
            and on_error == "raise"
            and not tokenizer_arguments
        ):
            call = self._plain_call
        else:
            ranking = self._ranking.changed(top_k, return_all_scores)
            arguments = self._arguments(tokenizer_arguments)
            call = self._call(ranking, arguments, function_to_apply, batch_size, window, text_pair, on_error)
        answer = self._respond(inputs, call)
        # transformers wraps the answer to one string unless this very call names top_k.
        return [answer] if isinstance(inputs, str) and top_k is DEFAULT_TOP_K else answer

    def forward(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Run the graph on what `preprocess` gives; returns logits (batch, labels) float32.

        Raises:
            InferenceError: ONNX Runtime failed, or a logit is not finite.
        """
        logits = super().forward(inputs)
        check_finite(logits)
        return logits

    def postprocess(
        self, logits: NDArray[np.float32], *, top_k: int | None = 1, function_to_apply: str | None = None
    ) -> list[Any]:
        """Turn logits (batch, labels) into answers, one a row.

        Each is a dict `{"label", "score"}` where `top_k` is 1, else a list of the best `top_k`, best first
        (None: all labels).

        Raises:
            UnknownFunctionError: `function_to_apply` is none of softmax, sigmoid, none.
            InputError: not a row of logits for each text.
            InferenceError: a logit is not finite.
        """
        rows = np.asarray(logits, np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(self.labels):
            raise InputError(f"the logits have the shape {rows.shape}, wanted (batch, {len(self.labels)})")
        check_finite(rows)  # what `forward` gives was checked there; these may come from anywhere
        ranking = _Ranking(check_top_k(top_k), bare=top_k == 1)
        return _Finish(self.labels, self.problem_type, ranking, self._default(function_to_apply)).rows(rows)

    def explain(self, text: TextInput | dict[str, str], **tokenizer_arguments: Any) -> Explanation:
        """Run the three steps on one text, one (text, text_pair) or dict of it; returns what passes between them.

        Raises:
            InputError, InputTypeError, InferenceError: as calling the pipeline does.
        """
        arguments = self._arguments(tokenizer_arguments)
        start = time.perf_counter()
        [given] = read_texts([text])
        [encoding] = self._encode([given], arguments, offsets=True)
        inputs = self._collate([encoding], arguments)
        tokenized = time.perf_counter()
        logits = self.forward(inputs)
        ran = time.perf_counter()
        function = choose_function(self._function, self.problem_type, len(self.labels))
        scores = function(logits)
        end = time.perf_counter()
        tokens = list(encoding.tokens)
        tokens += [""] * (inputs["input_ids"].shape[1] - len(tokens))
        return Explanation(
            text=given,
            tokens=tuple(tokens),
            input_ids=inputs["input_ids"][0],
            attention_mask=inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))[0],
            logits=logits[0],
            scores=scores[0],
            labels=self.labels,
            function=function.__name__,
            milliseconds={
                "preprocess": (tokenized - start) * 1e3,
                "forward": (ran - tokenized) * 1e3,
                "postprocess": (end - ran) * 1e3,
            },
        )

    def _call(
        self,
        ranking: _Ranking,
        arguments: TokenizerArguments,
        function: str | None = None,
        batch_size: int | None = None,
        window: int | None = None,
        text_pair: str | None = None,
        on_error: str = "raise",
    ) -> Call:
        if not isinstance(text_pair, str | None):
            raise InputTypeError(f"text_pair is {type(text_pair).__name__}, wanted a string")
        return Call(
            _Finish(self.labels, self.problem_type, ranking, self._default(function)),
            arguments,
            check_count("batch_size", batch_size) or self._batch_size,
            check_count("window", window),
            text_pair,
            keeps_errors(on_error),
        )

    def _default(self, function: str | None) -> str | None:
        return self._function if function is None else function


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Which labels make an answer, and in what form.

    Attributes:
        top_k: how many, best first; None: all.
        bare: transformers' form where nobody named `top_k`: one label is a dict without its list, and all of them
            (`return_all_scores`) stand in the order of the model's outputs.
    """

    top_k: int | None = DEFAULT_TOP_K
    bare: bool = True

    def changed(self, top_k: int | None, return_all_scores: bool | None) -> _Ranking:
        """Return the ranking that these arguments ask for: `_sanitize_parameters` in transformers 4.57.6.

        Raises:
            InputError, InputTypeError: `top_k` is no count.
        """
        if top_k is not DEFAULT_TOP_K:
            return _Ranking(check_top_k(top_k), bare=False)
        if return_all_scores is None:
            return self
        warn_once(
            "return_all_scores is deprecated; pass top_k=None for all labels, best first, or top_k=1 for the best",
            stacklevel=4,
        )
        return _Ranking(None if return_all_scores else 1, self.bare)


class _Finish:
    """The postprocessing of one call, chosen before its first text is run."""

    def __init__(self, labels: tuple[str, ...], problem_type: str, ranking: _Ranking, function: str | None) -> None:
        self._labels = labels
        self._function = choose_function(function, problem_type, len(labels))
        self._ranking = ranking

    def __call__(self, batch: Batch) -> list[Any]:
        return self.rows(batch.rows)

    def rows(self, logits: NDArray[np.float32]) -> list[Any]:
        scores = self._function(logits)
        if self._ranking.bare and self._ranking.top_k is None:
            return name_scores(scores, self._labels)
        rows = rank(scores, self._labels, self._ranking.top_k)
        return [row[0] for row in rows] if self._ranking.bare else rows
