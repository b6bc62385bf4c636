"""What an attacker does by hand: bundles whose manifest fits hostile files, and hostile graphs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def seal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> Path:
    """Write the sizes and hashes of a bundle's files into its manifest, as whoever makes a hostile one does."""
    path = folder / "torchless.json"
    manifest = json.loads(path.read_bytes())
    for entry in manifest["files"]:
        data = (folder / entry["path"]).read_bytes()
        entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def classifier(
    nodes: Sequence[Any] = (),
    *,
    inputs: dict[str, Any] | None = None,
    output: tuple[str, Sequence[Any]] = ("logits", ("batch", 2)),
    initializers: Sequence[Any] = (),
    domains: Sequence[tuple[str, int]] = (("", 17),),
) -> bytes:
    """Return a graph of an honest classifier's inputs and output, made of `nodes`; none: the mean of two embeddings.

    Args:
        nodes: compute the output from `input_ids`; the initializer `w` (8192, 2) is there for them.
        inputs: name to shape, each int64.
        output: name and shape, float32.
        initializers: added to `w`.
        domains: the operator sets.
    """
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence")} if inputs is None else inputs
    graph = helper.make_graph(
        list(nodes or answer()),
        "hostile",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(np.ones((8192, 2), np.float32), "w"), *initializers],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*domain) for domain in domains], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def answer(ids: str = "input_ids", logits: str = "logits") -> list[Any]:
    """Return the nodes that make logits of the ids."""
    from onnx import helper

    return [
        helper.make_node("Gather", ["w", ids], ["embedded"]),
        helper.make_node("ReduceMean", ["embedded"], [logits], axes=[1], keepdims=0),
    ]
