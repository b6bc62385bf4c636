"""Bundles whose files are not what they should be."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attempts import Outcome, attempt, check_refused
from hostile import answer, classifier, edit, seal

onnx = pytest.importorskip("onnx")

FILES = ("config.json", "tokenizer.json", "model.onnx", "torchless.json")


def flip(data: bytes) -> bytes:
    """Proves that a single changed bit does not pass."""
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "changed by a bit": flip,
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "random": lambda data: random.Random(8).randbytes(len(data)),
    "longer": lambda data: data + b" ",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged(bundle: Path, open_it: Any, name: str, damage: str) -> None:
    if (name, damage) == ("torchless.json", "longer"):
        pytest.skip("a space after a JSON document changes nothing")
    path = bundle / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    check_refused(open_it(bundle), says="|".join(FILES))


@pytest.mark.parametrize("damage", ["truncated", "empty", "random"])
@pytest.mark.parametrize("name", FILES[:3])
def test_damaged_and_sealed_again(bundle: Path, open_it: Any, name: str, damage: str) -> None:
    """The manifest is unsigned: hashes that fit prove nothing about what the bytes are."""
    path = bundle / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    check_refused(open_it(seal(bundle)))


SIZES = {"torchless.json": 16 << 20, "config.json": 16 << 20, "tokenizer.json": 64 << 20, "model.onnx": (2 << 30) - 1}


@pytest.mark.parametrize("name", SIZES)
def test_over_the_cap(bundle: Path, open_it: Any, name: str) -> None:
    """The file has no blocks on the disk; reading it would take the memory all the same."""
    with open(bundle / name, "r+b") as file:
        file.truncate(SIZES[name] + 1)
    if name != "torchless.json":

        def size(manifest: dict[str, Any]) -> None:
            for entry in manifest["files"]:
                if entry["path"] == name:
                    entry["size"] = SIZES[name] + 1

        edit(bundle / "torchless.json", size)
    outcome = open_it(bundle)
    check_refused(outcome, says=f"{name}: {SIZES[name] + 1} bytes, at most {SIZES[name]} are read")


# External data: tensors that lie in another file, whose name the graph gives.


def elsewhere(location: str, name: str = "v") -> Any:
    """Return a tensor whose data lies at `location`."""
    proto = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[8192, 2], data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", str(8192 * 8))):
        entry = proto.external_data.add()
        entry.key, entry.value = key, value
    return proto


def with_external_data(location: str) -> bytes:
    """Return a graph whose weights lie at `location`."""
    return adding_v([], [elsewhere(location)])


def adding_v(nodes: list[Any], initializers: list[Any]) -> bytes:
    """Return a graph that adds v, of these nodes or initializers, to its weights."""
    nodes = [*nodes, onnx.helper.make_node("Add", ["w", "v"], ["x"]), *answer()]
    nodes[-2].input[0] = "x"
    return classifier(nodes, initializers=initializers)


def constant(location: str) -> bytes:
    """Return a graph with a node whose value lies at `location`."""
    return adding_v([onnx.helper.make_node("Constant", [], ["v"], value=elsewhere(location))], [])


def branch(location: str) -> bytes:
    """Return a graph with a graph in it, whose weights lie at `location`."""
    helper = onnx.helper
    branches = {}
    for name in ("then", "else"):
        out = helper.make_tensor_value_info(f"{name} out", onnx.TensorProto.FLOAT, [8192, 2])
        nodes = [helper.make_node("Identity", [name], [out.name])]
        branches[f"{name}_branch"] = helper.make_graph(nodes, name, [], [out], [elsewhere(location, name)])
    condition = onnx.numpy_helper.from_array(np.array(True), "yes")
    return adding_v([helper.make_node("If", ["yes"], ["v"], **branches)], [condition])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of every target, whose content would be seen in the answers."""
    path = tmp_path / "secret"
    path.write_bytes(np.full(8192 * 2, 77, np.float32).tobytes())
    return path


LOCATIONS: dict[str, Callable[[Path, Path], str]] = {
    "above": lambda folder, secret: os.path.relpath(secret, folder),
    "above by a detour": lambda folder, secret: "onnx/../" + os.path.relpath(secret, folder),
    "absolute": lambda folder, secret: str(secret),
    "a device": lambda folder, secret: "/dev/zero",
    "an open descriptor": lambda folder, secret: "/proc/self/fd/0",
    "a URL": lambda folder, secret: f"file://{secret}",
    "nothing": lambda folder, secret: "",
}


@pytest.mark.parametrize("where", LOCATIONS)
@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_external_data_elsewhere(request: Any, open_it: Any, secret: Path, kind: str, where: str) -> None:
    folder = request.getfixturevalue(kind)
    path = folder / "model.onnx" if kind == "bundle" else folder / "onnx" / "model.onnx"
    path.write_bytes(with_external_data(LOCATIONS[where](path.parent, secret)))
    if kind == "bundle":
        seal(folder)
    check_refused(open_it(folder), says="ONNX Runtime cannot load it")


