"""`torchless_export.tuning`: the forms of a graph, timed; and exports that keep the fastest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("safetensors")

from torchless.errors import InputError, ParityError
from torchless.manifest import OutputSpec, Variant
from torchless_export import export, exporter, tuning
from torchless_export.graph import Form, candidates

TEXTS = ["a good film", "Bad, bad, bad.", "what a waste of life!", "fine", "a dull plot"]
OUTPUT = OutputSpec("logits", "float32", ("batch", "labels"))
VARIANT = Variant(("m",), "fp32", "any", (), "graph", 20, {"input_ids": "int64", "attention_mask": "int64"}, OUTPUT)
FORMS = candidates("cpu")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, ()),
        (False, ()),
        (True, tuning.DEFAULT_SHAPES),
        ("1x16", ((1, 16),)),
        ("1x16, 32x32,1x16", ((1, 16), (32, 32))),
        (["1x16", (8, 128)], ((1, 16), (8, 128))),
        ([(1, 16), [2, 3]], ((1, 16), (2, 3))),
    ],
)
def test_shapes(given: Any, read: Any) -> None:
    assert tuning.read_shapes(given) == read


@pytest.mark.parametrize(
    "given",
    ["", "16", "0x16", "1x0", "1x16,", "ax2", "-1x16", [], [(1,)], [(1, 2, 3)], 3, ["1x-1"], (1, 16), [None], b"1x16"],
)
def test_wrong_shapes(given: Any) -> None:
    with pytest.raises(InputError, match=r"^(shapes|tune is)"):
        tuning.read_shapes(given)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[Form, float]], tuning.Tuning]:
    """Return a function that tunes where a form takes so many milliseconds, on a machine that slows down."""

    def run(milliseconds: dict[Form, float]) -> tuning.Tuning:
        calls: list[Path] = []

        def time(path: Path, variant: Variant, batches: Any, device: Any) -> tuple[dict[str, float], int]:
            calls.append(path)
            slower = 1 + len(calls) // len(milliseconds)
            form = FORMS[int(path.stem)]
            return {shape: milliseconds[form] * slower * (i + 1) for i, shape in enumerate(batches)}, 2

        monkeypatch.setattr(tuning, "_time", time)
        paths = {form: Path(f"{FORMS.index(form)}.onnx") for form in milliseconds}
        result = tuning.tune(paths, VARIANT, ((1, 4), (2, 8)), vocabulary=9)
        rounds = [calls[i : i + len(paths)] for i in range(0, len(calls), len(paths))]
        assert all(sorted(turn) == sorted(paths.values()) for turn in rounds)  # each form once in each round
        assert len({tuple(turn) for turn in rounds}) > 1  # in another order
        return result

    return run


def test_the_fastest_stands_first(timed: Any) -> None:
    found = timed(dict(zip(FORMS, (1.0, 0.5, *[2.0] * len(FORMS[2:])), strict=True)))
    assert [trial.form for trial in found.trials] == [FORMS[1], FORMS[0], *FORMS[2:]]
    assert [trial.ratio for trial in found.trials] == pytest.approx([0.5, 1, *[2] * len(FORMS[2:])], rel=0.5)
    assert set(found.trials[0].milliseconds) == {"1x4", "2x8"}
    recorded = found.to_manifest(FORMS[1])
    assert recorded["form"]["qkv"] == FORMS[1].qkv
    assert [row["ratio"] for row in recorded["tried"]] == [round(trial.ratio, 4) for trial in found.trials]
    assert recorded["threads"] == 2
    assert recorded["processor"]
    json.dumps(recorded)


def test_what_could_be_noise_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    times = dict(zip(FORMS, (1.0, 0.99, *[1.001] * len(FORMS[2:])), strict=True))
    monkeypatch.setattr(
        tuning,
        "_time",
        lambda path, variant, batches, device: (dict.fromkeys(batches, times[FORMS[int(path.stem)]]), 1),
    )
    found = tuning.tune({f: Path(f"{i}.onnx") for i, f in enumerate(FORMS)}, VARIANT, ((1, 4),), vocabulary=9)
    assert found.trials[0].form == FORMS[0]


@pytest.fixture
def fast_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_ROUNDS", 2)
    monkeypatch.setattr(tuning, "_SECONDS", 0.01)
    monkeypatch.setattr(exporter, "default_texts", lambda: TEXTS)


@pytest.mark.usefixtures("fast_rounds")
def test_a_tuned_export_records_what_was_tried(sample_checkpoint: Path, tmp_path: Path) -> None:
    steps = []
    report = export(
        sample_checkpoint, tmp_path / "bundle", tune="1x4,2x8", calibration=TEXTS, min_agreement=0,
        progress=lambda step, done, total: steps.append((step, done, total)),
    )  # fmt: skip
    manifest = json.loads((tmp_path / "bundle" / "torchless.json").read_bytes())
    for name, variant in manifest["variants"].items():
        tuned = variant["tuning"]
        assert tuned == report.variants[name].tuning
        assert len(tuned["tried"]) == len(FORMS)
        assert tuned["form"] == tuned["tried"][0]["form"]
        assert all(set(row["milliseconds"]) == {"1x4", "2x8"} for row in tuned["tried"])
        assert all(value > 0 for row in tuned["tried"] for value in row["milliseconds"].values())
    told = [step[1:] for step in steps if step[0] == "tune"]
    assert told[-1] == (2 * len(FORMS), 2 * len(FORMS))
    assert sorted(p.name for p in (tmp_path / "bundle").iterdir() if p.suffix != ".json") == [
        "model.onnx",
        "model_int8.onnx",
    ]
    assert json.loads(report.to_json())["variants"]["fp32"]["tuning"] == manifest["variants"]["fp32"]["tuning"]


@pytest.mark.usefixtures("fast_rounds")
@pytest.mark.parametrize("wrong", [1, len(FORMS)])
def test_a_form_that_fails_the_gate_gives_way_to_the_next(
    sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    """The first `wrong` forms in order of their speed give other answers."""
    monkeypatch.setattr(
        tuning, "_time", lambda path, variant, batches, device: (dict.fromkeys(batches, 9.0 - int(path.stem)), 1)
    )
    ranked = list(reversed(FORMS))
    build = exporter.converters.graph.build

    def other(*arguments: Any, form: Form | None = None, **options: Any) -> Any:
        model = build(*arguments, form=form, **options)
        if form in ranked[:wrong]:
            bias = next(tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
            bias.raw_data = bytes(reversed(bias.raw_data))
        return model

    monkeypatch.setattr(exporter.converters.graph, "build", other)

    def run() -> Any:
        return export(sample_checkpoint, tmp_path / "bundle", variants="fp32", tune=True, calibration=TEXTS)

    if wrong == len(FORMS):
        with pytest.raises(ParityError, match="fp32 refused"):
            run()
        assert not (tmp_path / "bundle").exists()
        return
    report = run()
    tuned = report.variants["fp32"].tuning
    assert report.passed
    assert tuned["form"] == tuned["tried"][wrong]["form"] != tuned["tried"][0]["form"]


def test_shapes_that_the_model_has_no_positions_for(sample_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its position table holds 512 tokens; time it at shorter shapes"):
        export(sample_checkpoint, tmp_path / "bundle", tune="1x513", calibration=TEXTS)
    assert not (tmp_path / "bundle").exists()


def test_only_written_graphs_have_forms(sample_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("optimum")
    with pytest.raises(InputError, match="tune: the converter optimum has nothing to tune"):
        export(sample_checkpoint, tmp_path / "bundle", tune=True, converter="optimum", calibration=TEXTS)


@pytest.mark.usefixtures("fast_rounds")
def test_a_config_that_leaves_the_vocabulary_to_its_default(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("distilbert", vocab_size=30522)
    config = json.loads((checkpoint / "config.json").read_bytes())
    del config["vocab_size"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    report = export(checkpoint, tmp_path / "bundle", variants="fp32", tune="1x4", calibration=TEXTS)
    assert report.variants["fp32"].tuning is not None
