"""The recipes of int8 on the sample checkpoint, and what they promise: bits that no batch changes, small errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="exporting needs the extra `export`")
ort = pytest.importorskip("onnxruntime", reason="graphs are run by ONNX Runtime")
pytest.importorskip("safetensors", reason="exporting needs the extra `export`")

from built_graphs import run  # noqa: E402
from torchless_export.checkpoint import open_checkpoint  # noqa: E402
from torchless_export.graph import build  # noqa: E402
from torchless_export.recipes import FIXED, PLAIN, SMOOTHED, Applied, Recipe, _limits, measure_statistics  # noqa: E402
from torchless_export.weights import Weights  # noqa: E402

IDS = np.random.default_rng(0).integers(5, 8000, (24, 12))


def inputs(rows: np.ndarray, padding: int = 0) -> dict[str, np.ndarray]:
    wide = np.pad(rows, ((0, 0), (0, padding)))
    return {"input_ids": wide, "attention_mask": (wide > 0).astype(np.int64)}


@pytest.fixture(scope="module")
def applied(sample_checkpoint: Path) -> Applied:
    source = open_checkpoint(sample_checkpoint)
    with Weights(source) as weights:
        model = build(source, weights)
    return Applied(model, lambda: measure_statistics(model, [inputs(IDS[:12]), inputs(IDS[12:, :5])]))


@pytest.mark.parametrize("recipe", [PLAIN, *SMOOTHED, *FIXED], ids=lambda recipe: recipe.name)
def test_each_recipe_is_close_to_fp32(applied: Applied, recipe: Recipe):
    model = applied.quantize(recipe).model
    onnx.checker.check_model(model, full_check=True)
    wanted, found = run(applied.model, inputs(IDS)), run(model, inputs(IDS))
    assert 0 < np.abs(found - wanted).max() < 0.3


@pytest.mark.parametrize("recipe", FIXED, ids=lambda recipe: recipe.name)
def test_under_fixed_ranges_no_company_changes_an_answer(applied: Applied, recipe: Recipe):
    model = applied.quantize(recipe).model
    alone = np.concatenate([run(model, inputs(row[None])) for row in IDS])
    np.testing.assert_allclose(run(model, inputs(IDS)), alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(model, inputs(IDS, padding=9)), alone, rtol=0, atol=1e-6)
    dynamic = applied.quantize(PLAIN).model
    assert np.abs(run(dynamic, inputs(IDS)) - np.concatenate([run(dynamic, inputs(r[None])) for r in IDS])).max() > 1e-4


def test_what_is_kept_in_fp32_is_not_touched(applied: Applied):
    everything = tuple(group.name for group in applied.groups)
    kept = applied.quantize(replace(FIXED[0], fp32=everything, embeddings="fp16")).model
    assert not any("Integer" in node.op_type for node in kept.graph.node)
    np.testing.assert_allclose(run(kept, inputs(IDS)), run(applied.model, inputs(IDS)), rtol=0, atol=5e-3)
    one = applied.quantize(replace(FIXED[0], fp32=everything[:1])).model
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in one.graph.node) == len(
        [name for group in applied.groups[1:] for name in group.products]
    )


def test_embeddings_in_float16_are_half_of_float32(applied: Applied):
    sizes = {
        kind: applied.quantize(replace(PLAIN, embeddings=kind)).model.ByteSize() for kind in ("int8", "fp16", "fp32")
    }
    table = 8192 * 128
    assert sizes["fp16"] - sizes["int8"] == pytest.approx(table, rel=0.05)
    assert sizes["fp32"] - sizes["fp16"] == pytest.approx(2 * table, rel=0.05)


def test_statistics_are_those_of_the_activations(applied: Applied):
    found = applied.statistics
    assert set(found.lows) == {group.activation for group in applied.groups}
    for name, moments in found.moments.items():
        largest = np.maximum(np.abs(found.lows[name]), np.abs(found.highs[name]))
        assert (np.diag(moments) <= found.rows[name] * largest**2 * (1 + 1e-5)).all()
        np.testing.assert_allclose(moments, moments.T, rtol=1e-3, atol=1e-3)
    assert max(found.rows.values()) == 12 * 12 + 12 * 5
    assert min(found.rows.values()) == 24  # the last layer reads first tokens
    assert found.normed
    assert not found.shared


def test_outliers_are_multiplied_in_fp32(applied: Applied):
    """A feature far outside is taken out of the range, and its values are not lost."""
    statistics = applied.statistics
    name = next(g.activation for g in applied.groups if g.name == "layer 0 feed-forward out")
    highs = dict(statistics.highs)
    highs[name] = highs[name].copy()
    highs[name][7] = 40 * highs[name].max()
    pretended = Applied(applied.model, lambda: replace(statistics, highs=highs))
    model = pretended.quantize(FIXED[0]).model
    assert any("outliers_MatMul" in node.name for node in model.graph.node)
    wanted = run(applied.model, inputs(IDS))
    assert np.abs(run(model, inputs(IDS)) - wanted).max() < 0.3


def test_limits_leave_out_what_is_far_outside():
    lows, highs = np.full(40, -1.0), np.full(40, 2.0)
    assert _limits(lows, highs, (1, 2, 4)) == ((-1.0, 2.0), ())
    highs[3], lows[9] = 30, -20
    assert _limits(lows, highs, (1, 2, 4)) == ((-1.0, 2.0), (3, 9))
    assert _limits(lows, highs, ()) == ((-20.0, 30.0), ())
    assert _limits(lows, highs, (1,)) == ((-20.0, 2.0), (3,))
    assert _limits(np.full(40, -28.0), highs, (1,)) == ((-28.0, 30.0), ())  # too little narrower
    assert _limits(lows[:4], highs[:4], (1, 2, 4)) == ((-1.0, 30.0), ())  # nothing would be left
    assert _limits(np.full(8, 0.5), np.full(8, 2.0), (1,)) == ((0.0, 2.0), ())
