"""The parity gate: token ids, then logits, then labels of what was exported, against the original.

It runs end to end: the bundle is opened by the runtime as a user's program will open it, and every
variant is judged on real texts, batched by length as the runtime batches them, and alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torchless.batching import plan_batches
from torchless.errors import InferenceError
from torchless.pipelines.text_classification import TextClassificationPipeline
from torchless.postprocess import choose_function
from torchless_export.texts import PROVING_TEXTS

Arrays = dict[str, NDArray[np.int64]]
Float32 = NDArray[np.float32]
TextInput = str | tuple[str, str]

# DESIGN, "Fidelity comes first".
FP32_LOGITS = 1e-4
_ROWS = 32
# Texts run alone as well, for the change that a batch's company makes.
_ALONE = 128


class Reference(Protocol):
    """What judges: the original's tokenizer and forward pass."""

    name: str

    def encode(self, texts: Sequence[TextInput], max_length: int | None) -> Arrays:
        """Tokenize texts, cut and padded: arrays (batch, sequence) int64."""
        ...

    def logits(self, inputs: Arrays) -> Float32:
        """Return logits (batch, labels) float32."""
        ...


@dataclass(frozen=True, slots=True)
class Parity:
    """How far one variant is from the original.

    Attributes:
        reference: "pytorch" or "numpy".
        texts: how many judged.
        source: where they come from.
        ids_equal: whether every token id, mask and type id was the reference tokenizer's.
        max_logit: the largest absolute difference of a logit.
        max_probability, mean_probability: of a text's most changed score, the largest and the mean over texts.
        agreement: the share of texts with the same answer; see `answers_agree`.
        agreement_low95: with 95 % confidence the agreement is at least this; see `lower_bound`.
        tolerance: what was asked.
        batch_drift: how much a text's scores change with its company in a batch: {"texts", "max_probability",
            "mean_probability"}.
        failures: what the tolerance does not allow, in words; empty: passed.
    """

    reference: str
    texts: int
    source: str
    ids_equal: bool
    max_logit: float
    max_probability: float
    mean_probability: float
    agreement: float
    agreement_low95: float
    tolerance: Mapping[str, float]
    batch_drift: Mapping[str, float]
    failures: tuple[str, ...] = field(default=())

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
        return record | {"proven": self.proven}


