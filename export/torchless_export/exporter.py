"""`torchless_export.export`: from a checkpoint to a bundle that was proven equal to it, or to nothing at all."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from torchless.bundle import Bundle
from torchless.errors import CheckpointError, InputError, ParityError, TorchlessError, TorchlessWarning, one_line
from torchless.hub_layout import read_tokenizer_spec
from torchless.limits import position_limit
from torchless.manifest import GRAPH_INPUTS, MANIFEST_NAME, FileEntry, Manifest, OutputSpec, Variant
from torchless.pipelines.base import Pipeline
from torchless.pipelines.tasks import find_task
from torchless_export import optimum_converter, parity
from torchless_export.checkpoint import Checkpoint, check_min_agreement, open_checkpoint
from torchless_export.pytorch_reference import PyTorchReference
from torchless_export.quantize import quantize_dynamic_int8
from torchless_export.report import ExportReport, VariantReport
from torchless_export.texts import TextInput, TextSet, default_texts, load_texts, over_long
from torchless_export.writer import DirectoryWriter

VARIANTS = ("fp32", "int8")
CONVERTERS = ("auto", "optimum")
FILES = {"fp32": "model.onnx", "int8": "model_int8.onnx"}

# What the gate keeps of a text: every length up to here is judged, and a model of 8,192 positions need not
# hold 8,192 x 8,192 attention weights for it.
_JUDGED_LENGTH = 1024
# Protobuf's own limit is 2 GiB; a graph needs some room beside its weights.
_INLINE_LIMIT = (2 << 30) - (64 << 20)

Progress = Callable[[str, int, int], None]


def export(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    variants: Sequence[str] = ("fp32", "int8"),
    task: str | None = None,
    converter: str = "auto",
    calibration: str | os.PathLike[str] | Sequence[TextInput] | None = None,
    min_agreement: float = 0.99,
    tune: Any = None,
    force: bool = False,
    revision: str | None = None,
    progress: Progress = lambda step, done, total: None,
) -> ExportReport:
    """Export a checkpoint into a bundle, proving each variant equal to the original on the way.

    Args:
        checkpoint: a directory that `save_pretrained` wrote, or a hub id.
        bundle: the directory to make; made whole, or left as it was.
        variants: of "fp32" and "int8".
        task: "text-classification" or "feature-extraction"; None: what the config says.
        converter: "optimum", or "auto" to choose.
        calibration: texts that judge, as a file or a sequence; None: the set that ships with this package.
        min_agreement: the share of answers that a variant other than fp32 must keep.
        tune: not there yet; only None is taken.
        force: replace an existing bundle.
        revision: branch, tag or commit, for a hub id; the commit is recorded.
        progress: called with (step, done, total) as the export goes on.

    Returns:
        what was measured.

    Raises:
        CheckpointError: the checkpoint cannot be read or converted.
        ParityError: a variant does not keep its tolerance; no bundle is written; carries the report.
        BundleError: the target exists or cannot be written.
        InputError: an argument is none that exists.
    """
    chosen = _check_variants(variants)
    min_agreement = check_min_agreement(min_agreement)
    if converter not in CONVERTERS:
        raise InputError(f"converter is {converter!r}, wanted one of {', '.join(CONVERTERS)}")
    if tune is not None:
        raise InputError("tune: the optimum converter has nothing to tune; leave it out")
    clock = _Clock(progress)
    with DirectoryWriter(bundle, force=force) as writer:
        with clock.step("read"):
            source = open_checkpoint(checkpoint, task=task, revision=revision)
            texts = load_texts(calibration)
            optimum_converter.check_supported(source)
        try:
            report, manifest = _build(source, texts, chosen, min_agreement, writer.folder, clock)
        except OSError as error:
            raise writer.refusal(error) from error
        if not report.passed:
            name, failed = next((n, v.parity) for n, v in report.variants.items() if not v.parity.passed)
            raise ParityError(f"{source.name}: {name} refused: {failed.failures[0]}; nothing was written", report)
        with clock.step("write"):
            try:
                (writer.folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8", newline="\n")
            except OSError as error:
                raise writer.refusal(error) from error
            writer.commit()
        return replace(report, bundle=writer.target, seconds=clock.seconds)


def _build(
    source: Checkpoint, texts: TextSet, variants: Sequence[str], min_agreement: float, folder: Path, clock: _Clock
) -> tuple[ExportReport, Manifest]:
    """Fill `folder` with the bundle's files and judge them; returns the report and the manifest to write."""
    with clock.step("load"):
        reference = PyTorchReference(source)
    with clock.step("convert"), _scratch(folder) as scratch:
        graph = onnx.load(optimum_converter.convert(reference, source, scratch))
    reference.save_tokenizer(folder)
    inputs = _graph_inputs(source, graph)
    manifest = _describe(source, reference, graph, inputs, folder)
    _save(graph, folder / FILES["fp32"])
    manifest = _with_variant(manifest, folder, "fp32", graph, inputs, source)
    quantization: dict[str, Any] = {}
    length = min(manifest.tokenizer.max_length or _JUDGED_LENGTH, _JUDGED_LENGTH)
    if "int8" in variants:
        with clock.step("quantize") as tell:
            batches = _calibration_batches(Bundle(folder, manifest), texts, length)
            quantized = quantize_dynamic_int8(graph, batches, progress=tell)
            _save(quantized.model, folder / FILES["int8"])
            quantization["int8"] = quantized.saturation | {"embeddings": len(quantized.embeddings)}
            manifest = _with_variant(
                manifest,
                folder,
                "int8",
                quantized.model,
                inputs,
                source,
                isa=quantized.isa,
                quantization=quantization["int8"],
            )
    del graph
    with clock.step("compare") as tell, contextlib.ExitStack() as stack:
        whole = Bundle(folder, manifest)
        verdicts = parity.judge(
            {name: stack.enter_context(_open(whole, name)) for name in variants},
            reference,
            (*texts.judging, over_long(texts.judging, 8 * length)),
            source=texts.source,
            max_length=length,
            min_agreement=min_agreement,
            ids_only=default_texts(),
            progress=tell,
        )
    sizes = {entry.path: entry.size for entry in manifest.files}
    report = ExportReport(
        checkpoint=source.name,
        bundle=None,
        task=source.task.name,
        architecture=source.architecture,
        converter=optimum_converter.NAME,
        variants={
            name: VariantReport(
                size=sum(sizes[path] for path in manifest.variants[name].files),
                parity=verdicts[name],
                quantization=quantization.get(name),
            )
            for name in variants
        },
        seconds=clock.seconds,
    )
    kept = {name: replace(manifest.variants[name], parity=verdicts[name].to_manifest()) for name in variants}
    for name in manifest.variants.keys() - kept.keys():
        for path in manifest.variants[name].files:
            (folder / path).unlink()
    dropped = {p for name in manifest.variants.keys() - kept.keys() for p in manifest.variants[name].files}
    return report, replace(manifest, variants=kept, files=tuple(f for f in manifest.files if f.path not in dropped))


