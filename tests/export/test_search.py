"""The search: plain int8 where it is good enough, else what keeps the promise, else the best there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="exporting needs the extra `export`")
pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("safetensors", reason="exporting needs the extra `export`")

import onnx

from quantized_graphs import negate_int8
from torchless.errors import InputError, ParityError
from torchless_export import export, search, trials
from torchless_export.report import ExportReport
from torchless_export.trials import Judgement

WORDS = ("good", "bad", "dull", "film", "plot", "with", "no", "heart", "it", "is", "long", "and", "very")
TEXTS = [" ".join(WORDS[(i * k + k) % 13] for k in range(1, 4 + i % 9)) + f" {i}" for i in range(40)]

Export = Callable[..., ExportReport]


@pytest.fixture
def make(sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Export the sample, each model timed for a moment only."""
    monkeypatch.setattr("torchless_export.tuning._SECONDS", 0.001)
    monkeypatch.setattr("torchless_export.tuning._ROUNDS", 1)

    def export_sample(**options: Any) -> ExportReport:
        given = {"variants": ["int8"], "calibration": TEXTS, "shapes": "1x4,2x4", "min_agreement": 0.9} | options
        return export(sample_checkpoint, tmp_path / "bundle", **given)

    return export_sample


def pretend(monkeypatch: pytest.MonkeyPatch, verdict: Callable[[int], float]) -> list[int]:
    """Let the disagreement of the n-th model judged be `verdict(n)`, n from 0."""
    judged: list[int] = []

    def judge(self: trials.ChoosingTexts, model: Any, *, unsure: bool = False) -> Judgement:
        judged.append(len(judged))
        return Judgement(disagreement=verdict(judged[-1]), changed=0.0, moved=1.0 + judged[-1] % 3)

    monkeypatch.setattr(trials.ChoosingTexts, "judge", judge)
    return judged


def made(report: ExportReport) -> dict[str, Any]:
    found = report.variants["int8"].quantization
    assert found is not None
    return dict(found)


def test_plain_int8_is_enough_and_nothing_else_is_tried(make: Export, monkeypatch: pytest.MonkeyPatch):
    judged = pretend(monkeypatch, lambda n: 0.0)
    found = made(make())
    assert judged == [0]
    assert found["recipe"]["name"] == "plain"
    assert found["search"]["accepted"] is True
    assert [trial["name"] for trial in found["search"]["tried"]] == ["plain"]
    assert "milliseconds" not in found["search"]["tried"][0]


def test_where_nothing_is_asked_nothing_is_judged(make: Export, monkeypatch: pytest.MonkeyPatch):
    judged = pretend(monkeypatch, lambda n: 1.0)
    found = made(make(min_agreement=0))
    assert judged == []
    assert found["recipe"]["name"] == "plain"
    assert "search" not in found


def test_fixed_ranges_where_plain_is_not_enough(make: Export, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, lambda n: 0.0 if n in (1, 2) else 1.0)
    found = made(make())
    assert found["recipe"]["activations"] == "fixed ranges"
    tried = {trial["name"]: trial for trial in found["search"]["tried"]}
    assert set(tried) == {"plain", "fixed ranges, alpha 0.6", "fixed ranges, alpha 0.75", "smoothed", "fp32"}
    assert [name for name, trial in tried.items() if trial.get("accepted")] == list(tried)[1:3]
    assert all(set(trial["milliseconds"]) == {"1x4", "2x4"} for trial in tried.values())
    assert tried["plain"]["speed"] == 1


def test_of_those_that_are_good_enough_the_more_faithful_stays_unless_another_is_faster():
    def trial(name: str, disagreement: float, speed: float) -> search.Trial:
        return search.Trial(search.Recipe(name), Judgement(disagreement, 0, 0), True, 1, {"1x4": 1.0}, speed)

    found = search.Search.__new__(search.Search)
    found._applied = type("NoGroups", (), {"groups": ()})()
    a, b = trial("a", 0.001, 1.0), trial("b", 0.002, 1.02)
    assert found._fastest([b, a]) is a  # 2 % are noise
    assert found._fastest([b, a, c := trial("c", 0.003, 1.2)]) is c


def by_int8_products(monkeypatch: pytest.MonkeyPatch, enough: int) -> None:
    """Let a model be right where at most `enough` of its products are in int8."""

    def judge(self: trials.ChoosingTexts, model: Any, *, unsure: bool = False) -> Judgement:
        count = sum(node.op_type in ("MatMulInteger", "MatMulIntegerToFloat") for node in model.graph.node)
        return Judgement(disagreement=0.0 if count <= enough else 0.2, changed=0.1, moved=float(count))

    monkeypatch.setattr(trials.ChoosingTexts, "judge", judge)


