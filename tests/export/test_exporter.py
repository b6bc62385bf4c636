"""From a checkpoint to a bundle, end to end: what comes out answers as PyTorch does, or nothing comes out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torchless
from torchless.bundle import Bundle
from torchless.errors import BundleError, CheckpointError, InputError, ParityError
from torchless.manifest import MANIFEST_NAME
from torchless_export.report import ExportReport

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum")
onnx = pytest.importorskip("onnx")

from torchless_export import bundling, converters, export, exporter, recipes  # noqa: E402  # needs onnx
from torchless_export.pytorch_reference import PyTorchReference  # noqa: E402

LONG = "waiting for this long and very dull film to end , " * 12
TEXTS = [
    "a good film", "Bad, bad, bad.", "what a waste of life!", "fine", "", "I have never loved a book so much?",
    ("the plot is funny", "but the actor is not"), ("", "great"), LONG, "é ü 中文 😀", "x",
]  # fmt: skip
MAX_LENGTH = 62  # of the tiny checkpoints' tokenizers

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


@pytest.fixture(scope="module")
def tiny(make_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint that tests may read and copy, not change."""
    return make_checkpoint()


@pytest.fixture
def changed(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint"))


def fast_export(checkpoint: Path, bundle: Path, **options: Any) -> ExportReport:
    """Export fp32 alone, judged on few texts."""
    return export(checkpoint, bundle, **{"variants": ["fp32"], "calibration": TEXTS, **options})


def encode(checkpoint: Path, texts: list[Any], **options: Any) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return dict(tokenizer(texts, return_tensors="np", **options))


def pytorch_logits(checkpoint: Path, texts: list[Any]) -> np.ndarray:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype="float32").eval()
    inputs = encode(checkpoint, texts, padding=True, truncation=True, max_length=MAX_LENGTH)
    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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


CASED = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "The",
    "the",
    "café",
    "cafe",
    "CAFÉ",
    "CAFE",
    "film",
    "Film",
    "##s",
]
TRICKY = ["The Film", "the film", "café CAFÉ cafe", "THE films", "Cafés", ("The film", "café")]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True},
    ],
)
def test_tokenizer_options_are_resolved(
    make_checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, bool], stored: bool
):
    checkpoint = make_checkpoint("bert", vocab_size=200)
    (tmp_path / "vocab.txt").write_text("\n".join(CASED), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=MAX_LENGTH, **options)
    tokenizer.save_pretrained(checkpoint)
    # What tokenizer.json says of it is not what tokenizer_config.json says, and transformers heeds the latter.
    document = json.loads((checkpoint / "tokenizer.json").read_text())
    document["normalizer"] |= {"lowercase": stored, "strip_accents": stored}
    (checkpoint / "tokenizer.json").write_text(json.dumps(document))
    fast_export(checkpoint, tmp_path / "bundle", calibration=TRICKY)
    resolved = json.loads((tmp_path / "bundle" / "tokenizer.json").read_text())["normalizer"]
    assert resolved["lowercase"] is options["do_lower_case"]
    with torchless.pipeline(model=str(tmp_path / "bundle")) as pipeline:
        found = pipeline.preprocess(TRICKY)["input_ids"]
    np.testing.assert_array_equal(found, encode(checkpoint, TRICKY, padding=True)["input_ids"])


def test_stored_padding_and_truncation_do_not_survive(changed: Path, tmp_path: Path):
    change_json(
        changed / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 32}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    )  # fmt: skip
    fast_export(changed, tmp_path / "bundle")
    document = json.loads((tmp_path / "bundle" / "tokenizer.json").read_text())
    assert document["padding"] is None
    assert document["truncation"] is None
    with torchless.pipeline(model=str(tmp_path / "bundle")) as pipeline:
        found = pipeline.preprocess(["a good film is never too long", "x"])["input_ids"]
    wanted = encode(changed, ["a good film is never too long", "x"], padding=True)["input_ids"]
    assert found.shape == (2, 9)
    np.testing.assert_array_equal(found, wanted)


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


# The gate.


def _move(tensor: Any, by: float) -> None:
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] += by
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _sabotage_graph(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    build = converters.graph.build

    def sabotaged(*arguments: Any, **options: Any) -> Any:
        model = build(*arguments, **options)
        _move(next(t for t in model.graph.initializer if t.name == "classifier.bias"), by)
        return model

    monkeypatch.setattr(converters.graph, "build", sabotaged)


def _sabotage_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    quantize = recipes.quantize_int8

    def sabotaged(*arguments: Any, **options: Any) -> Any:
        quantized = quantize(*arguments, **options)
        last = next(node for node in quantized.model.graph.node if "logits" in node.output)
        last.output[list(last.output).index("logits")] = "right"
        quantized.model.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["logits"]))
        return quantized

    monkeypatch.setattr(recipes, "quantize_int8", sabotaged)


