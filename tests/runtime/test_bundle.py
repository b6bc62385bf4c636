"""Nothing in a bundle is used before it was checked: each invariant of bundle.py, broken in every way."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torchless
from made_bundles import FILES, entries, flip, write
from torchless import bundle as bundle_module
from torchless.bundle import Bundle
from torchless.errors import BundleError, BundleVersionError
from torchless.manifest import Manifest

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


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
    assert not bundle.has("a name before all")
    with bundle.model("fp32") as source:
        graph = source.model if isinstance(source.model, bytes) else Path(source.model).read_bytes()
        assert graph == FILES["model.onnx"]
        assert {name: bytes(data) for name, data in source.external.items()} == {
            "model.onnx.data": FILES["model.onnx.data"]
        }
    assert source.name == "model.onnx"


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def link_to_other_bytes(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"\1" * path.stat().st_size)
    path.unlink()
    path.symlink_to(path.parent / "elsewhere")


LOOP = re.escape(os.strerror(errno.ELOOP))
DAMAGES = [
    pytest.param(flip, "sha256 .*the manifest says", id="changed byte"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"\n"), "bytes, the manifest says", id="longer"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says", id="shorter"),
    pytest.param(lambda path: path.write_bytes(b""), "0 bytes, the manifest says", id="empty"),
    pytest.param(Path.unlink, "missing; copy or export", id="missing"),
    pytest.param(replaced(Path.mkdir), "not a regular file|cannot be read", id="directory"),
    pytest.param(link_to_other_bytes, "sha256", id="link to other bytes", marks=posix),
    pytest.param(replaced(lambda path: path.symlink_to("gone")), "missing", id="dangling link", marks=posix),
    pytest.param(
        replaced(lambda path: path.symlink_to(path.name)), f"cannot be read: {LOOP}$", id="link to itself", marks=posix
    ),
    pytest.param(replaced(lambda path: path.symlink_to("/dev/zero")), "not a regular", id="device", marks=posix),
]


def test_the_message_on_a_changed_file_shows_both_hashes(folder):
    meant, path = hashlib.sha256(FILES["tokenizer.json"]).hexdigest(), folder / "tokenizer.json"
    flip(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(
        BundleError, match=f"sha256 {found[:12]}…, the manifest says {meant[:12]}…; the file was changed"
    ):
        use(folder, "tokenizer.json")


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


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_without_a_path_to_the_descriptor_the_bytes_are_given(folder, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    with Bundle.open(folder).model("fp32") as source:
        assert source.model == FILES["model.onnx"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_model_that_is_not_split_is_given_as_a_path_to_what_was_hashed(folder):
    with Bundle.open(folder).model("fp32") as source:
        assert isinstance(source.model, str)
        assert os.path.samefile(source.model, folder / "model.onnx")


def test_weights_have_any_name(tmp_path):
    files = {"model.onnx": FILES["model.onnx"], "model.a": b"weights"}
    with Bundle.open(write(tmp_path / "b", FILES | files)).model("fp32") as source:
        assert sorted(source.external) == ["model.a", "model.onnx.data"]


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


def test_a_graph_beyond_the_wall_is_not_read_and_weights_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "_GRAPH", 1000)
    folder = write(tmp_path / "b", FILES | {"model.onnx": b" " * 1000})
    assert (folder / "model.onnx.data").stat().st_size > 1000
    use(folder, "model.onnx")
    write(folder, FILES | {"model.onnx": b" " * 1001})
    with pytest.raises(BundleError, match=r"model\.onnx: 1001 bytes, at most 1000 are read"):
        use(folder, "model.onnx")


def test_the_walls_are_where_the_module_says():
    assert bundle_module._SMALL == 16 * 2**20
    assert bundle_module._LIMITS == {"tokenizer.json": 64 * 2**20}
    assert bundle_module._GRAPH == 2**31 - 1


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
    with pytest.raises(BundleError, match="cannot be read: embedded null byte"):
        bundle.read("a\0b")


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


def test_weights_are_not_read_in_place_where_bytes_have_another_order(sample_bundle, monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")
    with Bundle.open(sample_bundle).model("fp32") as source:
        graph = source.model if isinstance(source.model, bytes) else Path(source.model).read_bytes()
        assert graph == (sample_bundle / "model.onnx").read_bytes()
        assert source.external == {}


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