def test_groups_are_kept_in_fp32_until_it_is_enough(make: Export, monkeypatch: pytest.MonkeyPatch):
    by_int8_products(monkeypatch, enough=8)
    found = made(make(min_agreement=0.85))
    assert found["search"]["accepted"] is True
    kept = found["recipe"]["fp32"]
    assert kept
    assert found["recipe"]["embeddings"] == "fp16"
    sensitivity = {row["group"]: row for row in found["search"]["sensitivity"]}
    assert set(kept) < set(sensitivity)
    assert sum(row["share"] for row in sensitivity.values()) == pytest.approx(1, abs=1e-3)
    last = [trial for trial in found["search"]["tried"] if trial["fp32"]]
    assert [trial["accepted"] for trial in last] == [False] * (len(last) - 1) + [True]


def test_where_too_much_would_be_fp32_the_best_is_kept(make: Export, monkeypatch: pytest.MonkeyPatch):
    by_int8_products(monkeypatch, enough=1)
    report = make(min_agreement=0.85)
    found = made(report)
    assert found["search"]["accepted"] is False
    assert "no recipe is expected to keep 0.85; this is the best of them" in str(report)


def test_what_is_out_of_reach_is_sought_among_the_most_faithful(make: Export, monkeypatch: pytest.MonkeyPatch):
    """Asked for more than any recipe is expected to keep, the search must not keep less than when asked for less."""

    def judge(self: trials.ChoosingTexts, model: Any, *, unsure: bool = False) -> Judgement:
        count = sum(node.op_type in ("MatMulInteger", "MatMulIntegerToFloat") for node in model.graph.node)
        return Judgement(disagreement=0.01 * count, changed=0.0, moved=float(count))

    monkeypatch.setattr(trials.ChoosingTexts, "judge", judge)
    found = made(make(min_agreement=0.99))
    assert found["search"]["accepted"] is False
    share = {row["group"]: row["share"] for row in found["search"]["sensitivity"]}
    kept = found["recipe"]["fp32"]
    # Whatever is left would make more than 60 % of the work fp32.
    assert kept
    assert sum(share[group] for group in kept) <= 0.6


def test_a_batch_invariant_variant_tries_fixed_ranges_alone(make: Export, monkeypatch: pytest.MonkeyPatch):
    report = make(batch_invariant=True)
    found, parity = made(report), report.variants["int8"].parity
    assert found["recipe"]["activations"] == "fixed ranges"
    assert {trial["activations"] for trial in found["search"]["tried"] if trial["name"] != "fp32"} == {"fixed ranges"}
    assert found["search"]["tried"][0]["speed"] > 0  # beside plain int8, which is none of them
    assert parity.tolerance["batch_drift"] == 1e-6
    assert parity.batch_drift["max_probability"] <= 1e-6


def test_a_batch_invariant_variant_asks_for_its_last_layer_twice(make: Export, tmp_path: Path):
    """A single row of queries is added up in an order that goes by the padding: `graph.Form.last_layer`."""
    make(batch_invariant=True, variants=["fp32", "int8"])
    for name, twice in (("model.onnx", 0), ("model_int8.onnx", 1)):
        nodes = onnx.load(tmp_path / "bundle" / name).graph.node
        assert sum(n.op_type == "Concat" and n.input[0] == n.input[1] for n in nodes) == twice


def test_what_is_out_of_reach_fails_and_says_what_is_not(make: Export, monkeypatch: pytest.MonkeyPatch):
    """Every int8 gives the wrong answer to most texts here."""
    negate_int8(monkeypatch)
    with pytest.raises(ParityError) as refused:
        make()
    line = str(refused.value)
    assert "int8 refused: agreement 0.0" in line
    assert "less than 0.9 with the best of 5 recipes (" in line
    assert line.endswith("--variant fp32 keeps every answer; nothing was written")
    assert made(refused.value.report)["search"]["accepted"] is False


def test_sensitivity_is_measured_when_asked(make: Export, sample_checkpoint: Path):
    report = make(sensitivity=True)
    found = made(report)
    assert found["recipe"]["name"] == "plain"
    rows = found["search"]["sensitivity"]
    assert len({row["group"] for row in rows}) == len(rows) >= 10
    assert all(row["moved"] >= 0 for row in rows)
    assert any(row["moved"] > 0 for row in rows)
    assert "layer 0 feed-forward in" in report.details()
    assert set(report.charts()) == {"sensitivity.svg"}


def test_shapes_that_the_model_cannot_run_are_refused(make: Export):
    """Left out in silence, they would leave the search without a time to go by."""
    with pytest.raises(InputError, match="its position table holds 512 tokens; time it at shorter shapes"):
        make(shapes="1x4,1x513")
