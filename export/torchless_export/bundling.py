"""The files of a bundle in the making, and the manifest that describes them."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from torchless.bundle import Bundle
from torchless.errors import CheckpointError, TorchlessError, TorchlessWarning, one_line
from torchless.hub_layout import read_tokenizer_spec
from torchless.limits import position_limit
from torchless.manifest import GRAPH_INPUTS, FileEntry, Manifest, OutputSpec, Variant
from torchless.pipelines.base import Pipeline
from torchless.pipelines.tasks import find_task
from torchless.session import cuda_problem
from torchless_export import graph as graph_converter
from torchless_export.alignment import aligned
from torchless_export.checkpoint import Checkpoint
from torchless_export.half import emulation
from torchless_export.onnx_graph import opset_version
from torchless_export.originals import Original

FILES = {"fp32": "model.onnx", "int8": "model_int8.onnx", "fp16": "model_fp16.onnx"}
_DEVICES = {"int8": "cpu", "fp16": "cuda"}

# Protobuf's own limit is 2 GiB; a graph needs some room beside its weights.
_INLINE_LIMIT = (2 << 30) - (64 << 20)
_VERSIONED = (
    "torchless",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "numpy",
    "safetensors",
    "optimum",
    "optimum-onnx",
    "transformers",
    "torch",
)


class Bundling:
    """A directory that becomes a bundle, file by file.

    Attributes:
        folder: the directory.
        manifest: of what is there so far.
    """

    def __init__(self, source: Checkpoint, original: Original, converter: str, folder: Path) -> None:
        """Write `config.json` and the tokenizer's files into the empty directory `folder`."""
        self._source = source
        self._converter = converter
        self.folder = folder
        (folder / "config.json").write_bytes((source.path / "config.json").read_bytes())
        tokenizer_config = dict(original.save_tokenizer(folder))
        tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".json")
        self.manifest = Manifest(
            task=source.task.name,
            architecture=source.architecture,
            labels=source.labels,
            problem_type=source.problem_type,
            tokenizer=read_tokenizer_spec(
                tokenizer, tokenizer_config, dict(source.config), position_limit(source.config)
            ),
            files=tuple(_entry(folder, name) for name in names),
            variants={},
            provenance={
                "checkpoint": source.name,
                "revision": source.revision,
                "weights_sha256": source.weights_sha256(),
                "created": _now(),
                "reference": original.name,
                "versions": _versions(),
            },
        )

    def describe(
        self,
        name: str,
        graph: onnx.ModelProto,
        *,
        isa: Sequence[str] = (),
        quantization: Mapping[str, Any] | None = None,
        tuning: Mapping[str, Any] | None = None,
    ) -> Variant:
        """Return what the manifest says of `graph` as the variant `name`.

        Raises:
            CheckpointError: its inputs or outputs are not those of the task.
        """
        return Variant(
            files=(FILES[name],),
            precision=name,
            device=_DEVICES.get(name, "any"),
            isa=tuple(isa),
            converter=self._converter,
            opset=opset_version(graph),
            inputs=dict.fromkeys(graph_inputs(self._source, graph), "int64"),
            output=OutputSpec(self._source.task.output, "float32", self._source.task.axes),
            session=self._session(name, graph),
            quantization=quantization,
            tuning=tuning,
        )

    def _session(self, name: str, graph: onnx.ModelProto) -> Mapping[str, Any]:
        """Return what a session of the variant is to be opened with."""
        if name != "fp16":
            # On CPU this fusion costs a tenth of int8's time; where its operator pays it is written as such.
            return {"disabled_optimizers": ["SkipLayerNormFusion"]}
        # How many tokens there are without padding is asked of the GPU in the middle of a run; and of graphs that
        # others trace nobody here knows what their nodes do.
        packs = any(node.op_type == "RemovePadding" for node in graph.graph.node)
        return {} if packs or self._converter != graph_converter.NAME else {"cuda_graphs": True}

    def put(self, name: str, graph: onnx.ModelProto, variant: Variant) -> None:
        """Write `graph` as the variant `name`, in place of an earlier one.

        Raises:
            CheckpointError: ONNX's file format cannot hold it.
        """
        path = self.folder / FILES[name]
        data = path.with_name(path.name + ".data")
        for old in (path, data):
            old.unlink(missing_ok=True)
        save(graph, path)
        files = tuple(file.name for file in (path, data) if file.exists())
        given = self.manifest.tokenizer.inputs
        kept = tuple(entry for entry in self.manifest.files if entry.path not in (path.name, data.name))
        self.manifest = replace(
            self.manifest,
            files=kept + tuple(_entry(self.folder, file) for file in files),
            variants={**self.manifest.variants, name: replace(variant, files=files)},
            tokenizer=replace(self.manifest.tokenizer, inputs=tuple(n for n in variant.inputs if n in given)),
        )

    def judged(self, name: str, parity: Mapping[str, Any]) -> None:
        """Record what the gate measured of the variant `name`."""
        variant = replace(self.manifest.variants[name], parity=parity)
        self.manifest = replace(self.manifest, variants={**self.manifest.variants, name: variant})

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Pipeline]:
        """Open a variant as the runtime does: on the CPU, or where it is for CUDA and that works here, on the GPU.

        Where it does not, its arithmetic is emulated on the CPU, rounding for rounding (`half.emulation`). That a
        variant may not suit this processor is no news here.
        """
        open_pipeline = find_task(self.manifest.task).load()
        with contextlib.ExitStack() as stack:
            bundle, device = Bundle(self.folder, self.manifest), "cpu"
            if self.manifest.variants[name].device == "cuda":
                if cuda_problem(0) is None:
                    device = "cuda"
                else:
                    bundle = self._emulated(name, stack.enter_context(self.scratch()))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TorchlessWarning)
                pipeline = open_pipeline(bundle, device=device, variant=name)
            yield stack.enter_context(pipeline)

    def _emulated(self, name: str, folder: Path) -> Bundle:
        """Make a bundle in the empty `folder` of one variant, in float32 arithmetic that rounds to float16."""
        save(emulation(onnx.load(self.folder / FILES[name])), folder / FILES[name])
        variant = replace(
            self.manifest.variants[name], device="any", files=tuple(sorted(path.name for path in folder.iterdir()))
        )
        small = [entry for entry in self.manifest.files if entry.path.endswith(".json")]
        for entry in small:
            (folder / entry.path).write_bytes((self.folder / entry.path).read_bytes())
        entries = (*small, *(_entry(folder, file) for file in variant.files))
        return Bundle(folder, replace(self.manifest, files=entries, variants={name: variant}))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a directory on the target's file system for what is not part of the bundle, removed at the end."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".scratch-") as scratch:
            yield Path(scratch)

    def size(self, name: str) -> int:
        """Return the bytes of a variant's files."""
        files = self.manifest.variants[name].files
        return sum(entry.size for entry in self.manifest.files if entry.path in files)


