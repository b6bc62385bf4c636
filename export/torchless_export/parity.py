"""The parity gate: token ids, then logits or hidden states, then answers of what was exported, against the original.

It runs end to end: the bundle is opened by the runtime as a user's program will open it, and every
variant is judged on real texts, batched by length as the runtime batches them, and alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torchless.batching import plan_batches
from torchless.devices import CUDA_PROVIDER
from torchless.errors import InferenceError
from torchless.pipelines.base import Pipeline
from torchless_export.comparison import Comparison, HiddenStateComparison, LogitComparison, Measured, json_number
from torchless_export.texts import PROVING_TEXTS

Arrays = dict[str, NDArray[np.int64]]
Float32 = NDArray[np.float32]
TextInput = str | tuple[str, str]

# DESIGN, "Fidelity comes first".
FP32_LOGITS = 1e-4
# Of fp16: the share of equal answers, and how far a text's scores, or the cosine of its hidden states, may move.
FP16_AGREEMENT = 0.999
FP16_CHANGE = 5e-3
_ROWS = 32
# What --batch-invariant promises: the largest change of a score.
BATCH_INVARIANT = 1e-6
_PADDING = 24
# Tokens of the longest text in a random batch: what longer ones would add is padding.
_COMPANY = 64
# Texts run again in other company, for the change that it makes; and how many where nothing is promised.
_ALONE, _UNPROMISED = 128, 16


class Reference(Protocol):
    """What judges: the original's tokenizer and forward pass."""

    name: str

    def encode(self, texts: Sequence[TextInput], max_length: int | None) -> Arrays:
        """Tokenize texts, cut and padded: arrays (batch, sequence) int64."""
        ...

    def forward(self, inputs: Arrays) -> Float32:
        """Return the task's output float32: logits (batch, labels), or hidden states (batch, sequence, hidden)."""
        ...


@dataclass(frozen=True, slots=True)
class Parity:
    """How far one variant is from the original.

    Attributes:
        reference: "pytorch" or "numpy".
        texts: how many judged.
        source: where they come from.
        ids_equal: whether every token id, mask and type id was the reference tokenizer's.
        differences: of the outputs. With labels: "max_logit", the largest absolute difference of a logit, and
            "max_probability", "mean_probability", the largest and the mean over texts of a text's most changed score.
            Of hidden states: "max_hidden", and "max_cosine_distance", "mean_cosine_distance" over texts.
        agreement: the share of texts with the same answer; see `comparison.answers_agree` and `comparison.COSINE`.
        agreement_low95: with 95 % confidence the agreement is at least this; see `lower_bound`.
        tolerance: what was asked.
        batch_drift: how much a text's answer changes with its company: alone, in random batches, and with more padding,
            each against its batch of texts of like length: {"texts"} and the last two of `differences`.
        accuracy: {"original", "variant", "texts"}: the shares of answers that are the texts' labels; None: not known.
        failures: what the tolerance does not allow, in words; empty: passed.
        device: "cpu" or "cuda": where the variant was run; one for CUDA on a CPU by an emulation of its arithmetic.
    """

    reference: str
    texts: int
    source: str
    ids_equal: bool
    differences: Mapping[str, float]
    agreement: float
    agreement_low95: float
    tolerance: Mapping[str, float]
    batch_drift: Mapping[str, float]
    accuracy: Mapping[str, float] | None = None
    failures: tuple[str, ...] = field(default=())
    device: str = "cpu"

    @property
    def passed(self) -> bool:
        """Whether the variant may be shipped."""
        return not self.failures

    @property
    def proven(self) -> bool:
        """Whether enough texts judged for the agreement to mean something."""
        return self.texts >= PROVING_TEXTS

    def to_manifest(self) -> dict[str, Any]:
        """Return what the manifest records."""
        record = asdict(self)
        del record["failures"]
        if record["accuracy"] is None:
            del record["accuracy"]
        differences: dict[str, float] = record.pop("differences")
        return record | differences | {"proven": self.proven}