def _describe(
    source: Checkpoint, reference: PyTorchReference, graph: onnx.ModelProto, inputs: Sequence[str], folder: Path
) -> Manifest:
    """Return the manifest of the bundle without its variants, having written `config.json`."""
    (folder / "config.json").write_bytes((source.path / "config.json").read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_bytes())
    spec = read_tokenizer_spec(tokenizer, tokenizer_config, dict(source.config), position_limit(source.config))
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".json")
    return Manifest(
        task=source.task.name,
        architecture=source.architecture,
        labels=source.labels,
        problem_type=source.problem_type,
        tokenizer=replace(spec, inputs=tuple(name for name in inputs if name in spec.inputs)),
        files=tuple(_entry(folder, name) for name in names),
        variants={},
        provenance={
            "checkpoint": source.name,
            "revision": source.revision,
            "weights_sha256": source.weights_sha256(),
            "created": _now(),
            "reference": reference.name,
            "versions": _versions(),
        },
    )


def _with_variant(
    manifest: Manifest,
    folder: Path,
    name: str,
    graph: onnx.ModelProto,
    inputs: Sequence[str],
    source: Checkpoint,
    *,
    isa: Sequence[str] = (),
    quantization: Mapping[str, Any] | None = None,
) -> Manifest:
    files = [FILES[name], *(data for data in [FILES[name] + ".data"] if (folder / data).exists())]
    variant = Variant(
        files=tuple(files),
        precision=name,
        device="cpu" if name == "int8" else "any",
        isa=tuple(isa),
        converter=optimum_converter.NAME,
        opset=next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")),
        inputs=dict.fromkeys(inputs, "int64"),
        output=OutputSpec(source.task.output, "float32", source.task.axes),
        session={"disabled_optimizers": ["SkipLayerNormFusion"]},
        quantization=quantization,
    )
    entries = manifest.files + tuple(_entry(folder, path) for path in files)
    return replace(manifest, files=entries, variants={**manifest.variants, name: variant})