def graph_inputs(source: Checkpoint, graph: onnx.ModelProto) -> list[str]:
    """Return the names of the graph's inputs.

    Raises:
        CheckpointError: its inputs or outputs are not those of the task.
    """
    names = [i.name for i in graph.graph.input]
    outputs = [o.name for o in graph.graph.output]
    if "input_ids" not in names or not set(names) <= set(GRAPH_INPUTS) or source.task.output not in outputs:
        raise CheckpointError(
            f"{source.path}: the exported graph takes {names} and gives {outputs}, wanted some of "
            f"{', '.join(GRAPH_INPUTS)} and {source.task.output}: this architecture does not run here"
        )
    return names


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Write `graph`; where it would pass protobuf's limit, its weights beside it in `<name>.data`.

    Raises:
        CheckpointError: ONNX's file format cannot hold it.
    """
    try:
        if graph.ByteSize() < _INLINE_LIMIT:
            with path.open("wb") as file:
                file.writelines(aligned(graph))
        else:
            onnx.save(graph, path, save_as_external_data=True, location=path.name + ".data", size_threshold=1024)
    except (ValueError, RuntimeError) as error:  # protobuf's refusals
        if isinstance(error, TorchlessError):
            raise
        raise CheckpointError(f"{path.name}: the graph cannot be written: {one_line(str(error), 200)}") from error


def _entry(folder: Path, name: str) -> FileEntry:
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name, (folder / name).stat().st_size, digest)


def _now() -> str:
    """Return the time in UTC, or that of SOURCE_DATE_EPOCH (reproducible-builds.org) where it is set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isascii() and epoch.isdigit() and len(epoch) < 12 else int(time.time())
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