def _sabotage_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = PyTorchReference.tokenizer_json

    def sabotaged(self: Any) -> str:
        return resolve(self).replace('"lowercase": true', '"lowercase": false')

    monkeypatch.setattr(PyTorchReference, "tokenizer_json", sabotaged)


SABOTAGE: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = {
    "a weight of the graph": (lambda patch: _sabotage_graph(patch, 0.5), "fp32", "a logit differs by 0.5"),
    "a weight by 2e-4": (lambda patch: _sabotage_graph(patch, 2e-4), "fp32", "a logit differs by 0.0002"),
    "a weight is NaN": (lambda patch: _sabotage_graph(patch, float("nan")), "fp32", "a logit is not finite"),
    "the int8 graph": (_sabotage_int8, "int8", "agreement 0.0000 on 10 texts, less than 0.5"),
    "the tokenizer": (_sabotage_tokenizer, "fp32", "token ids differ"),
    "the tolerance": (
        lambda patch: patch.setattr("torchless_export.parity.FP32_LOGITS", 0.0),
        "fp32",
        "a logit differs",
    ),
}


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("what", SABOTAGE)
def test_a_variant_that_fails_fails_the_export(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, exists: bool
):
    sabotage, variant, message = SABOTAGE[what]
    target = tmp_path / "place" / "bundle"
    if exists:
        target.mkdir(parents=True)
        (target / MANIFEST_NAME).write_text("the old bundle")
    before = digests(target) if exists else {}
    sabotage(monkeypatch)
    texts = [text for text in TEXTS if text] if what == "the int8 graph" else TEXTS
    variants = ["fp32", "int8"] if variant == "int8" else ["fp32"]
    with pytest.raises(ParityError, match=f"{tiny.name}: {variant} refused: {re.escape(message)}") as caught:
        export(tiny, target, calibration=[*texts, "one more"], variants=variants, min_agreement=0.5, force=True)
    report = caught.value.report
    assert len(str(caught.value).splitlines()) == 1
    assert (report.bundle, report.passed) == (None, False)
    assert message in str(report)
    assert [name for name, v in report.variants.items() if not v.parity.passed] == [variant]
    if exists:
        assert digests(target) == before
        assert os.listdir(target.parent) == ["bundle"]
    else:
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupted_export_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(exporter.parity, "judge", interrupt)
    with pytest.raises(error):
        fast_export(tiny, tmp_path / "place" / "bundle")
    assert os.listdir(tmp_path) == []


