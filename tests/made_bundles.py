"""Bundles of a few bytes: all that opening one checks, and no model that could run."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from torchless.manifest import FileEntry, Manifest, OutputSpec, TokenizerSpec, Variant

FILES = {
    "config.json": b'{"id2label": {"0": "NO", "1": "YES"}, "vocab_size": 3}',
    "tokenizer.json": b'{"some": "tokenizer"}',
    "model.onnx": b"a graph",
    "model.onnx.data": bytes(range(256)) * 20,
}


def entries(files: dict[str, bytes]) -> tuple[FileEntry, ...]:
    """Return what a manifest says of `files`."""
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


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
