"""The schema of torchless.json: what it takes, what it refuses and in which words, and that it reads what it writes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.errors import BundleError, BundleVersionError
from torchless.manifest import FileEntry, Manifest, OutputSpec, TokenizerSpec, Variant

SHA = "ab" * 32
VARIANT: dict[str, Any] = {
    "files": ["model.onnx", "model.onnx.data"],
    "precision": "fp32",
    "device": "any",
    "isa": ["avx2"],
    "converter": "graph",
    "opset": 18,
    "inputs": {"input_ids": "int64", "attention_mask": "int64"},
    "output": {"name": "logits", "dtype": "float32", "axes": ["batch", "labels"]},
    "session": {"disabled_optimizers": ["SkipLayerNormFusion"]},
    "parity": {"agreement": 1.0},
}
DOCUMENT: dict[str, Any] = {
    "format": "1.0",
    "task": "text-classification",
    "architecture": "bert",
    "labels": ["NO", "YES"],
    "problem_type": "single_label_classification",
    "tokenizer": {
        "max_length": 512,
        "position_limit": None,
        "padding_side": "right",
        "pad_id": 0,
        "pad_type_id": 0,
        "truncation_side": "right",
        "inputs": ["input_ids", "attention_mask"],
    },
    "files": [{"path": name, "size": 9, "sha256": SHA} for name in ("config.json", "model.onnx", "model.onnx.data")],
    "variants": {"fp32": VARIANT, "fp16": {**VARIANT, "precision": "fp16", "device": "cuda"}},
    "provenance": {"checkpoint": "x"},
}
MISSING = object()


def read(document: Any) -> Manifest:
    return Manifest.from_json(json.dumps(document).encode(), "b/torchless.json")


def changed(path: str, value: Any) -> Any:
    """Return DOCUMENT with the field at `path` (keys and positions between dots) replaced, added or removed."""
    document = copy.deepcopy(DOCUMENT)
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place = document
    for part in way:
        place = place[part]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return document


def fields(value: Any = DOCUMENT, path: str = "") -> list[str]:
    """Return the path of everything in `value`."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, inner in pairs for p in (f"{path}{key}", *fields(inner, f"{path}{key}."))]


def test_every_field_is_read():
    manifest = read(DOCUMENT)
    assert manifest.files[1] == FileEntry("model.onnx", 9, SHA) == manifest.entry("model.onnx")
    assert manifest.tokenizer == TokenizerSpec(512, None, "right", 0, 0, ("input_ids", "attention_mask"))
    variant = manifest.variants["fp32"]
    assert variant.files == ("model.onnx", "model.onnx.data")
    assert variant.output == OutputSpec("logits", "float32", ("batch", "labels"))
    assert variant.disabled_optimizers == ("SkipLayerNormFusion",)
    assert (variant.opset, variant.isa, variant.parity) == (18, ("avx2",), {"agreement": 1.0})
    assert (manifest.labels, manifest.format, manifest.provenance) == (("NO", "YES"), "1.0", {"checkpoint": "x"})


def test_it_reads_what_it_writes():
    text = read(DOCUMENT).to_json()
    assert json.loads(text) == DOCUMENT
    assert text.endswith("}\n")
    assert text.startswith('{\n "format"')


def test_a_variant_without_what_is_optional_reads_back():
    bare = Variant(
        ("m",), "int8", "cpu", (), "optimum", 18, {"input_ids": "int64"}, OutputSpec("logits", "float32", ())
    )
    tokenizer = TokenizerSpec(None, None, "left", None, 0, ("input_ids",))
    manifest = Manifest("t", "", (), "regression", tokenizer, (FileEntry("m", 0, SHA),), {"int8": bare})
    assert Manifest.from_json(manifest.to_json().encode(), "") == manifest


def test_labels_of_any_characters_read_back():
    text = read(changed("labels.0", "é🙂\n\0")).to_json()
    assert '"é🙂\\n\\u0000"' in text
    assert Manifest.from_json(text.encode(), "").labels[0] == "é🙂\n\0"


OBJECTS = ["", "tokenizer.", "files.1.", "variants.fp32.", "variants.fp32.output.", "variants.fp32.session."]


@pytest.mark.parametrize("place", OBJECTS)
def test_unknown_keys_are_ignored(place):
    assert read(changed(f"{place}from_the_future", {"a": [1]})) == read(DOCUMENT)


def test_a_newer_minor_version_is_read():
    assert read(changed("format", "1.99")) == dataclasses.replace(read(DOCUMENT), format="1.99")


@pytest.mark.parametrize("version", ["2.0", "17.3", "9999.0"])
def test_a_newer_major_version_is_told_before_anything_else(version):
    with pytest.raises(BundleVersionError, match=rf"format {version}, this torchless reads up to 1.x; upgrade"):
        read({"format": version, "files": "of another shape"})