# What cannot be exported.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ["fp64"]}, "variant 'fp64' is unknown, wanted some of fp32, int8"),
        ({"variants": []}, "no variant asked for"),
        ({"converter": "magic"}, "converter is 'magic', wanted one of"),
        ({"min_agreement": 2}, "min_agreement is 2, wanted a share"),
        ({"task": "summarization"}, "the task 'summarization' is unknown"),
        ({"calibration": ["one"]}, "different texts, at least 2"),
        ({"calibration": "nowhere.txt"}, "nowhere.txt"),
    ],
)
def test_wrong_arguments_are_refused(tiny: Path, tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        export(tiny, tmp_path / "place" / "bundle", **options)
    assert os.listdir(tmp_path) == []


def _base_model(checkpoint: Path) -> None:
    transformers.AutoModel.from_pretrained(checkpoint).save_pretrained(checkpoint)
    change_json(checkpoint / "config.json", architectures=["DistilBertForSequenceClassification"])


def _nan_weights(checkpoint: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    model.save_pretrained(checkpoint)


UNFIT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "three labels on a head of two": (
        lambda c: change_json(c / "config.json", id2label={"0": "A", "1": "B", "2": "C"}),
        r"the tensor classifier\.bias is \[2\], the config \(3 labels\) wants \[3\]; .* id2label must fit the head",
    ),
    "a base model": (_base_model, r"its weights lack classifier\.bias, classifier\.weight.* fine-tuned for the task"),
    "another hidden size": (
        lambda c: change_json(c / "config.json", dim=64),
        r"tensor classifier\.weight is \[2, 32\], the config .* wants \[2, 64\]; config"
    ),
    "an architecture nobody knows": (
        lambda c: change_json(c / "config.json", model_type="perceptron-9000"),
        r"config\.json: optimum cannot export the architecture 'perceptron-9000' for text-classification",
    ),
    "an architecture that optimum does not know": (
        lambda c: change_json(c / "config.json", model_type="fnet", architectures=["FNetForSequenceClassification"]),
        r"config\.json: optimum cannot export the architecture 'fnet'",
    ),
    "a config of the wrong types": (
        lambda c: change_json(c / "config.json", n_heads="four"), r"transformers cannot load it"
    ),
    "a tokenizer of no known kind": (
        lambda c: change_json(c / "tokenizer.json", model={"type": "Magic"}), r"transformers cannot load its tokenizer"
    ),
    "a tokenizer larger than the model": (
        lambda c: change_json(c / "config.json", vocab_size=9), r"its tokenizer gives the id 135 .*vocab_size is 9"
    ),
    "weights that are not finite": (_nan_weights, r"the tensor classifier\.weight holds nan at \[0, 0\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_refused_in_one_line(changed: Path, tmp_path: Path, case: str):
    damage, message = UNFIT[case]
    damage(changed)
    with pytest.raises((CheckpointError, ParityError), match=message) as caught:
        export(changed, tmp_path / "place" / "bundle", calibration=TEXTS)
    assert len(str(caught.value).splitlines()) == 1
    assert "partial" not in str(caught.value)
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_code_that_comes_with_a_checkpoint_is_never_run(changed: Path, tmp_path: Path):
    (changed / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    change_json(
        changed / "config.json", model_type="mine", auto_map={"AutoModelForSequenceClassification": "modeling.Model"}
    )
    with pytest.raises(CheckpointError):
        fast_export(changed, tmp_path / "bundle")
    change_json(changed / "config.json", model_type="distilbert")
    change_json(changed / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.Model", "modeling.Model"]})
    fast_export(changed, tmp_path / "bundle")
    assert not (tmp_path / "ran").exists()


# The disk.


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _put_old_bundle(place: Path) -> Path:
    target = place / "bundle"
    target.mkdir(parents=True)
    (target / MANIFEST_NAME).write_text("the old bundle")
    return target


@pytest.mark.parametrize("small_disk", [8, 24, 60, 140, 200], indirect=True)
def test_a_full_disk_leaves_the_old_bundle(tiny: Path, small_disk: Path):
    target = _put_old_bundle(small_disk)
    before = digests(target)
    with pytest.raises(BundleError, match="cannot be written: No space left on device; free space") as caught:
        export(tiny, target, calibration=TEXTS, min_agreement=0, force=True)
    assert str(caught.value).startswith(str(target))
    assert digests(target) == before
    assert os.listdir(small_disk) == ["bundle"]


@pytest.mark.parametrize("limit", [100, 4000, 20_000, 80_000])
def test_a_file_size_limit_leaves_the_old_bundle(tiny: Path, tmp_path: Path, limit: int):
    target = _put_old_bundle(tmp_path)
    before = digests(target)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(BundleError, match=f"cannot be written: {os.strerror(errno.EFBIG)}"):
            export(tiny, target, calibration=TEXTS, min_agreement=0, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digests(target) == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_disk_that_is_full_for_the_tokenizer_is_told_as_such(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = transformers.PreTrainedTokenizerBase.save_pretrained

    def fail(self: Any, folder: Any, *arguments: Any, **options: Any) -> Any:
        if "tokenizer" in Path(folder).name:
            raise Exception("No space left on device (os error 28)")  # as the tokenizers library does
        return save(self, folder, *arguments, **options)

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", fail)
    with pytest.raises(BundleError, match="bundle: cannot be written: No space left on device; free space"):
        fast_export(tiny, tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


# The hub.


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


def test_the_side_that_loses_tokens_comes_along(make_checkpoint: Callable[..., Path], tmp_path: Path):
    checkpoint = make_checkpoint("bert", tokenizer={"truncation_side": "left"})
    report = export(checkpoint, tmp_path / "bundle", variants=("fp32",), calibration=TEXTS)
    assert report.passed
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    with torchless.pipeline(model=tmp_path / "bundle") as classify:
        found = classify.preprocess(LONG, truncation=True)["input_ids"][0].tolist()
    assert found == tokenizer(LONG, truncation=True)["input_ids"]
    assert (
        found
        != transformers.AutoTokenizer.from_pretrained(checkpoint, truncation_side="right")(LONG, truncation=True)[
            "input_ids"
        ]
    )


def test_a_tokenizer_without_token_types(make_checkpoint: Callable[..., Path], tmp_path: Path):
    """Its pairs have zeros, though the graph takes types and the template in tokenizer.json names them."""
    names = ["input_ids", "attention_mask"]
    export(
        make_checkpoint("bert", tokenizer={"model_input_names": names}),
        tmp_path / "bundle",
        converter="optimum",
        variants=("fp32",),
        calibration=TEXTS,
    )
    with torchless.pipeline(model=tmp_path / "bundle", device="cpu") as pipe:
        assert pipe.tokenizer_spec.inputs == ("input_ids", "attention_mask")
        inputs = pipe.preprocess(("a good film", "is it good?"))
        assert not inputs["token_type_ids"].any()
