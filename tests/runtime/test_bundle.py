"""Nothing in a bundle is used before it was checked: each invariant of bundle.py, broken in every way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torchless
from torchless import bundle as bundle_module
from torchless.bundle import Bundle
from torchless.errors import BundleError, BundleVersionError
from torchless.manifest import FileEntry, Manifest, OutputSpec, TokenizerSpec, Variant

FILES = {
    "config.json": b'{"id2label": {"0": "NO", "1": "YES"}, "vocab_size": 3}',
    "tokenizer.json": b'{"some": "tokenizer"}',
    "model.onnx": b"a graph",
    "model.onnx.data": bytes(range(256)) * 20,
}
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


def entries(files: dict[str, bytes]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items())


def write(folder: Path, files: dict[str, bytes], **changes: object) -> Path:
    """Write a bundle of `files` with its manifest; `changes` replace fields of the manifest."""
    variant = Variant(
        files=tuple(name for name in files if name.startswith("model")),
        precision="fp32",
        device="any",
        isa=(),
        converter="graph",
        opset=18,
        inputs={"input_ids": "int64"},
        output=OutputSpec("logits", "float32", ("batch", "labels")),
    )
    tokenizer = TokenizerSpec(8, 8, "right", 0, 0, ("input_ids",))
    manifest = Manifest(
        "text-classification", "bert", ("NO", "YES"), "regression", tokenizer, entries(files), {"fp32": variant}
    )
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "torchless.json").write_text(dataclasses.replace(manifest, **changes).to_json(), encoding="utf-8")
    return folder


def with_config(text: str) -> dict[str, bytes]:
    return FILES | {"config.json": text.encode()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle", FILES)


def use(folder: Path, name: str) -> None:
    """Use the file `name` of the bundle in the way that it is meant for."""
    bundle = Bundle.open(folder)
    if name.startswith("model"):
        with bundle.model("fp32"):
            pass
    else:
        bundle.read(name)


def test_an_intact_bundle_gives_its_files(folder):
    bundle = Bundle.open(str(folder))
    assert bundle.read("tokenizer.json") == FILES["tokenizer.json"]
    assert bundle.config() == json.loads(FILES["config.json"])
    assert bundle.has("tokenizer.json")
    assert not bundle.has("torchless.json")
    with bundle.model("fp32") as source:
        graph = source.model if isinstance(source.model, bytes) else Path(source.model).read_bytes()
        assert graph == FILES["model.onnx"]
        assert {name: bytes(data) for name, data in source.external.items()} == {
            "model.onnx.data": FILES["model.onnx.data"]
        }
    assert source.name == "model.onnx"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def link_to_other_bytes(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"\1" * path.stat().st_size)
    path.unlink()
    path.symlink_to(path.parent / "elsewhere")


DAMAGES = [
    pytest.param(flip, "sha256 .*the manifest says", id="changed byte"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"\n"), "bytes, the manifest says", id="longer"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says", id="shorter"),
    pytest.param(lambda path: path.write_bytes(b""), "0 bytes, the manifest says", id="empty"),
    pytest.param(Path.unlink, "missing; copy or export", id="missing"),
    pytest.param(replaced(Path.mkdir), "not a regular file|cannot be read", id="directory"),
    pytest.param(link_to_other_bytes, "sha256", id="link to other bytes", marks=posix),
    pytest.param(replaced(lambda path: path.symlink_to("gone")), "missing", id="dangling link", marks=posix),
    pytest.param(replaced(lambda path: path.symlink_to(path.name)), "cannot be read", id="link to itself", marks=posix),
    pytest.param(replaced(lambda path: path.symlink_to("/dev/zero")), "not a regular", id="device", marks=posix),
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("damage", "complaint"), DAMAGES)
def test_a_damaged_file_is_refused_and_named(folder, name, damage, complaint):
    damage(folder / name)
    with pytest.raises(BundleError, match=complaint) as caught:
        use(folder, name)
    assert str(caught.value).startswith(str(folder / name))


@pytest.mark.parametrize(("damage", "complaint"), DAMAGES[4:])
def test_a_manifest_that_is_no_file_is_refused(folder, damage, complaint):
    damage(folder / "torchless.json")
    with pytest.raises(BundleError):
        Bundle.open(folder)


@posix
@pytest.mark.parametrize("name", [*FILES, "torchless.json"])
def test_a_named_pipe_is_refused_and_not_waited_on(folder, name):
    said: list[str] = []

    def try_it() -> None:
        try:
            use(folder, name)
        except BundleError as error:
            said.append(str(error))

    (folder / name).unlink()
    os.mkfifo(folder / name)
    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(20)
    assert said == [f"{folder / name}: not a regular file; copy or export the bundle again"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FILES)), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_of_any_file_is_refused(folder, name, position, change):
    data = bytearray(FILES[name])
    data[position % len(data)] ^= change
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match="sha256"):
        use(folder, name)
    (folder / name).write_bytes(FILES[name])


@posix
def test_links_to_the_same_bytes_are_followed_as_in_the_hubs_cache(folder):
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    for name in FILES:
        use(folder, name)


@pytest.mark.parametrize("name", ["secret.txt", "../secret.txt", "torchless.json", "tokenizer.json/../secret.txt"])
def test_what_the_manifest_does_not_list_is_not_opened(folder, name, monkeypatch):
    for place in (folder, folder.parent):
        (place / "secret.txt").write_bytes(b"secret")
    bundle = Bundle.open(folder)
    monkeypatch.setattr(os, "open", lambda *arguments: pytest.fail("opened"))
    with pytest.raises(BundleError, match="lists no file"):
        bundle.read(name)


@posix
def test_what_was_hashed_is_what_is_used(folder):
    with Bundle.open(folder).model("fp32") as source:
        for name in ("model.onnx", "model.onnx.data"):
            (folder / "new").write_bytes(b"another")
            os.replace(folder / "new", folder / name)
        graph = source.model if isinstance(source.model, bytes) else Path(source.model).read_bytes()
        assert graph == FILES["model.onnx"]
        assert bytes(source.external["model.onnx.data"]) == FILES["model.onnx.data"]


def test_without_a_path_to_the_descriptor_the_bytes_are_given(folder, monkeypatch):
    monkeypatch.setattr(sys, "platform", "elsewhere")
    with Bundle.open(folder).model("fp32") as source:
        assert source.model == FILES["model.onnx"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_descriptor_is_left_open(folder):
    flip(folder / "model.onnx.data")
    before = os.listdir("/proc/self/fd")
    for name in ("tokenizer.json", "config.json"):
        use(folder, name)
    with pytest.raises(BundleError):
        use(folder, "model.onnx")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_an_empty_data_file_is_no_crash(tmp_path):
    bundle = Bundle.open(write(tmp_path / "b", FILES | {"model.onnx.data": b""}))
    with bundle.model("fp32") as source:
        assert source.external == {}


@pytest.mark.parametrize("name", ["torchless.json", "config.json", "tokenizer.json"])
def test_a_file_beyond_the_walls_is_not_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(bundle_module, "_SMALL", 2000)
    monkeypatch.setattr(bundle_module, "_LIMITS", {"tokenizer.json": 4000})
    limit = 4000 if name == "tokenizer.json" else 2000
    folder = write(tmp_path / "b", FILES | {"tokenizer.json": b" " * 4000})
    use(folder, "tokenizer.json")
    with open(folder / name, "ab") as file:
        file.truncate(limit + 1)
    with pytest.raises(BundleError, match=f"{limit + 1} bytes, at most {limit} are read"):
        use(folder, name)


def test_the_walls_are_where_the_module_says():
    assert bundle_module._SMALL == 16 * 2**20
    assert bundle_module._LIMITS == {"tokenizer.json": 64 * 2**20}


@pytest.mark.parametrize(
    ("place", "complaint"),
    [("none", "no such directory"), ("bundle/config.json", "not a directory"), (".", r"torchless\.json: missing")],
)
def test_what_is_no_bundle(folder, place, complaint):
    with pytest.raises(BundleError, match=complaint):
        Bundle.open(folder.parent / place)


def test_a_name_that_no_file_can_have_is_no_bundle():
    with pytest.raises(BundleError, match="no such directory"):
        Bundle.open("x" * 300)


def test_a_newer_format_is_told_before_other_files_are_looked_at(folder):
    write(folder, FILES, format="2.0")
    (folder / "config.json").unlink()
    with pytest.raises(BundleVersionError, match="upgrade torchless"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ('{"id2label": {"0": "YES", "1": "NO"}}', "id2label .* is not the manifest's list"),
        ('{"id2label": {"0": "NO"}}', r"\(1 labels\) is not the manifest's list of 2"),
        ('{"id2label": {"0": "NO", "2": "YES"}}', "id2label"),
        ('{"id2label": {"0": "NO", "1": "YES", "1": "NO"}}', "the key '1' stands twice"),
        ("[]", "not a JSON object"),
        ("{", "line 1"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, config, complaint):
    with pytest.raises(BundleError, match=complaint):
        Bundle.open(write(tmp_path / "b", with_config(config)))


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ('{"id2label": {"1": "YES", "0": "NO"}}', {}),
        ("{}", {}),
        ('{"id2label": {"0": "LABEL_0"}}', {"task": "feature-extraction", "labels": ()}),
    ],
)
def test_a_config_that_fits_is_taken(tmp_path, config, changes):
    assert Bundle.open(write(tmp_path / "b", with_config(config), **changes)).config() == json.loads(config)


def test_an_unlisted_config_is_refused(tmp_path):
    listed = {name: data for name, data in FILES.items() if name != "config.json"}
    with pytest.raises(BundleError, match=r"lists no file config\.json"):
        Bundle.open(write(tmp_path / "b", listed))


def test_an_unverified_directory_is_read_as_it_is(folder):
    bundle = dataclasses.replace(Bundle.open(folder), verified=False)
    (folder / "tokenizer.json").write_bytes(b"changed")
    assert bundle.read("tokenizer.json") == b"changed"
    with bundle.model("fp32") as source:
        assert (source.model, source.external) == (str(folder / "model.onnx"), {})
    with pytest.raises(BundleError, match="missing"):
        bundle.read("special_tokens_map.json")


# The real bundle, through the pipeline.


def rewritten(folder: Path, name: str, change: Callable[[dict], object], **changes: object) -> Path:
    """Change a JSON file of a bundle, and the manifest with it."""
    document = json.loads((folder / name).read_bytes())
    change(document)
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    old = Manifest.from_json((folder / "torchless.json").read_bytes(), "")
    files = tuple(entry for entry in old.files if entry.path != name) + entries({name: (folder / name).read_bytes()})
    new = dataclasses.replace(old, files=files, **changes)
    (folder / "torchless.json").write_text(new.to_json(), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx", "tokenizer.json", "config.json"])
def test_a_flipped_byte_in_a_real_bundle_is_refused(bundle_copy, name):
    flip(bundle_copy / name)
    with pytest.raises(BundleError, match="sha256"):
        torchless.pipeline(model=bundle_copy, variant="int8" if "int8" in name else "fp32", device="cpu")


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_onnx_runtime_gets_the_graph_and_reads_the_weights_in_the_file(sample_bundle, variant):
    bundle = Bundle.open(sample_bundle)
    (name,) = bundle.manifest.variants[variant].files
    with bundle.model(variant) as source:
        assert isinstance(source.model, bytes)
        assert len(source.model) < 0.1 * (sample_bundle / name).stat().st_size
        assert list(source.external) == [name]
        assert bytes(source.external[name]) == (sample_bundle / name).read_bytes()


def test_weights_in_the_file_give_the_answers_of_those_in_the_graph(sample_bundle, monkeypatch):
    texts = ["a stirring, funny and finally transporting film", "so bad", ""]
    with torchless.pipeline(model=sample_bundle, device="cpu", top_k=None) as pipe:
        found = pipe(texts)
    monkeypatch.setattr(bundle_module, "without_weights", lambda model, location: None)
    with torchless.pipeline(model=sample_bundle, device="cpu", top_k=None) as pipe:
        assert pipe(texts) == found


def test_a_vocabulary_larger_than_the_models_is_refused(bundle_copy):
    rewritten(bundle_copy, "config.json", lambda config: config.update(vocab_size=100))
    with pytest.raises(BundleError, match="vocab_size is 100"):
        torchless.pipeline(model=bundle_copy, device="cpu")


def test_more_labels_than_the_graph_gives_are_refused(bundle_copy):
    labels = ("NEGATIVE", "POSITIVE", "NEUTRAL")
    table = {str(i): label for i, label in enumerate(labels)}
    rewritten(bundle_copy, "config.json", lambda config: config.update(id2label=table), labels=labels)
    with pytest.raises(BundleError, match="2 scores, the manifest names 3 labels"):
        torchless.pipeline(model=bundle_copy, device="cpu", variant="fp32")


def test_config_json_is_read_once(folder, monkeypatch):
    bundle = Bundle.open(folder)
    monkeypatch.setattr(Bundle, "read", lambda self, name: pytest.fail(f"{name} is read again"))
    assert bundle.config() == json.loads(FILES["config.json"])
