"""Coverage-guided fuzzing of everything that reads files, by hand: `make fuzz TARGET=manifest SECONDS=600`.

Each target takes any bytes, and fails where what is read raises anything but an error of torchless, or one whose
message is not one printable line, or where what is taken does not read back as it was written. The corpus in
`fuzz/corpus` is where it starts from; what it finds on the way goes to `.cache/fuzz`.

As a program: `python fuzz/targets.py TARGET [libFuzzer's options] [CORPUS]...`
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import onnx
from google.protobuf.message import DecodeError

with atheris.instrument_imports(include=["torchless", "torchless_export", "json", "csv"]):
    from torchless import records, strict_json
    from torchless.errors import CheckpointError, TorchlessError
    from torchless.hub_layout import problem_type, read_labels, read_tokenizer_spec
    from torchless.limits import position_limit
    from torchless.lines import Lines
    from torchless.manifest import Manifest
    from torchless.onnx_file import without_weights
    from torchless.tokenizer_risks import find_risk
    from torchless_export.checkpoint import _read_header

SCRATCH = Path(tempfile.mkdtemp(prefix="torchless-fuzz-"))


def manifest(data: bytes) -> None:
    """`torchless.json`: refused, or what is written of it reads back as the same."""
    found = Manifest.from_json(data, "torchless.json")
    assert Manifest.from_json(found.to_json().encode(), "again") == found


def document(data: bytes) -> None:
    """Strict JSON: whatever is taken, Python's reader takes too, and gives the same."""
    try:
        value = strict_json.loads(data)
    except strict_json.JSONError:
        return
    assert json.loads(data) == value


def configs(data: bytes) -> None:
    """`config.json`, `tokenizer_config.json` and `tokenizer.json` of a directory without a manifest, as three lines."""
    parts: list[dict[str, Any]] = []
    for line in data.split(b"\n")[:3]:
        try:
            value = strict_json.loads(line)
        except strict_json.JSONError:
            value = {}
        parts.append(value if isinstance(value, dict) else {})
    config, tokenizer_config, tokenizer = (*parts, {}, {}, {})[:3]
    find_risk(tokenizer)
    spec = read_tokenizer_spec(tokenizer, tokenizer_config, config, position_limit(config))
    assert spec.max_length is None or spec.max_length >= 1
    labels = read_labels(config, "config.json", CheckpointError)
    problem_type(config, len(labels))


def inputs(data: bytes) -> None:
    """An input file of `torchless run`: its first byte chooses the format, its second whether it is compressed."""
    names = list(records._READERS)
    kind = names[data[0] % len(names)] if data else "txt"
    compressed = data[1:2] > b"\x7f"
    stream = io.BytesIO(data[2:])
    lines = Lines("input", gzip.GzipFile(fileobj=stream) if compressed else stream)
    lines.limit = 1 << 16
    selections = [(None, None, ()), ("1", None, ("2",)), ("text", "pair", ("id",))]
    selection = records._Selection(*selections[data[0] // 16 % 3 if data else 0])
    for record in itertools.islice(records._READERS[kind](lines, selection), 1000):
        assert isinstance(record.text, str)


def weights(data: bytes) -> None:
    """The header of a safetensors file."""
    path = SCRATCH / "model.safetensors"
    path.write_bytes(data)
    shapes = _read_header(path)
    assert all(axis >= 0 for shape in shapes.values() for axis in shape)


def graph(data: bytes) -> None:
    """An ONNX model: what is left of it, with the weights read from where it says they lie, is the same model."""
    try:
        graph = without_weights(data, "model.onnx")
    except ValueError:
        return
    if graph is None:
        return
    assert 2 * len(graph) < len(data)
    try:
        whole = onnx.ModelProto.FromString(data)
    except DecodeError:  # ONNX Runtime will refuse what is left as well
        return
    left = onnx.ModelProto.FromString(graph)
    for tensor, original in zip(left.graph.initializer, whole.graph.initializer, strict=True):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == "model.onnx"
            start = int(place["offset"])
            tensor.raw_data = data[start : start + int(place["length"])]
            tensor.ClearField("external_data")
            original.ClearField("doc_string")
            tensor.ClearField("data_location")
            original.ClearField("data_location")
    assert left.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (manifest, document, configs, inputs, weights, graph)
}


def one(target: Callable[[bytes], None], data: bytes) -> None:
    """Run `target` on `data`: anything that is raised from here is a finding."""
    try:
        target(data)
    except TorchlessError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= 1000, message


if __name__ == "__main__":
    chosen = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: one(chosen, data))
    atheris.Fuzz()
