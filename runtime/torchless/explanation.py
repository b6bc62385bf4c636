"""The three steps of one prediction, laid open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchless.errors import one_line


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What passed between the steps for one text; `print` shows it as a table.

    Attributes:
        text: what was given: a text or a (text, text_pair) tuple.
        tokens: the tokens as strings, special ones included.
        input_ids, attention_mask: (sequence,) int64.
        logits, scores: (labels,) float32, in the order of `labels`.
        labels: the model's labels.
        function: what turned logits into scores: "softmax", "sigmoid" or "identity".
        milliseconds: the time of "preprocess", "forward" and "postprocess".
    """

    text: str | tuple[str, str]
    tokens: tuple[str, ...]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    function: str
    milliseconds: Mapping[str, float]

    def __str__(self) -> str:
        shown = [one_line(token, 40) for token in self.tokens]
        width = max([5, *map(len, shown)])
        lines = [f"1 preprocess  {self.milliseconds['preprocess']:.2f} ms: {len(shown)} tokens"]
        lines.append(f"    {'token':<{width}}  {'id':>7}  mask")
        for token, token_id, mask in zip(shown, self.input_ids, self.attention_mask, strict=True):
            lines.append(f"    {token:<{width}}  {token_id:>7}  {mask:>4}")
        lines.append(f"2 forward     {self.milliseconds['forward']:.2f} ms: {len(self.labels)} logits")
        labels = [one_line(label, 40) for label in self.labels]
        label_width = max([5, *map(len, labels)])
        order = np.argsort(-self.scores, kind="stable")
        lines.append(f"3 postprocess {self.milliseconds['postprocess']:.2f} ms: {self.function}")
        lines.append(f"    {'label':<{label_width}}  {'logit':>9}  {'score':>9}")
        for i in order:
            lines.append(f"    {labels[i]:<{label_width}}  {self.logits[i]:>9.4f}  {self.scores[i]:>9.6f}")
        return "\n".join(lines)
