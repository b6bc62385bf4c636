"""Every wrong checkpoint gets one line that names the file; what is right is read without loading it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchless.errors import CheckpointError, InputError
from torchless_export.checkpoint import check_min_agreement, open_checkpoint

safetensors = pytest.importorskip("safetensors.numpy")

Damage = Callable[[Path], Any]


@pytest.fixture
def checkpoint(sample_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the sample checkpoint that a test may damage."""
    return Path(shutil.copytree(sample_checkpoint, tmp_path / "checkpoint"))


def config(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        document = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in document.items() if value != "absent"}))

    return change


def write(name: str, content: bytes | str) -> Damage:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def instead(name: str, content: bytes | str, *removed: str) -> Damage:
    """Replace files by another."""

    def change(folder: Path) -> None:
        for old in removed:
            (folder / old).unlink()
        write(name, content)(folder)

    return change


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Let the weights' header say something else of the same bytes."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + length])
        change(entries)
        new = json.dumps(entries).encode()
        path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])

    return damage


def index(document: Any) -> Damage:
    return instead("model.safetensors.index.json", json.dumps(document), "model.safetensors")


def cut(folder: Path, keep: int = -100) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])


def swap_tensor(**changes: Any) -> Damage:
    return header(lambda entries: entries["classifier.weight"].update(changes))


