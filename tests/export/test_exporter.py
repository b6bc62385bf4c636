"""From a checkpoint to a bundle, end to end: what comes out answers as PyTorch does, and says what it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from torchless.bundle import Bundle
from torchless.manifest import MANIFEST_NAME
from torchless_export.report import ExportReport

pytest.importorskip("onnx")
pytest.importorskip("optimum")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import onnx
import torch
import transformers

from exports import LONG, MAX_LENGTH, TEXTS, digests, encode, fast_export, pytorch_logits
from torchless_export import bundling, export

CASES: dict[str, dict[str, Any]] = {
    "distilbert": {"family": "distilbert"},
    "distilbert through optimum": {"family": "distilbert", "converter": "optimum"},
    "bert with 5 labels": {"family": "bert", "labels": 5},
    "roberta for regression": {"family": "roberta", "labels": 1, "problem_type": "regression"},
    "albert with one label": {"family": "albert", "labels": 1},
    "mpnet with several labels at once": {
        "family": "mpnet", "labels": 3, "problem_type": "multi_label_classification"
    },
    "deberta-v2 with relative positions": {
        "family": "deberta-v2", "labels": 5, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False, "position_buckets": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    checkpoint: Path
    bundle: Path
    converter: str
    report: ExportReport
    steps: list[tuple[str, int, int]]

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.bundle / MANIFEST_NAME).read_text())


@pytest.fixture(scope="module", params=CASES)
def exported(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """A checkpoint of each family, exported in both variants."""
    options = dict(CASES[request.param])
    converter = options.pop("converter", "auto")
    checkpoint = make_checkpoint(**options)
    bundle = tmp_path_factory.mktemp("exported") / "bundle"
    steps: list[tuple[str, int, int]] = []
    report = export(
        checkpoint, bundle, converter=converter, calibration=TEXTS, min_agreement=0,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    return Exported(checkpoint, bundle, "graph" if converter == "auto" else converter, report, steps)


def test_logits_are_those_of_pytorch(exported: Exported):
    with torchless.pipeline(model=str(exported.bundle), variant="fp32") as pipeline:
        for texts in (TEXTS, [TEXTS[0]], [LONG], [LONG, "x"], ["", "x"]):
            inputs = pipeline.preprocess(texts, truncation=True)
            wanted = encode(exported.checkpoint, texts, padding=True, truncation=True, max_length=MAX_LENGTH)
            for name, array in inputs.items():
                np.testing.assert_array_equal(array, wanted[name], err_msg=name)
            logits = pytorch_logits(exported.checkpoint, texts)
            np.testing.assert_allclose(pipeline.forward(inputs), logits, rtol=0, atol=1e-4)


def test_answers_are_those_of_transformers(exported: Exported):
    theirs = transformers.pipeline("text-classification", str(exported.checkpoint), device="cpu")
    with torchless.pipeline(model=str(exported.bundle), variant="fp32") as ours:
        texts = [text for text in TEXTS if isinstance(text, str)]
        wanted = theirs(texts, top_k=None, truncation=True)
        for found, expected in zip(ours(texts, top_k=None, truncation=True), wanted, strict=True):
            assert [row["label"] for row in found] == [row["label"] for row in expected]
            assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], abs=1e-4)


def test_the_int8_variant_answers(exported: Exported):
    with torchless.pipeline(model=str(exported.bundle), variant="int8") as pipeline:
        logits = pipeline.forward(pipeline.preprocess(TEXTS, truncation=True))
    wanted = pytorch_logits(exported.checkpoint, TEXTS)
    assert np.abs(logits - wanted).max() < 0.2 * max(1.0, np.abs(wanted).max())


def test_the_manifest_says_what_was_exported(exported: Exported):
    manifest = exported.manifest
    config = json.loads((exported.checkpoint / "config.json").read_text())
    labels = list(config["id2label"].values()) if "id2label" in config else ["LABEL_0", "LABEL_1"]
    assert list(manifest) == [
        "format", "task", "architecture", "labels", "problem_type", "tokenizer", "files", "variants", "provenance",
    ]  # fmt: skip
    assert (manifest["format"], manifest["task"]) == ("1.0", "text-classification")
    assert manifest["architecture"] == config["model_type"]
    assert manifest["labels"] == labels
    alone = "multi_label_classification" if len(labels) == 1 else "single_label_classification"
    assert manifest["problem_type"] == config.get("problem_type", alone)
    tokenizer = manifest["tokenizer"]
    assert {"max_length", "padding_side", "pad_id", "pad_type_id", "inputs"} <= tokenizer.keys()
    assert (tokenizer["max_length"], tokenizer["padding_side"]) == (MAX_LENGTH, "right")
    assert tokenizer["pad_id"] == config["pad_token_id"]


def test_the_manifest_lists_every_file_as_it_is(exported: Exported):
    listed = {entry["path"]: (entry["size"], entry["sha256"]) for entry in exported.manifest["files"]}
    found = {
        name: ((exported.bundle / name).stat().st_size, digest) for name, digest in digests(exported.bundle).items()
    }
    del found[MANIFEST_NAME]
    assert listed == found
    assert listed.keys() == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "model.onnx", "model_int8.onnx",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_the_manifest_describes_each_variant(exported: Exported, name: str):
    manifest = exported.manifest
    variant = manifest["variants"][name]
    assert {
        "files", "precision", "device", "isa", "converter", "opset", "inputs", "output", "session", "parity",
    } <= variant.keys()  # fmt: skip
    assert variant["files"] == [{"fp32": "model.onnx", "int8": "model_int8.onnx"}[name]]
    assert (variant["precision"], variant["converter"]) == (name, exported.converter)
    assert variant["device"] == {"fp32": "any", "int8": "cpu"}[name]
    assert variant["output"] == {"name": "logits", "dtype": "float32", "axes": ["batch", "labels"]}
    assert variant["session"] == {"disabled_optimizers": ["SkipLayerNormFusion"]}
    assert set(variant["inputs"]) == set(manifest["tokenizer"]["inputs"])
    graph = onnx.load(exported.bundle / variant["files"][0])
    assert list(variant["inputs"]) == [i.name for i in graph.graph.input]
    assert variant["opset"] == max(o.version for o in graph.opset_import if o.domain == "")
    parity = variant["parity"]
    assert parity.keys() - {"proven"} == {
        "reference", "texts", "source", "ids_equal", "max_logit", "max_probability", "mean_probability", "agreement",
        "agreement_low95", "tolerance", "batch_drift", "device",
    }  # fmt: skip
    assert (parity["reference"], parity["ids_equal"]) == ("pytorch", True)
    assert parity["texts"] == len(TEXTS) - 2 + 1  # two calibrate, and one over-long text is added
    assert parity["tolerance"] == {"fp32": {"logits": 1e-4, "agreement": 1.0}, "int8": {"agreement": 0.0}}[name]
    assert isinstance(parity["tolerance"]["agreement"], float)
    assert exported.report.variants[name].parity.to_manifest() == parity


def test_the_manifest_says_where_the_bundle_comes_from(exported: Exported):
    made = exported.manifest["provenance"]
    weights = exported.checkpoint / "model.safetensors"
    assert (made["checkpoint"], made["revision"]) == (exported.checkpoint.name, None)
    assert made["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["created"])
    assert made["versions"]["torch"] == torch.__version__
    assert made["versions"]["transformers"] == transformers.__version__
    assert {"torchless", "onnx", "onnxruntime", "tokenizers", "numpy", "optimum", "optimum-onnx"} <= made[
        "versions"
    ].keys()


def test_the_report_says_what_was_measured(exported: Exported):
    report = exported.report
    assert report.passed
    assert report.bundle == exported.bundle
    assert list(report.variants) == ["fp32", "int8"]
    assert {name: v.size for name, v in report.variants.items()} == {
        "fp32": (exported.bundle / "model.onnx").stat().st_size,
        "int8": (exported.bundle / "model_int8.onnx").stat().st_size,
    }
    assert "unproven" in str(report)
    json.loads(report.to_json())


def test_progress_is_told_of_each_step(exported: Exported):
    names = list(dict.fromkeys(step for step, _, _ in exported.steps))
    assert names == ["read", "load", "convert", "quantize", "compare", "write"]
    assert set(exported.report.seconds) == set(names)
    for name in names:
        assert next(at for step, *at in exported.steps if step == name) == [0, 0]
    compared = [at for step, *at in exported.steps if step == "compare"][1:]
    assert compared == sorted(compared)
    assert compared[-1][0] == compared[-1][1] >= 700 + len(TEXTS) - 2


def test_nothing_stands_beside_the_bundle(exported: Exported):
    assert os.listdir(exported.bundle.parent) == ["bundle"]
    assert Bundle.open(exported.bundle).config()["model_type"] == exported.manifest["architecture"]


@pytest.mark.parametrize("how", ["float16", "bfloat16", "shards"])
def test_weights_saved_otherwise(tiny: Path, changed: Path, tmp_path: Path, how: str):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny)
    (changed / "model.safetensors").unlink()
    if how == "shards":
        model.save_pretrained(changed, max_shard_size="20KB")
        assert len(list(changed.glob("model-*.safetensors"))) > 1
    else:
        model.to(getattr(torch, how)).save_pretrained(changed)
    report = fast_export(changed, tmp_path / "bundle")
    assert report.variants["fp32"].parity.differences["max_logit"] <= 1e-4
    with torchless.pipeline(model=str(tmp_path / "bundle")) as pipeline:
        logits = pipeline.forward(pipeline.preprocess(TEXTS, truncation=True))
    np.testing.assert_allclose(logits, pytorch_logits(changed, TEXTS), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("variants", "kept"),
    [(["int8"], ["int8"]), ("int8", ["int8"]), (["fp32"], ["fp32"]), (["int8", "fp32", "int8"], ["fp32", "int8"])],
)
def test_only_the_variants_asked_for_are_there(tiny: Path, tmp_path: Path, variants: Any, kept: list[str]):
    report = export(tiny, tmp_path / "bundle", variants=variants, calibration=TEXTS, min_agreement=0)
    assert list(report.variants) == kept
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert list(manifest.variants) == kept
    files = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
    assert {p.name for p in (tmp_path / "bundle").glob("*.onnx*")} == {files[name] for name in kept}
    assert {e.path for e in manifest.files if ".onnx" in e.path} == {files[name] for name in kept}
    with torchless.pipeline(model=str(tmp_path / "bundle"), variant=kept[0]) as pipeline:
        assert pipeline("a good film")


def test_the_default_texts_prove_the_sample(sample_bundle: Path):
    parity = json.loads((sample_bundle / MANIFEST_NAME).read_text())["variants"]["fp32"]["parity"]
    assert parity["texts"] > 500
    assert parity["agreement"] == 1
    assert parity["agreement_low95"] > 0.99
    assert parity["source"] == "the set that ships with torchless"


def test_source_date_epoch_makes_two_exports_equal(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    for name in ("one", "two"):
        export(tiny, tmp_path / name, calibration=TEXTS, min_agreement=0)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert Bundle.open(tmp_path / "one").manifest.provenance["created"] == "2001-09-09T01:46:40Z"


@pytest.mark.parametrize("epoch", ["", "yesterday", "²", "9" * 30, "-1"])
def test_a_source_date_epoch_that_is_none_is_ignored(monkeypatch: pytest.MonkeyPatch, epoch: str):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert bundling._now() > "2020"


def test_a_hub_id_is_exported_with_its_commit(fake_hub: Any, tiny: Path, tmp_path: Path):
    commit = fake_hub.add("org/tiny", tiny, revisions=("main", "v1"))
    code = (
        "import json, sys; from torchless_export import export; "
        "name, bundle, texts = map(json.loads, sys.argv[1:]); "
        "report = export(name, bundle, revision='v1', variants=['fp32'], calibration=texts); "
        "print(json.dumps(report.checkpoint))"
    )
    texts = [text for text in TEXTS if isinstance(text, str)]
    assert fake_hub.python(code, "org/tiny", str(tmp_path / "bundle"), texts, home=tmp_path / "home") == "org/tiny"
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.provenance["checkpoint"] == "org/tiny"
    assert manifest.provenance["revision"] == commit
    asked = {path.rsplit("/", 1)[-1] for path in fake_hub.requests if "/resolve/" in path}
    assert asked == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors",
    }