def _graph_inputs(source: Checkpoint, graph: onnx.ModelProto) -> list[str]:
    names = [i.name for i in graph.graph.input]
    outputs = [o.name for o in graph.graph.output]
    if "input_ids" not in names or not set(names) <= set(GRAPH_INPUTS) or source.task.output not in outputs:
        raise CheckpointError(
            f"{source.path}: the exported graph takes {names} and gives {outputs}, wanted some of "
            f"{', '.join(GRAPH_INPUTS)} and {source.task.output}: this architecture does not run here"
        )
    return names


def _calibration_batches(bundle: Bundle, texts: TextSet, length: int) -> list[Mapping[str, Any]]:
    """Return the calibrating texts as graph inputs: alone and together, since a batch shares its range."""
    with _open(bundle, "fp32") as pipeline:
        rows = list(texts.calibrating)
        alone = [pipeline.preprocess(text, truncation=True, max_length=length) for text in rows[: len(rows) // 2]]
        if pipeline.tokenizer_spec.pad_id is None:
            return list(alone)
        together = [
            pipeline.preprocess(rows[i : i + 16], truncation=True, max_length=length) for i in range(0, len(rows), 16)
        ]
        return [*alone, *together]


@contextlib.contextmanager
def _open(bundle: Bundle, variant: str) -> Iterator[Pipeline]:
    """Open a variant on the CPU as the runtime does; that it may not suit this processor is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchlessWarning)
        open_pipeline = find_task(bundle.manifest.task).load()
        pipeline = open_pipeline(bundle, device="cpu", variant=variant, profile="throughput")
    with pipeline:
        yield pipeline


def _save(graph: onnx.ModelProto, path: Path) -> None:
    try:
        if graph.ByteSize() < _INLINE_LIMIT:
            path.write_bytes(graph.SerializeToString())
        else:
            onnx.save(graph, path, save_as_external_data=True, location=path.name + ".data", size_threshold=1024)
    except (ValueError, RuntimeError) as error:  # protobuf's refusals
        if isinstance(error, TorchlessError):
            raise
        raise CheckpointError(f"{path.name}: the graph cannot be written: {one_line(str(error), 200)}") from error


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A directory on the target's file system for what is not part of the bundle, removed at the end."""
    scratch = folder / ".scratch"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _entry(folder: Path, name: str) -> FileEntry:
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name, (folder / name).stat().st_size, digest)


def _check_variants(variants: Sequence[str]) -> list[str]:
    names = [variants] if isinstance(variants, str) else list(dict.fromkeys(variants))
    for name in names:
        if name not in VARIANTS:
            raise InputError(f"variant {name!r} is unknown, wanted some of {', '.join(VARIANTS)}")
    if not names:
        raise InputError(f"no variant asked for, wanted some of {', '.join(VARIANTS)}")
    return [name for name in VARIANTS if name in names]


def _now() -> str:
    """Return the time in UTC, or that of SOURCE_DATE_EPOCH (reproducible-builds.org) where it is set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isascii() and epoch.isdigit() and len(epoch) < 12 else int(time.time())
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _versions() -> dict[str, str]:
    names = (
        "torchless",
        "onnx",
        "onnxruntime",
        "tokenizers",
        "numpy",
        "optimum",
        "optimum-onnx",
        "transformers",
        "torch",
    )
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class _Clock:
    """Times the steps of an export, and passes on how far each is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[int, int], None]]:
        start = time.perf_counter()
        self._progress(name, 0, 0)
        try:
            yield lambda done, total: self._progress(name, done, total)
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)