WRONG: dict[str, tuple[Damage, str]] = {
    "no config": (lambda c: (c / "config.json").unlink(), r"config\.json: missing"),
    "empty config": (write("config.json", ""), r"config\.json: not valid JSON"),
    "broken config": (write("config.json", '{"model_type": '), r"config\.json: not valid JSON: line 1"),
    "config is a list": (write("config.json", "[]"), r"config\.json: not a JSON object"),
    "config of another encoding": (write("config.json", '{"a": "é"}'.encode("latin-1")), r"config\.json: .* not UTF-8"),
    "no model_type": (config(model_type="absent"), r"config\.json: names no model_type"),
    "model_type is a number": (config(model_type=3), r"config\.json: names no model_type"),
    "another task": (
        config(architectures=["DistilBertForTokenClassification"]),
        r"config\.json: DistilBertForTokenClassification fits none of the tasks .*text-classification.*--task",
    ),
    "gaps in labels": (config(id2label={"0": "A", "2": "B"}), r"config\.json: id2label has the ids \[0, 2\]"),
    "labels from 1": (config(id2label={"1": "A", "2": "B"}), r"id2label has the ids \[1, 2\], wanted 0 to 1"),
    "labels twice": (config(id2label={"0": "A", "1": "A"}), r"config\.json: id2label gives 'A' to two ids"),
    "an id twice": (config(id2label={"0": "A", "00": "B"}), r"config\.json: id2label has the ids"),
    "odd problem": (config(problem_type="ranking"), r"config\.json: problem_type is 'ranking', wanted one of"),
    "odd ids": (config(id2label={"00": "A", "1": "B"}), r"config\.json: id2label has the ids \['00', '1'\]"),
    "labels are numbers": (config(id2label={"0": 0, "1": 1}), r"config\.json: id2label is not a table of strings"),
    "labels are a list": (config(id2label=["A", "B"]), r"config\.json: id2label is not a table of strings"),
    "no labels": (config(id2label={}), r"config\.json: id2label is not a table"),
    "named ids": (config(id2label={"first": "A", "second": "B"}), r"config\.json: id2label has keys that are not num"),
    "no tokenizer": (lambda c: (c / "tokenizer.json").unlink(), r"tokenizer\.json: missing, .* no tokenizer at all"),
    "slow tokenizer": (
        instead("vocab.txt", "[PAD]\n[UNK]\n", "tokenizer.json"),
        r"tokenizer\.json: missing, .* only vocab\.txt \(a slow tokenizer\).*use_fast=True",
    ),
    "broken tokenizer": (write("tokenizer.json", "{"), r"tokenizer\.json: not valid JSON"),
    "broken tokenizer config": (write("tokenizer_config.json", "{"), r"tokenizer_config\.json: not valid JSON"),
    "no weights": (lambda c: (c / "model.safetensors").unlink(), r"has no model\.safetensors; save"),
    "pickle": (
        instead("pytorch_model.bin", b"\x80\x02.", "model.safetensors"),
        r"its weights are a pickle \(pytorch_model\.bin\), which can run code when read; convert it",
    ),
    "sharded pickle": (
        instead("pytorch_model-00001-of-00002.bin", b"\x80\x02.", "model.safetensors"),
        r"a pickle \(pytorch_model-00001-of-00002\.bin\)",
    ),
    "TensorFlow": (instead("tf_model.h5", b"h5", "model.safetensors"), r"no model\.safetensors \(only tf_model\.h5\)"),
    "truncated weights": (cut, r"model\.safetensors: \d+ bytes, its header describes \d+: cut short"),
    "weights with a tail": (
        lambda c: write("model.safetensors", (c / "model.safetensors").read_bytes() + b"tail")(c),
        r"model\.safetensors: \d+ bytes, its header describes \d+",
    ),
    "weights of 4 bytes": (lambda c: cut(c, 4), r"model\.safetensors: 4 bytes, not a safetensors file or cut short"),
    "weights cut in the header": (lambda c: cut(c, 30), r"model\.safetensors: 30 bytes, not a safetensors file or cut"),
    "empty weights": (write("model.safetensors", b""), r"model\.safetensors: 0 bytes, not a safetensors file"),
    "a git-lfs pointer": (
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
        r"model\.safetensors: \d+ bytes, not a safetensors file",
    ),
    "header is no JSON": (write("model.safetensors", (4).to_bytes(8, "little") + b"{{{{"), r"its safetensors header"),
    "header is a list": (write("model.safetensors", (4).to_bytes(8, "little") + b"[[]]"), r"its safetensors header is"),
    "lying shape": (swap_tensor(shape=[2, 10**6]), r"model\.safetensors: tensor classifier\.weight has the shape"),
    "negative shape": (swap_tensor(shape=[-2, -128]), r"model\.safetensors: tensor classifier\.weight has the shape"),
    "offsets beyond the end": (
        swap_tensor(data_offsets=[10**9, 10**9 + 1024]), r"model\.safetensors: .*(tensor classifier\.weight|its header)"
    ),
    "negative offsets": (swap_tensor(data_offsets=[-1024, 0]), r"model\.safetensors: tensor classifier\.weight"),
    "unknown dtype": (swap_tensor(dtype="F4"), r"model\.safetensors: its safetensors header is broken"),
    "shape is a word": (swap_tensor(shape="wide"), r"model\.safetensors: .*(header is broken|has the shape)"),
    "tensor without offsets": (
        header(lambda h: h["classifier.weight"].pop("data_offsets")), r"its safetensors header is broken \('data_off"
    ),
    "index is broken": (instead("model.safetensors.index.json", "{", "model.safetensors"), r"index\.json: not valid"),
    "index without a map": (index({"metadata": {}}), r"model\.safetensors\.index\.json: has no weight_map"),
    "index names a missing shard": (
        index({"weight_map": {"a": "model-00001-of-00001.safetensors"}}),
        r"model-00001-of-00001\.safetensors: missing, model\.safetensors\.index\.json names it",
    ),
    "index leads outside": (
        index({"weight_map": {"a": "../secret.safetensors"}}), r"index\.json: names '\.\./secret\.safetensors'"
    ),
    "index leads to the root": (index({"weight_map": {"a": "/etc/x.safetensors"}}), r"index\.json: names '/etc/x"),
    "index names a pickle": (index({"weight_map": {"a": "pytorch_model.bin"}}), r"index\.json: names 'pytorch_model"),
    "index names a number": (index({"weight_map": {"a": 3}}), r"index\.json: names '3', wanted safetensors files"),
    "a bundle": (write("torchless.json", "{}"), r"checkpoint: a bundle that was exported already"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_named_in_one_line(checkpoint: Path, case: str):
    damage, message = WRONG[case]
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(checkpoint)
    line = str(caught.value)
    assert line.startswith(str(checkpoint))
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such directory"),
        ("nowhere/at/all", "no such directory"),
        ("a file", "not a directory"),
        ("x" * 300, "no such directory"),
        ("with\0null", "no such directory"),
    ],
)
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str, message: str):
    (tmp_path / "a file").write_text("")
    with pytest.raises(CheckpointError, match=f": {message}; give the directory"):
        open_checkpoint(f"{tmp_path}/{name}")


