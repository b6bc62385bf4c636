"""The gate: what it measures, and that it finds each kind of fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchless.batching import pad
from torchless.errors import InferenceError
from torchless.manifest import TokenizerSpec
from torchless_export.comparison import answers_agree
from torchless_export.parity import FP32_LOGITS, Parity, judge, lower_bound

SPEC = TokenizerSpec(8, 8, "right", 0, 0, ("input_ids", "attention_mask"))
TEXTS = [*(f"text {i}" for i in range(40)), ("a pair", "of texts"), "far longer than eight characters", ""]
Arrays = dict[str, Any]


class Toy:
    """A model of letters: both the original, as a `Reference`, and what is judged, as a pipeline."""

    name = "numpy"
    provider = "CPUExecutionProvider"

    def __init__(
        self,
        labels: int = 2,
        problem_type: str = "single_label_classification",
        *,
        ids: Callable[[list[int]], list[int]] = lambda row: row,
        logits: Callable[[Arrays, np.ndarray], np.ndarray] = lambda inputs, logits: logits,
        mask: int = 0,
        spec: TokenizerSpec = SPEC,
    ) -> None:
        self.labels = tuple(f"LABEL_{i}" for i in range(labels))
        self.problem_type = problem_type
        self.tokenizer_spec = spec
        self.batches: list[tuple[int, int]] = []
        self._ids, self._logits, self._mask = ids, logits, mask
        self._weights = np.random.default_rng(0).normal(size=(128, labels)).astype(np.float32)

    def preprocess(self, texts: Any, *, truncation: bool = False, max_length: int | None = None) -> Arrays:
        items = [texts] if isinstance(texts, str | tuple) else texts
        rows = [self._ids([2, *(ord(c) % 125 + 3 for c in "".join(item))][:max_length]) for item in items]
        return {"input_ids": pad(rows, 0), "attention_mask": pad([[1] * len(row) for row in rows], self._mask)}

    def encode(self, texts: Sequence[Any], max_length: int | None) -> Arrays:
        return self.preprocess(list(texts), max_length=max_length)

    def forward(self, inputs: Arrays) -> np.ndarray:
        self.batches.append(inputs["input_ids"].shape)
        means = [
            self._weights[ids[mask == 1]].mean(axis=0)
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        return self._logits(inputs, np.stack(means))


def verdicts(
    *,
    min_agreement: float = 0.99,
    texts: Sequence[Any] = TEXTS,
    fp32: Toy | None = None,
    int8: Toy | None = None,
    reference: Any = None,
    **more: Any,
) -> dict[str, Parity]:
    pipelines: dict[str, Any] = {name: toy for name, toy in (("fp32", fp32), ("int8", int8)) if toy}
    return judge(pipelines, reference or Toy(), texts, source="toys", max_length=8, min_agreement=min_agreement, **more)


def row_with(inputs: Arrays, text: str) -> np.ndarray:
    """Tell which rows of a batch are `text`."""
    wanted = Toy().preprocess(text)["input_ids"][0]
    width = inputs["input_ids"].shape[1]
    if len(wanted) > width:
        return np.zeros(len(inputs["input_ids"]), bool)
    return (inputs["input_ids"] == np.pad(wanted, (0, width - len(wanted)))).all(axis=1)


def shifted(by: Sequence[float], text: str = "text 7", *, alone: bool = True, together: bool = True) -> Toy:
    """A toy whose logits for one text are moved."""

    def move(inputs: Arrays, logits: np.ndarray) -> np.ndarray:
        if not (alone if len(logits) == 1 else together):
            return logits
        return np.where(row_with(inputs, text)[:, None], logits + np.asarray(by, np.float32), logits)

    return Toy(logits=move)


def test_an_equal_variant_passes():
    found = verdicts(fp32=Toy(), int8=Toy())
    for name, parity in found.items():
        assert parity.passed, name
        assert parity.ids_equal
        assert (
            parity.differences["max_logit"],
            parity.differences["max_probability"],
            parity.differences["mean_probability"],
            parity.agreement,
        ) == (0, 0, 0, 1)
        assert parity.agreement_low95 == pytest.approx(0.05 ** (1 / len(TEXTS)))
        assert (parity.reference, parity.texts, parity.source) == ("numpy", len(TEXTS), "toys")
    assert found["fp32"].tolerance == {"logits": FP32_LOGITS, "agreement": 1.0}
    assert found["int8"].tolerance == {"agreement": 0.99}


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_one_wrong_id_fails(name: str):
    wrong = Toy(ids=lambda row: [*row[:-1], 1] if row == [2, *(ord(c) % 125 + 3 for c in "text 7")] else row)
    parity = (verdicts(fp32=wrong) if name == "fp32" else verdicts(int8=wrong))[name]
    assert not parity.passed
    assert not parity.ids_equal
    assert parity.failures[0] == "token ids differ from the reference tokenizer's on 1 texts, e.g. 'text 7'"


def test_wrong_padding_fails():
    assert "token ids differ" in verdicts(fp32=Toy(mask=1))["fp32"].failures[0]


@pytest.mark.parametrize(("types", "passes"), [(0, True), (1, False)])
def test_token_types_that_the_reference_does_not_give_are_zeros(
    types: int, passes: bool, monkeypatch: pytest.MonkeyPatch
):
    typed, plain = Toy(), Toy.preprocess

    def preprocess(self: Toy, texts: Any, **arguments: Any) -> Arrays:
        inputs = plain(self, texts, **arguments)
        return inputs | ({"token_type_ids": np.full_like(inputs["input_ids"], types)} if self is typed else {})

    monkeypatch.setattr(Toy, "preprocess", preprocess)
    assert verdicts(fp32=typed)["fp32"].ids_equal == passes


def test_ids_of_further_texts_are_compared():
    wrong = Toy(ids=lambda row: row if len(row) != 4 else [*row[:-1], 1])
    seen: list[tuple[int, int]] = []
    found = verdicts(fp32=wrong, ids_only=["long enough", "abc"], progress=lambda *at: seen.append(at))
    assert "on 1 texts, e.g. 'abc'" in found["fp32"].failures[0]
    assert seen[-1] == (len(TEXTS) + 2, len(TEXTS) + 2)
    assert seen == sorted(seen)


@pytest.mark.parametrize("company", ["alone", "together"])
@pytest.mark.parametrize(("by", "passes"), [(2e-4, False), (5e-5, True)])
def test_a_logit_of_fp32_may_move_by_1e_4(by: float, passes: bool, company: str):
    toy = shifted([by, 0.0], alone=company == "alone", together=company == "together")
    parity = verdicts(fp32=toy)["fp32"]
    assert parity.passed is passes
    assert parity.differences["max_logit"] == pytest.approx(by, rel=0.1)
    if not passes:
        assert "a logit differs by 0.0002, more than 0.0001" in parity.failures


@pytest.mark.parametrize(("min_agreement", "passes"), [(0.99, False), (0.97, True), (0, True)])
def test_a_flipped_label_counts(min_agreement: float, passes: bool):
    lead = np.diff(Toy().forward(Toy().preprocess("text 7")))[0, 0]
    toy = shifted([2 * lead, 0.0])
    found = verdicts(fp32=toy, int8=toy, min_agreement=min_agreement)
    assert found["fp32"].failures[-1] == f"1 of {len(TEXTS)} answers differ"
    assert found["int8"].passed is passes
    assert found["int8"].agreement == pytest.approx(1 - 1 / len(TEXTS))
    assert found["int8"].differences["max_logit"] == pytest.approx(abs(2 * lead))
    assert 0 < found["int8"].differences["mean_probability"] < found["int8"].differences["max_probability"] < 1
    assert found["int8"].differences["mean_probability"] == pytest.approx(
        found["int8"].differences["max_probability"] / len(TEXTS)
    )


def test_a_tie_has_no_right_answer_for_fp32_alone():
    lead = float(np.diff(Toy().forward(Toy().preprocess("text 7")))[0, 0])
    reference, over = shifted([lead - 1e-4, 0.0]), shifted([lead + 1e-4, 0.0])
    found = verdicts(fp32=over, int8=over, reference=reference)
    assert found["fp32"].agreement == 1
    assert found["int8"].agreement < 1


def _refuse(inputs: Arrays, logits: np.ndarray) -> np.ndarray:
    if row_with(inputs, "text 7").any():
        raise InferenceError("row 0 is not finite")
    return logits


@pytest.mark.parametrize(
    "toy", [shifted([math.nan, 0]), shifted([math.inf, 0]), shifted([math.nan, 0], together=False), Toy(logits=_refuse)]
)
def test_a_logit_that_is_not_finite_fails(toy: Toy):
    found = verdicts(fp32=toy, int8=toy, min_agreement=0.01)
    for parity in found.values():
        assert "a logit is not finite" in parity.failures
        assert all(
            math.isfinite(n)
            for n in (
                parity.differences["max_logit"],
                parity.differences["max_probability"],
                parity.differences["mean_probability"],
            )
        )


@pytest.mark.parametrize(("count", "proven"), [(499, False), (500, True)])
def test_fewer_than_500_texts_prove_nothing(count: int, proven: bool):
    parity = verdicts(int8=Toy(), texts=[f"{i}" for i in range(count)])["int8"]
    assert parity.passed
    assert parity.proven is proven
    assert parity.to_manifest()["proven"] is proven


@pytest.mark.parametrize(("count", "promised", "again"), [(20, 0.01, 20), (300, 0.01, 128), (20, 0, 16), (300, 0, 16)])
def test_batch_drift_is_measured(count: int, promised: float, again: int):
    drifting = Toy(logits=lambda inputs, logits: logits + np.float32([0.0 if len(logits) == 1 else 0.5, 0]))
    texts = [f"{i:05}" for i in range(count)]
    drift = verdicts(int8=drifting, min_agreement=promised, texts=texts)["int8"].batch_drift
    assert drift["texts"] == again
    assert 0.05 < drift["mean_probability"] <= drift["max_probability"] < 0.2


@pytest.mark.parametrize("spec", [replace(SPEC, padding_side="left"), replace(SPEC, pad_id=None)])
def test_where_padding_matters_every_text_is_judged_alone(spec: TokenizerSpec):
    toy = Toy(spec=spec)
    assert verdicts(fp32=toy)["fp32"].passed
    assert {rows for rows, _ in toy.batches} == {1}
    batched = Toy()
    verdicts(fp32=batched)
    assert max(rows for rows, _ in batched.batches) > 1


def test_what_the_manifest_records_is_what_was_measured():
    record = verdicts(int8=Toy())["int8"].to_manifest()
    assert record.keys() - {"proven"} == {
        "reference", "texts", "source", "ids_equal", "max_logit", "max_probability", "mean_probability", "agreement",
        "agreement_low95", "tolerance", "batch_drift", "device",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("problem_type", "original", "found", "slack", "agree"),
    [
        ("single_label_classification", [0.0, 1.0, 2.0], [0.0, 1.9, 2.0], 0.0, True),
        ("single_label_classification", [0.0, 1.0, 2.0], [0.0, 2.1, 2.0], 0.0, False),
        ("single_label_classification", [1.0, 1.0], [0.9, 1.0], 0.0, True),  # a tie: either is right
        ("single_label_classification", [1.0, 1.0001], [1.0001, 1.0], 0.0, False),
        ("single_label_classification", [1.0, 1.0001], [1.0001, 1.0], 2e-4, True),
        ("single_label_classification", [1.0, 1.001], [1.001, 1.0], 2e-4, False),
        ("multi_label_classification", [1.0, -1.0], [0.1, -0.1], 0.0, True),
        ("multi_label_classification", [1.0, -1.0], [3.0, 0.1], 0.0, False),
        ("multi_label_classification", [1.0, -0.0001], [3.0, 0.0001], 0.0, False),
        ("multi_label_classification", [1.0, -0.0001], [3.0, 0.0001], 2e-4, True),
        ("single_label_classification", [1.0], [-1.0], 0.0, False),  # one label alone is a yes or no
        ("single_label_classification", [1.0], [0.5], 0.0, True),
    ],
)
def test_answers_agree(problem_type: str, original: list, found: list, slack: float, agree: bool):
    rows = (np.array([values], np.float32) for values in (original, found))
    assert answers_agree(*rows, problem_type, slack).tolist() == [agree]


def test_a_regression_may_move_by_a_tenth_of_the_originals_spread():
    original = np.array([[-1.0, 0.0], [1.0, 0.0]], np.float32)  # standard deviations 1 and 0
    found = original + np.array([[0.09, 0.0], [0.11, 0.0]], np.float32)
    assert answers_agree(original, found, "regression").tolist() == [True, False]
    assert answers_agree(original, original + np.float32([0, 0.01]), "regression").tolist() == [False, False]


# From mpmath's regularized incomplete beta function, whose inverse the bound is.
@pytest.mark.parametrize(
    ("agreeing", "texts", "bound"),
    [
        (796, 800, 0.988594916033727),
        (490, 500, 0.966311727668856),
        (613, 613, 0.05 ** (1 / 613)),
        (59, 59, 0.05 ** (1 / 59)),
        (1, 1, 0.05),
        (1, 10, 1 - 0.95 ** (1 / 10)),
        (0, 10, 0.0),
    ],
)
def test_lower_bound_is_clopper_and_pearsons(agreeing: int, texts: int, bound: float):
    assert lower_bound(agreeing, texts) == pytest.approx(bound, abs=1e-9)


@given(data=st.data(), texts=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_at_the_bound_the_outcome_or_a_better_one_has_the_probability_0_05(data: st.DataObject, texts: int):
    agreeing = data.draw(st.integers(1, texts))
    p = lower_bound(agreeing, texts)
    assert 0 < p <= agreeing / texts
    seen = math.fsum(math.comb(texts, i) * p**i * (1 - p) ** (texts - i) for i in range(agreeing, texts + 1))
    assert seen == pytest.approx(0.05, rel=1e-6)


def test_more_confidence_is_a_lower_bound():
    assert lower_bound(90, 100, 0.99) < lower_bound(90, 100) < lower_bound(90, 100, 0.5) < 0.9


def test_the_accuracy_of_both_is_told_where_labels_are_known():
    wanted = Toy().forward(Toy().encode(TEXTS, 8)).argmax(axis=-1)
    labels = [int(label) for label in wanted[:40]]
    labels[3] = 1 - labels[3]
    found = verdicts(int8=shifted((100, -100), "text 7"), min_agreement=0, labels=labels)["int8"]
    right = 39 - (wanted[7] == 1)
    assert found.accuracy == {"original": pytest.approx(39 / 40), "variant": pytest.approx(right / 40), "texts": 40}
    assert found.to_manifest()["accuracy"] == found.accuracy
    assert "accuracy" not in verdicts(int8=Toy())["int8"].to_manifest()


@pytest.mark.parametrize("way", ["alone", "padding", "random batches"])
def test_batch_invariance_is_proven_in_every_company(way: str):
    def move(inputs: Arrays, logits: np.ndarray) -> np.ndarray:
        rows, width = inputs["input_ids"].shape
        kind = (
            "random batches" if rows > 1 else "alone" if width <= 8 and (inputs["input_ids"][0, -1] > 0) else "padding"
        )
        if kind == "random batches":
            move.batches += 1  # type: ignore[attr-defined]
            kind = kind if move.batches > 2 else ""  # type: ignore[attr-defined]
        return logits + np.float32(0.01 * (kind == way)) * np.array([1, -1], np.float32)

    move.batches = 0  # type: ignore[attr-defined]
    long = [text for text in TEXTS if text != ""]
    found = verdicts(int8=Toy(logits=move), texts=long, min_agreement=0, batch_invariant=True)["int8"]
    assert not found.passed
    assert found.failures[0].startswith("an answer changes with its batch by 0.00")
    assert found.tolerance["batch_drift"] == 1e-6
    same = verdicts(int8=Toy(), fp32=Toy(), min_agreement=0, batch_invariant=True)
    assert same["int8"].passed
    assert "batch_drift" not in same["fp32"].tolerance