def judge(
    pipelines: Mapping[str, Pipeline],
    reference: Reference,
    texts: Sequence[TextInput],
    *,
    source: str,
    max_length: int | None,
    min_agreement: float,
    ids_only: Sequence[TextInput] = (),
    labels: Sequence[int] | None = None,
    batch_invariant: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Parity]:
    """Judge each variant's pipeline against the reference.

    Args:
        pipelines: an open pipeline for each variant, all of one task.
        reference: the original.
        texts: what is run through both; `max_length` tokens at most are kept of each.
        source: named in the record.
        max_length: where both cut; None: nowhere.
        min_agreement: for every variant that has no promise of its own, which fp32 and fp16 have.
        ids_only: further texts, of which only the token ids are compared.
        labels: the right ones of the first texts, as positions among the model's.
        batch_invariant: int8 fails where a text's answer changes with its company.
        progress: told the texts done and their number.

    Returns:
        the verdict for each variant, whether or not it passed.
    """
    first = next(iter(pipelines.values()))
    cut: dict[str, Any] = {"truncation": True, "max_length": max_length} if max_length is not None else {}
    wrong_ids: list[TextInput] = []
    most = _ALONE if min_agreement or batch_invariant else _UNPROMISED
    alone = sorted({i * len(texts) // most for i in range(most)} if len(texts) > most else range(len(texts)))
    comparisons = {name: _comparison(pipeline, alone) for name, pipeline in pipelines.items()}
    lengths = [first.preprocess(text, **cut)["input_ids"].shape[1] for text in texts]
    batches = plan_batches(lengths, batch_size=_ROWS) if _pads(first) else [[i] for i in range(len(texts))]
    total, done = len(texts) + len(ids_only), 0
    for batch in batches:
        rows = [texts[i] for i in batch]
        wanted = reference.encode(rows, max_length)
        inputs = first.preprocess(rows, **cut)
        if not _same_ids(inputs, wanted):
            wrong_ids += _wrong_ids(first, reference, rows, cut)
        originals = _texts(reference.forward(wanted), wanted)
        for name, pipeline in pipelines.items():
            for i, original, found in zip(batch, originals, _run(pipeline, inputs), strict=True):
                comparisons[name].add(i, original, found)
        done += len(batch)
        progress(done, total)
    for batch in plan_batches([1] * len(ids_only), batch_size=_ROWS if _pads(first) else 1, keep_order=True):
        rows = [ids_only[i] for i in batch]
        wrong_ids += _wrong_ids(first, reference, rows, cut)
        done += len(batch)
        progress(done, total)
    for batch, inputs in _companies(first, texts, alone, cut, lengths):
        for name, pipeline in pipelines.items():
            for i, output in zip(batch, _run(pipeline, inputs), strict=True):
                comparisons[name].add_again(i, output)
    return {
        name: _verdict(
            precision=name,
            reference=reference.name,
            source=source,
            comparison=comparisons[name],
            alone=len(alone),
            min_agreement=min_agreement,
            wrong_ids=wrong_ids,
            device="cuda" if pipelines[name].provider == CUDA_PROVIDER else "cpu",
            labels=labels,
            batch_invariant=batch_invariant,
        )
        for name in pipelines
    }


def lower_bound(agreeing: int, texts: int, confidence: float = 0.95) -> float:
    """Return the exact one-sided lower confidence bound on a share seen as `agreeing` of `texts`.

    Clopper and Pearson (1934): the p for which `agreeing` or more of `texts` has the probability 1 - confidence.
    """
    if agreeing == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        if _at_least(agreeing, texts, p) < 1 - confidence:
            low = p
        else:
            high = p
    return low


def _at_least(k: int, n: int, p: float) -> float:
    """Return P(X >= k) for X binomial of n trials with probability p, 0 < p < 1."""
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k, n + 1)
    )
    return math.fsum(math.exp(term) for term in terms)


def _verdict(
    *,
    precision: str,
    reference: str,
    source: str,
    comparison: Comparison,
    alone: int,
    min_agreement: float,
    wrong_ids: Sequence[TextInput],
    device: str,
    labels: Sequence[int] | None,
    batch_invariant: bool,
) -> Parity:
    measured = comparison.measure(2 * FP32_LOGITS if precision == "fp32" else 0.0)
    agree = measured.agree
    agreement = float(agree.mean())
    failures = []
    if wrong_ids:
        failures.append(
            f"token ids differ from the reference tokenizer's on {len(wrong_ids)} texts, e.g. {_shown(wrong_ids[0])}"
        )
    if not math.isfinite(measured.largest):
        failures.append(f"{comparison.element} is not finite")
    if precision == "fp32":
        tolerance = {comparison.elements: FP32_LOGITS, "agreement": 1.0, **comparison.tolerance}
        if not measured.largest <= FP32_LOGITS:
            largest = json_number(measured.largest)
            failures.append(f"{comparison.element} differs by {largest:.2g}, more than {FP32_LOGITS:g}")
        if agreement < 1:
            failures.append(f"{int((~agree).sum())} of {len(agree)} answers differ")
    else:
        if precision == "fp16":
            min_agreement = FP16_AGREEMENT
        tolerance = {"agreement": min_agreement, **comparison.tolerance}
        if precision == "fp16" and comparison.bounded:
            change = comparison.names[1]
            tolerance[change] = FP16_CHANGE
            if not measured.differences[change] <= FP16_CHANGE:
                failures.append(f"{change} is {measured.differences[change]:.2g}, more than {FP16_CHANGE:g}")
        if agreement < min_agreement:
            failures.append(f"agreement {agreement:.4f} on {len(agree)} texts, less than {min_agreement:g}")
        if batch_invariant and precision == "int8":
            tolerance["batch_drift"] = BATCH_INVARIANT
            most = max(measured.drift.values())
            if not most <= BATCH_INVARIANT:
                failures.append(f"an answer changes with its batch by {most:.2g}, more than {BATCH_INVARIANT:g}")
    return Parity(
        reference=reference,
        texts=len(agree),
        source=source,
        ids_equal=not wrong_ids,
        differences=measured.differences,
        agreement=agreement,
        agreement_low95=lower_bound(int(agree.sum()), len(agree)),
        tolerance=tolerance,
        batch_drift={"texts": alone, **measured.drift},
        accuracy=_accuracy(measured, labels),
        failures=tuple(failures),
        device=device,
    )