def test_an_unknown_task_is_refused(checkpoint: Path):
    with pytest.raises(InputError, match=r"the task 'translation' is unknown, wanted one of .*text-classification"):
        open_checkpoint(checkpoint, task="translation")


def test_the_sample_is_read(sample_checkpoint: Path):
    found = open_checkpoint(sample_checkpoint)
    weights = sample_checkpoint / "model.safetensors"
    assert (found.name, found.architecture, found.revision) == ("sst2-tiny", "distilbert", None)
    assert (found.task.name, found.problem_type) == ("text-classification", "single_label_classification")
    assert found.labels == ("NEGATIVE", "POSITIVE")
    assert found.weights == (weights,)
    assert found.tensors["classifier.weight"][0] == 2
    assert found.weights_sha256() == hashlib.sha256(weights.read_bytes()).hexdigest()


@pytest.mark.parametrize("task", ["text-classification", "sentiment-analysis"])
def test_a_task_named_is_taken_whatever_the_config_says(checkpoint: Path, task: str):
    config(architectures=["DistilBertModel"])(checkpoint)
    assert open_checkpoint(checkpoint, task=task).task.name == "text-classification"


@pytest.mark.parametrize(
    ("changes", "labels", "problem_type"),
    [
        ({"id2label": "absent"}, ("LABEL_0", "LABEL_1"), "single_label_classification"),
        ({"id2label": None, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2"), "single_label_classification"),
        ({"id2label": {"1": "B", "0": "A"}}, ("A", "B"), "single_label_classification"),
        ({"id2label": {"0": "A"}}, ("A",), "multi_label_classification"),
        ({"id2label": {"0": "A"}, "problem_type": "regression"}, ("A",), "regression"),
        ({"problem_type": "multi_label_classification"}, ("NEGATIVE", "POSITIVE"), "multi_label_classification"),
        ({"architectures": "absent"}, ("NEGATIVE", "POSITIVE"), "single_label_classification"),
        ({"architectures": None}, ("NEGATIVE", "POSITIVE"), "single_label_classification"),
    ],
)
def test_labels_and_problem_type_are_those_of_transformers(
    checkpoint: Path, changes: dict[str, Any], labels: tuple[str, ...], problem_type: str
):
    config(**changes)(checkpoint)
    found = open_checkpoint(checkpoint)
    assert (found.labels, found.problem_type) == (labels, problem_type)


def test_a_missing_tokenizer_config_is_no_fault(checkpoint: Path):
    (checkpoint / "tokenizer_config.json").unlink()
    assert open_checkpoint(checkpoint).tokenizer_config == {}


def test_shards_are_read_in_the_order_of_their_names(checkpoint: Path):
    whole = safetensors.load_file(checkpoint / "model.safetensors")
    names = sorted(whole)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in shards.items():
        safetensors.save_file({name: np.ascontiguousarray(whole[name]) for name in part}, checkpoint / shard)
    index({"weight_map": {name: shard for shard, part in shards.items() for name in reversed(part)}})(checkpoint)
    found = open_checkpoint(checkpoint)
    assert [path.name for path in found.weights] == sorted(shards)
    assert found.tensors == {name: array.shape for name, array in whole.items()}
    digests = (hashlib.sha256((checkpoint / shard).read_bytes()).hexdigest() for shard in sorted(shards))
    assert found.weights_sha256() == hashlib.sha256("".join(digests).encode()).hexdigest()


@pytest.mark.parametrize("value", [0, 1, 0.5, 0.99])
def test_min_agreement_is_a_share(value: float):
    assert isinstance(check_min_agreement(value), float)


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), True, "0.9", None])
def test_other_min_agreements_are_refused(value: Any):
    with pytest.raises(InputError, match="wanted a share from 0 to 1"):
        check_min_agreement(value)