@pytest.mark.parametrize("make", [with_external_data, constant, branch])
@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_external_data_in_the_working_directory(
    request: Any, secret: Path, tmp_path: Path, kind: str, make: Callable[[str], bytes]
) -> None:
    """Where a graph that is given as bytes has its files, if nobody says otherwise; it is so at some alignments."""
    folder = request.getfixturevalue(kind)
    path = folder / "model.onnx" if kind == "bundle" else folder / "onnx" / "model.onnx"
    for length in range(4):
        model = onnx.load_from_string(make(secret.name))
        model.graph.name = "!" * length
        path.write_bytes(model.SerializeToString())
        if kind == "bundle":
            seal(folder)
        outcome = attempt("pipeline", str(folder), {}, ["a fine film"], watch=[folder], cwd=secret.parent)
        check_refused(outcome, says="ONNX Runtime cannot load it")


@pytest.mark.parametrize("name", ["model.onnx_data", "weights.bin"])
@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_external_data_behind_a_link(request: Any, open_it: Any, secret: Path, kind: str, name: str) -> None:
    folder = request.getfixturevalue(kind)
    path = folder / "model.onnx" if kind == "bundle" else folder / "onnx" / "model.onnx"
    path.write_bytes(with_external_data(name))
    (path.parent / name).symlink_to(secret)
    if kind == "bundle":
        seal(folder)
    check_refused(open_it(folder), says="ONNX Runtime cannot load it|a link that leads out")


def test_a_manifest_that_lists_a_link(bundle: Path, open_it: Any, secret: Path) -> None:
    """What counts is the hash: whoever knows the hash of a file knows the file, and learns nothing from reading it."""
    (bundle / "model.onnx").write_bytes(with_external_data("model.onnx.data"))
    (bundle / "model.onnx.data").symlink_to(secret)

    def wrong(manifest: dict[str, Any]) -> None:
        manifest["files"].append({"path": "model.onnx.data", "size": secret.stat().st_size, "sha256": "0" * 64})
        manifest["variants"]["fp32"]["files"] = ["model.onnx", "model.onnx.data"]

    seal(bundle)
    edit(bundle / "torchless.json", wrong)
    check_refused(open_it(bundle), says="model.onnx.data: sha256")


def test_a_hard_link_is_a_file_as_any_other(bundle: Path, open_it: Any, secret: Path) -> None:
    """Nothing tells it from one, and whoever could make it could read the file: the hash says what it must hold."""
    (bundle / "model.onnx").write_bytes(with_external_data("model.onnx.data"))
    os.link(secret, bundle / "model.onnx.data")

    def listed(manifest: dict[str, Any]) -> None:
        manifest["variants"]["fp32"]["files"] = ["model.onnx", "model.onnx.data"]

    edit(bundle / "torchless.json", lambda manifest: manifest["files"].append({"path": "model.onnx.data"}))
    assert open_it(seal(bundle, listed)).error is None
    secret.write_bytes(b"\0" * secret.stat().st_size)
    check_refused(open_it(bundle), says="model.onnx.data: sha256")


# Where a bundle lies.


@pytest.mark.parametrize(
    "name",
    [
        "name with spaces",
        "ünïcödé 映画 👍",
        "new\nline",
        "-rf",
        "\x1b[31mred",
        "a" * 255,
        os.fsdecode(b"latin-1 \xe9\xff"),
        "$(touch ran)`touch ran`",
        "%s{0}",
    ],
)
def test_odd_names_work_and_are_shown_on_one_line(bundle: Path, open_it: Any, name: str) -> None:
    place = bundle.parent / name
    try:
        bundle.rename(place)
    except (OSError, UnicodeEncodeError):
        pytest.skip("no such name on this file system")
    assert open_it(place).error is None
    (place / "model.onnx").write_bytes(b"")
    check_refused(open_it(place), says="0 bytes, the manifest says")


@pytest.fixture
def read_only(bundle: Path, tmp_path: Path) -> Iterator[Path]:
    """The bundle on a file system that nobody can write to."""
    place = tmp_path / "mounted"
    place.mkdir()
    if shutil.which("mount") is None or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(place)], capture_output=True, check=False
    ).returncode:  # fmt: skip
        pytest.skip("only root may mount a file system")
    try:
        shutil.copytree(bundle, place / "bundle")
        shutil.copytree(request_layout(bundle, tmp_path), place / "layout")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def request_layout(bundle: Path, tmp_path: Path) -> Path:
    """Return the bundle's files as a directory in the hub's layout."""
    folder = tmp_path / "as layout"
    shutil.copytree(bundle, folder)
    (folder / "torchless.json").unlink()
    return folder


@pytest.mark.parametrize("kind", ["bundle", "layout"])
def test_a_read_only_file_system_is_enough(read_only: Path, open_it: Any, kind: str) -> None:
    outcome: Outcome = open_it(read_only / kind)
    assert outcome.error is None, outcome


def test_replaced_while_open(bundle: Path, tmp_path: Path) -> None:
    """A new bundle takes the place of the old one: whoever opened the old one goes on with it, whole."""
    import torchless
    from torchless.bundle import Bundle

    new = tmp_path / "new"
    shutil.copytree(bundle, new)
    (new / "model.onnx").write_bytes(classifier())
    seal(new)
    text = "a fine film"
    before = torchless.pipeline(model=bundle, device="cpu")
    old, opened = before(text), Bundle.open(bundle)
    bundle.rename(tmp_path / "old")
    new.rename(bundle)
    assert before(text) == old
    # Opened and not yet read: what lies there now is not what the manifest that was read describes.
    from torchless.errors import BundleError

    with pytest.raises(BundleError, match=r"model\.onnx: .* the manifest says"), opened.model("fp32"):
        pass
    assert torchless.pipeline(model=bundle, device="cpu")(text) != old