OPTIONAL = [
    "tokenizer.truncation_side",
    "provenance",
    "tokenizer.max_length",
    "tokenizer.position_limit",
    "tokenizer.pad_id",
    "variants.fp32.session",
    "variants.fp32.session.disabled_optimizers",
    "variants.fp32.parity",
    "variants.fp32.inputs.attention_mask",
]
FREE = ("provenance.", "parity.", ".fp16")  # what is inside is free, or is the same as in fp32
PATHS = [path for path in fields() if not any(part in path for part in FREE)]
NEEDED = [path for path in PATHS if not path[-1].isdecimal() or path.endswith("256")]
NEEDED = [path for path in NEEDED if path not in (*OPTIONAL, "variants.fp32")]


@pytest.mark.parametrize("path", NEEDED)
def test_a_missing_field_is_named(path):
    with pytest.raises(BundleError, match="wanted") as caught:
        read(changed(path, MISSING))
    assert path.split(".")[-1] in str(caught.value)
    assert str(caught.value).startswith("b/torchless.json: ")


@pytest.mark.parametrize("path", OPTIONAL)
def test_an_optional_field_may_be_missing(path):
    assert read(changed(path, MISSING))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [True, 1.5, [{}], [[]], -1])
def test_a_wrong_type_is_refused_anywhere(path, value):
    with pytest.raises(BundleError, match=r"; export the bundle again$"):
        read(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("format", "0.9", "wanted 1.0 or later"),
        ("format", "1", "format is"),
        ("format", "١.٠", "format is"),
        ("format", 1.0, "wanted a string"),
        ("problem_type", "guess", "wanted one of single_label"),
        ("labels", ["A", "A"], "wanted no label twice"),
        ("tokenizer.padding_side", "top", "wanted one of right, left"),
        ("tokenizer.max_length", 0, "from 1 to"),
        ("tokenizer.max_length", 1 << 40, "from 1 to"),
        ("tokenizer.inputs", ["attention_mask"], "wanted input_ids"),
        ("tokenizer.inputs", ["input_ids", "input_ids"], "no name twice"),
        ("tokenizer.inputs", ["input_ids"], "variants.fp32.inputs is"),
        ("tokenizer.inputs.1", "pixels", "wanted one of input_ids"),
        ("files.0.size", -1, "from 0 to"),
        ("files.0.size", 1 << 41, "from 0 to"),
        ("files.0.sha256", SHA.upper(), "files[0].sha256 is"),
        ("files.0.sha256", SHA[:-1], "files[0].sha256 is"),
        ("files.0.path", "model.onnx", "wanted each file once"),
        ("files.0.path", "torchless.json", "the manifest itself not among them"),
        ("variants", {}, "wanted at least one"),
        ("variants.fp32.files", [], "at least the ONNX file"),
        ("variants.fp32.files.0", "other.onnx", "wanted a name listed in `files`"),
        ("variants.fp32.files.0", "torchless.json", "wanted a name listed in `files`"),
        ("variants.fp32.precision", "int4", "wanted one of fp32, int8, fp16"),
        ("variants.fp32.device", "tpu", "wanted one of cpu, cuda, any"),
        ("variants.fp32.opset", 0, "from 1 to 1000"),
        ("variants.fp32.inputs", {}, "at least input_ids"),
        ("variants.fp32.inputs", {"attention_mask": "int64"}, "wanted input_ids among"),
        ("variants.fp32.inputs.input_ids", "int32", "each int64"),
        ("variants.fp32.output.dtype", "float16", "wanted one of float32"),
        ("variants.fp32.output.name", "probabilities", "wanted one of logits"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_wanted(path, value, complaint):
    with pytest.raises(BundleError) as caught:
        read(changed(path, value))
    assert complaint in str(caught.value)
    assert type(caught.value) is BundleError


def test_a_graph_may_take_token_types_that_the_tokenizer_does_not_give():
    found = read(changed("variants.fp32.inputs", {"input_ids": "int64", "token_type_ids": "int64"}))
    assert found.tokenizer.inputs == ("input_ids", "attention_mask")
    assert list(found.variants["fp32"].inputs) == ["input_ids", "token_type_ids"]


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "a/b", "a\\b", "..", ".", "", ".hidden", "C:x", "a\0", "a\n", "é", "x" * 129],
)
def test_only_plain_names_are_files(name):
    with pytest.raises(BundleError, match="wanted a plain file name"):
        read(changed("files.0.path", name))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b'"1.0"', b'{"format": "1.0", "format": "1.0"}', b"[" * 993 + b"]" * 993, b'{"size": NaN}'],
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(BundleError, match=r"^w: .*; export the bundle again$"):
        Manifest.from_json(data, "w")


def test_an_entry_that_is_not_listed():
    with pytest.raises(BundleError, match=r"lists no file secrets\.txt"):
        read(DOCUMENT).entry("secrets.txt")


LEAVES = st.sampled_from([None, True, 0.5, "input_ids", "int64", "model.onnx", "1.5", "cpu", SHA])
VALUES = st.recursive(
    LEAVES | st.integers(-2, 1 << 42) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(fields()), VALUES)
def test_any_value_anywhere_is_refused_or_reads_back(path, value):
    with contextlib.suppress(BundleError):
        manifest = read(changed(path, value))
        assert Manifest.from_json(manifest.to_json().encode(), "") == manifest