def _accuracy(measured: Measured, labels: Sequence[int] | None) -> dict[str, float] | None:
    if labels is None or measured.original is None or measured.found is None:
        return None
    right = np.asarray(labels)
    return {
        "original": float((measured.original[: len(right)] == right).mean()),
        "variant": float((measured.found[: len(right)] == right).mean()),
        "texts": len(right),
    }


def _companies(
    pipeline: Pipeline,
    texts: Sequence[TextInput],
    chosen: Sequence[int],
    cut: Mapping[str, Any],
    lengths: Sequence[int],
) -> Iterator[tuple[list[int], Arrays]]:
    """Yield the chosen texts again, by their numbers: alone, alone with more padding, and in random batches."""
    for i in chosen:
        inputs = pipeline.preprocess(texts[i], **cut)
        yield [i], inputs
        if _pads(pipeline) and "attention_mask" in inputs and lengths[i] <= _COMPANY:
            more = _padded(pipeline, inputs, cut.get("max_length"))
            if more is not None:
                yield [i], more
    if _pads(pipeline):
        shuffled = [i for i in chosen if lengths[i] <= _COMPANY]
        random.Random(0).shuffle(shuffled)
        for start in range(0, len(shuffled), _ROWS):
            batch = shuffled[start : start + _ROWS]
            yield batch, pipeline.preprocess([texts[i] for i in batch], **cut)


def _padded(pipeline: Pipeline, inputs: Arrays, max_length: int | None) -> Arrays | None:
    """Return the inputs with up to 24 places more of padding, None where there is no room for any."""
    length = inputs["input_ids"].shape[1]
    more = min(_PADDING, max_length - length) if max_length is not None else _PADDING
    if more < 1:
        return None
    spec = pipeline.tokenizer_spec
    fill = {"input_ids": spec.pad_id or 0, "token_type_ids": spec.pad_type_id}
    return {
        name: np.pad(array, ((0, 0), (0, more)), constant_values=fill.get(name, 0)) for name, array in inputs.items()
    }


def _comparison(pipeline: Pipeline, alone: Sequence[int]) -> Comparison:
    """Return how the outputs of the pipeline's task are compared."""
    problem_type = getattr(pipeline, "problem_type", None)
    return HiddenStateComparison(alone) if problem_type is None else LogitComparison(problem_type)


def _run(pipeline: Pipeline, inputs: Arrays) -> Sequence[Float32 | None]:
    """Return each text's output, or None for each where the graph fails or gives what is not finite."""
    try:
        return _texts(pipeline.forward(inputs), inputs)
    except InferenceError:
        # A verdict here, not an accident.
        return [None] * len(inputs["input_ids"])


def _texts(output: Float32, inputs: Arrays) -> list[Float32]:
    """Return each text's part of an output: its logits, or the hidden states of its tokens without those of padding."""
    if output.ndim == 2 or "attention_mask" not in inputs:
        return list(output)
    return [rows[mask > 0] for rows, mask in zip(output, inputs["attention_mask"], strict=True)]


def _pads(pipeline: Pipeline) -> bool:
    spec = pipeline.tokenizer_spec
    return spec.pad_id is not None and spec.padding_side == "right"


def _wrong_ids(
    pipeline: Pipeline, reference: Reference, texts: Sequence[TextInput], cut: Mapping[str, Any]
) -> list[TextInput]:
    """Return those of `texts` whose arrays are not the reference's; compared together first, then one by one."""
    max_length = cut.get("max_length")
    if _same_ids(pipeline.preprocess(texts, **cut), reference.encode(texts, max_length)):
        return []
    wrong = [
        text for text in texts if not _same_ids(pipeline.preprocess(text, **cut), reference.encode([text], max_length))
    ]
    # Equal one by one but not together: the padding is at fault, and the batch's first text stands for it.
    return wrong or [texts[0]]


def _same_ids(found: Arrays, wanted: Arrays) -> bool:
    # A model that is given no token types takes zeros.
    return all(np.array_equal(array, wanted.get(name, np.zeros_like(array))) for name, array in found.items())


def _shown(text: TextInput) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:59] + "…"
