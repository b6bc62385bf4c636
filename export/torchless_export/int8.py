"""The `int8` variant of a graph: which texts choose how it is made, and what is said where it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx

from torchless.manifest import Variant
from torchless_export.expectation import halves
from torchless_export.recipes import PLAIN, Applied, measure_statistics
from torchless_export.search import Found, Search
from torchless_export.trials import ChoosingTexts
from torchless_export.tuning import Shape

if TYPE_CHECKING:
    from torchless_export.report import ExportReport

__all__ = ["Source", "Wanted", "advice", "make"]

Arrays = dict[str, npt.NDArray[np.int64]]
TextInput = str | tuple[str, str]

# Texts on which the columns that would saturate are counted: for the report alone, since what is done about them
# holds for every text.
_COUNTED = 16
_BATCH = 16
# Calibrating texts, and tokens of each, on which activations are measured: more of them change nothing.
_MEASURED, _TOKENS = 384, 128


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an export asks of int8.

    Attributes:
        min_agreement: the share of answers to keep; 0 asks for none, and nothing is searched.
        batch_invariant: a text's answer must not change with its batch.
        shapes: (batch, sequence) at which recipes are timed.
        sensitivity: each product group is judged alone, for the report.
    """

    min_agreement: float
    batch_invariant: bool
    shapes: tuple[Shape, ...]
    sensitivity: bool


@dataclass(frozen=True, slots=True)
class Source:
    """What int8 is chosen with.

    Attributes:
        calibrating: texts that choose; none of them judges.
        widening: more texts that ranges shall hold.
        answerable: whether a text has any tokens; half of one may have none, where the whole has some.
        encode: texts -> `{name: (batch, sequence) int64}`, padded.
        problem_type: of the labels; None: hidden states are compared.
        pads: whether several texts may stand in one batch.
        position_limit: the longest sequence; None: any.
        vocabulary: token ids are below this.
    """

    calibrating: Sequence[TextInput]
    widening: Sequence[TextInput]
    answerable: Callable[[TextInput], bool]
    encode: Callable[[Sequence[TextInput]], Arrays]
    problem_type: str | None
    pads: bool
    position_limit: int | None
    vocabulary: int


def make(
    graph: onnx.ModelProto,
    variant: Variant,
    source: Source,
    wanted: Wanted,
    *,
    scratch: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Return the fp32 `graph` in int8, by the recipe that the search found.

    Args:
        graph: fp32, its weights inside.
        variant: what the manifest says of it.
        source: what chooses.
        wanted: what is asked.
        scratch: an empty directory.
        progress: called with (recipes tried, 0).

    Raises:
        CheckpointError: weights or activations are not finite, or nothing can be quantized.
        ProviderError: onnxruntime is not installed.
    """
    inputs = tuple(variant.inputs)

    def encode(texts: Sequence[TextInput]) -> Arrays:
        # A tokenizer that gives no token types means the first one.
        arrays = source.encode(texts)
        return {name: arrays.get(name, np.zeros_like(arrays["input_ids"])) for name in inputs}

    def halved(texts: Sequence[TextInput]) -> list[TextInput]:
        return list(filter(source.answerable, halves(texts)))

    def measured() -> list[Arrays]:
        some = source.calibrating[:_MEASURED]
        texts = dict.fromkeys([*some, *halved(some), *source.widening])
        rows = sorted((encode([text]) for text in texts), key=lambda arrays: arrays["input_ids"].shape[1])
        return [{name: array[:, :_TOKENS] for name, array in arrays.items()} for arrays in rows]

    applied = Applied(graph, lambda: measure_statistics(graph, _joined(measured())))
    counted = list(source.calibrating[:_COUNTED])
    calibration = [encode([text]) for text in counted[: len(counted) // 2]]
    if source.pads:
        calibration += [encode(counted[i : i + _BATCH]) for i in range(0, len(counted), _BATCH)]
    if not (wanted.min_agreement or wanted.batch_invariant or wanted.sensitivity):
        quantized = applied.quantize(PLAIN, calibration)
        return Found(quantized, PLAIN, True, {"recipe": PLAIN.to_manifest()})
    texts = ChoosingTexts(graph, variant, halved(source.calibrating), encode, source.problem_type, pads=source.pads)
    limit = source.position_limit
    search = Search(
        applied,
        variant,
        texts,
        min_agreement=wanted.min_agreement,
        batch_invariant=wanted.batch_invariant,
        shapes=[shape for shape in wanted.shapes if limit is None or shape[1] <= limit],
        vocabulary=source.vocabulary,
        scratch=scratch,
        progress=progress,
    )
    return search.run(calibration, sensitivity=wanted.sensitivity)


def advice(report: ExportReport) -> str:
    """Return what a person may do about an int8 that was refused, as the rest of a sentence.

    Nothing where more is wrong than the agreement, which no other promise mends.
    """
    variant = report.variants["int8"]
    if len(variant.parity.failures) > 1 or variant.parity.agreement >= variant.parity.tolerance["agreement"]:
        return ""
    made = variant.quantization or {}
    tried = [trial for trial in made.get("search", {}).get("tried", ()) if "agreement" in trial]
    best = variant.parity.agreement
    said = f" with the best of {len(tried)} recipes ({made['recipe']['name']})" if len(tried) > 1 else ""
    lower = f"--min-agreement {math.floor(best * 1000) / 1000:g} would take it, " if 0 < best < 1 else ""
    return f"{said}; {lower}--variant fp32 keeps every answer"


def _joined(rows: Sequence[Arrays]) -> list[Arrays]:
    """Return texts of one length together, at most 32 in a batch, so that no padding is measured."""
    batches: list[list[Arrays]] = []
    for arrays in rows:
        last = batches[-1] if batches else []
        same = last and last[0]["input_ids"].shape == arrays["input_ids"].shape
        if same and len(last) < 2 * _BATCH:
            last.append(arrays)
        else:
            batches.append([arrays])
    return [{name: np.concatenate([a[name] for a in batch]) for name in batch[0]} for batch in batches]