def judge(
    pipelines: Mapping[str, TextClassificationPipeline],
    reference: Reference,
    texts: Sequence[TextInput],
    *,
    source: str,
    max_length: int | None,
    min_agreement: float,
    ids_only: Sequence[TextInput] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Parity]:
    """Judge each variant's pipeline against the reference.

    Args:
        pipelines: an open pipeline for each variant.
        reference: the original.
        texts: what is run through both; `max_length` tokens at most are kept of each.
        source: named in the record.
        max_length: where both cut; None: nowhere.
        min_agreement: for every variant that is not fp32.
        ids_only: further texts, of which only the token ids are compared.
        progress: told the texts done and their number.

    Returns:
        the verdict for each variant, whether or not it passed.
    """
    first = next(iter(pipelines.values()))
    cut: dict[str, Any] = {"truncation": True, "max_length": max_length} if max_length is not None else {}
    wrong_ids: list[TextInput] = []
    logits: dict[str, dict[int, Float32]] = {name: {} for name in (*pipelines, "")}
    lengths = [first.preprocess(text, **cut)["input_ids"].shape[1] for text in texts]
    batches = plan_batches(lengths, batch_size=_ROWS) if _pads(first) else [[i] for i in range(len(texts))]
    total, done = len(texts) + len(ids_only), 0
    for batch in batches:
        rows = [texts[i] for i in batch]
        wanted = reference.encode(rows, max_length)
        inputs = first.preprocess(rows, **cut)
        if not _same_ids(inputs, wanted):
            wrong_ids += _wrong_ids(first, reference, rows, cut)
        logits[""] |= zip(batch, reference.logits(wanted), strict=True)
        for name, pipeline in pipelines.items():
            logits[name] |= zip(batch, _forward(pipeline, inputs), strict=True)
        done += len(batch)
        progress(done, total)
    for batch in plan_batches([1] * len(ids_only), batch_size=_ROWS if _pads(first) else 1, keep_order=True):
        rows = [ids_only[i] for i in batch]
        wrong_ids += _wrong_ids(first, reference, rows, cut)
        done += len(batch)
        progress(done, total)
    original = np.stack([logits[""][i] for i in range(len(texts))])
    alone = sorted({i * len(texts) // _ALONE for i in range(_ALONE)} if len(texts) > _ALONE else range(len(texts)))
    return {
        name: _verdict(
            precision="fp32" if name == "fp32" else name,
            reference=reference.name,
            source=source,
            original=original,
            found=np.stack([logits[name][i] for i in range(len(texts))]),
            alone=alone,
            found_alone=np.concatenate([_forward(pipeline, pipeline.preprocess(texts[i], **cut)) for i in alone]),
            problem_type=pipeline.problem_type,
            min_agreement=min_agreement,
            wrong_ids=wrong_ids,
        )
        for name, pipeline in pipelines.items()
    }


def answers_agree(original: Float32, found: Float32, problem_type: str, slack: float = 0.0) -> NDArray[np.bool_]:
    """Tell for each row of logits (batch, labels) whether both give the same answer.

    Single label: the same label is largest. Several labels: each is above or below 0.5 in both.
    Regression has no labels: the value moves by at most a tenth of the standard deviation of the
    original's values. `slack`: a label whose lead in the original is within this may differ, since a
    tie has no right answer.
    """
    if problem_type == "regression":
        spread = np.maximum(original.std(axis=0), np.float32(1e-6))
        close: NDArray[np.bool_] = (np.abs(found - original) <= 0.1 * spread + slack).all(axis=-1)
        return close
    if problem_type == "multi_label_classification" or original.shape[-1] == 1:
        same: NDArray[np.bool_] = (((original > 0) == (found > 0)) | (np.abs(original) <= slack)).all(axis=-1)
        return same
    chosen = found.argmax(axis=-1)
    lead = original.max(axis=-1) - np.take_along_axis(original, chosen[:, None], axis=-1)[:, 0]
    agree: NDArray[np.bool_] = (chosen == original.argmax(axis=-1)) | (lead <= slack)
    return agree


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
    original: Float32,
    found: Float32,
    alone: Sequence[int],
    found_alone: Float32,
    problem_type: str,
    min_agreement: float,
    wrong_ids: Sequence[TextInput],
) -> Parity:
    function = choose_function(None, problem_type, original.shape[-1])
    finite = bool(np.isfinite(found).all() and np.isfinite(found_alone).all())
    slack = 2 * FP32_LOGITS if precision == "fp32" else 0.0
    agree = answers_agree(original, found, problem_type, slack)
    with np.errstate(invalid="ignore"):  # differences of infinities are told of below
        changed = np.abs(function(found) - function(original)).max(axis=-1)
        drift = np.abs(function(found_alone) - function(found[alone])).max(axis=-1)
        differences = np.abs(found - original).max(), np.abs(found_alone - original[alone]).max()
    max_logit = float(max(differences)) if finite else math.inf
    agreement = float(agree.mean())
    failures = []
    if wrong_ids:
        failures.append(
            f"token ids differ from the reference tokenizer's on {len(wrong_ids)} texts, e.g. {_shown(wrong_ids[0])}"
        )
    if not finite:
        failures.append("a logit is not finite")
    if precision == "fp32":
        tolerance = {"logits": FP32_LOGITS, "agreement": 1.0}
        if not max_logit <= FP32_LOGITS:
            failures.append(f"a logit differs by {max_logit:.2g}, more than {FP32_LOGITS:g}")
        if agreement < 1:
            failures.append(f"{int((~agree).sum())} of {len(agree)} answers differ")
    else:
        tolerance = {"agreement": min_agreement}
        if agreement < min_agreement:
            failures.append(f"agreement {agreement:.4f} on {len(agree)} texts, less than {min_agreement:g}")
    return Parity(
        reference=reference,
        texts=len(original),
        source=source,
        ids_equal=not wrong_ids,
        max_logit=_json_number(max_logit),
        max_probability=_json_number(float(changed.max())),
        mean_probability=_json_number(float(changed.mean())),
        agreement=agreement,
        agreement_low95=lower_bound(int(agree.sum()), len(agree)),
        tolerance=tolerance,
        batch_drift={
            "texts": len(alone),
            "max_probability": _json_number(float(drift.max())),
            "mean_probability": _json_number(float(drift.mean())),
        },
        failures=tuple(failures),
    )


def _forward(pipeline: TextClassificationPipeline, inputs: Arrays) -> Float32:
    try:
        return pipeline.forward(inputs)
    except InferenceError:
        # A logit that is not finite is a verdict here, not an accident.
        rows = len(inputs["input_ids"])
        return np.full((rows, len(pipeline.labels)), np.nan, dtype=np.float32)


def _pads(pipeline: TextClassificationPipeline) -> bool:
    spec = pipeline.tokenizer_spec
    return spec.pad_id is not None and spec.padding_side == "right"


def _wrong_ids(
    pipeline: TextClassificationPipeline, reference: Reference, texts: Sequence[TextInput], cut: Mapping[str, Any]
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
    return all(name not in wanted or np.array_equal(array, wanted[name]) for name, array in found.items())


def _shown(text: TextInput) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:59] + "…"


def _json_number(value: float) -> float:
    # JSON has no infinity; a difference that is not finite is as large as float32 goes.
    return value if math.isfinite(value) else float(np.finfo(np.float32).max)
