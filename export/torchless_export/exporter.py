"""`torchless_export.export`: from a checkpoint to a bundle that was proven equal to it, or to nothing at all."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import onnx

from torchless.devices import Device
from torchless.errors import InputError, ParityError
from torchless.manifest import MANIFEST_NAME, Variant
from torchless.session import cuda_problem
from torchless_export import converters, int8, parity, tuning
from torchless_export.bundling import Bundling, save
from torchless_export.checkpoint import Checkpoint, check_min_agreement, open_checkpoint
from torchless_export.converters import Converter
from torchless_export.graph import Form, Target, candidates, for_batch_invariance, for_left_padding
from torchless_export.half import to_float16
from torchless_export.int8 import Wanted, advice
from torchless_export.originals import Original, answerable, open_original
from torchless_export.parity import Parity
from torchless_export.quantize import quantize_int8
from torchless_export.report import ExportReport, VariantReport
from torchless_export.texts import TextInput, TextSet, default_texts, load_texts, over_long
from torchless_export.tuning import Shape, Tuning
from torchless_export.writer import DirectoryWriter

VARIANTS = ("fp32", "int8", "fp16")

# What the gate keeps of a text: every length up to here is judged, and a model of 8,192 positions need not
# hold 8,192 x 8,192 attention weights for it.
_JUDGED_LENGTH = 1024

# Texts that judge where no agreement was promised: fp32 is either equal or not, and of the rest nothing is asked.
_UNPROMISED = 64

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
    tune: bool | str | Sequence[str | Shape] | None = None,
    shapes: str | Sequence[str | Shape] | None = None,
    batch_invariant: bool = False,
    sensitivity: bool = False,
    force: bool = False,
    revision: str | None = None,
    progress: Progress = lambda step, done, total: None,
) -> ExportReport:
    """Export a checkpoint into a bundle, proving each variant equal to the original on the way.

    Args:
        checkpoint: a directory that `save_pretrained` wrote, or a hub id.
        bundle: the directory to make; made whole, or left as it was.
        variants: of "fp32", "int8", and "fp16", which is for CUDA: judged on a GPU where one works here, else in an
            emulation of its arithmetic, as the manifest then says.
        task: "text-classification" or "feature-extraction"; None: what the config says.
        converter: "graph", which writes the graph from the weights, "optimum", which has PyTorch trace the model, or
            "auto": the first where it knows the architecture.
        calibration: texts, as a file or a sequence; None: the set that ships with this package. Most of them judge; the
            others choose how int8 is made. Of a file with labels, accuracy is reported too (`texts.load_texts`).
        min_agreement: the share of answers that a variant other than fp32 must keep; 0 asks for none, and a few texts
            judge.
        tune: time the few forms that a graph can be written in, on this machine, and keep the fastest that passes:
            True, or the shapes (batch, tokens) to time, as "1x16,32x32" or a sequence of such; None: the form that
            won where it was measured before.
        shapes: as those of `tune`: at which int8 recipes are timed where plain int8 is not good enough; None: those
            of `tune`, or 1x16 and 32x32.
        batch_invariant: make int8 whose answer to a text does not change with its company in a batch, to 1e-6.
        sensitivity: measure what each group of products alone does in int8, for the report.
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
    if converter not in converters.NAMES:
        raise InputError(f"converter is {converter!r}, wanted one of {', '.join(converters.NAMES)}")
    tuned = tuning.read_shapes(tune)
    asked = tuning.read_shapes(shapes) or tuned
    clock = _Clock(progress)
    with DirectoryWriter(bundle, force=force) as writer:
        with clock.step("read"):
            source = open_checkpoint(checkpoint, task=task, revision=revision)
            one_of_several = source.problem_type == "single_label_classification"
            texts = load_texts(calibration, source.labels if one_of_several else ())
            way = converters.choose_converter(converter, source)
            if tuned and not way.tunable:
                raise InputError(f"{source.name}: tune: the converter {way.name} has nothing to tune; leave it out")
        try:
            with clock.step("load"):
                original = open_original(source)
            bundling = Bundling(source, original, way.name, writer.folder)
            longest = bundling.manifest.tokenizer.position_limit
            if longest is not None and any(tokens > longest for _, tokens in (*asked, *tuned)):
                raise InputError(f"{source.name}: its position table holds {longest} tokens; time it at shorter shapes")
            wanted = Wanted(min_agreement, batch_invariant, asked or tuning.DEFAULT_SHAPES, sensitivity)
            making = _Making(source, original, way, texts, bundling, tuned, wanted, clock)
            for variant in chosen:
                making.make(variant)
            report = making.judge(chosen)
        except OSError as error:
            raise writer.refusal(error) from error
        if not report.passed:
            name, failed = next((n, v.parity) for n, v in report.variants.items() if not v.parity.passed)
            reason = failed.failures[0] + (advice(report) if name == "int8" else "")
            raise ParityError(f"{source.name}: {name} refused: {reason}; nothing was written", report)
        with clock.step("write"):
            try:
                (writer.folder / MANIFEST_NAME).write_text(bundling.manifest.to_json(), encoding="utf-8", newline="\n")
            except OSError as error:
                raise writer.refusal(error) from error
            writer.commit()
        return replace(report, bundle=writer.target, seconds=clock.seconds)


class _Making:
    """The variants of one bundle: each written in a form, judged, and written in another where that one fails."""

    def __init__(
        self,
        source: Checkpoint,
        original: Original,
        converter: Converter,
        texts: TextSet,
        bundling: Bundling,
        shapes: Sequence[Shape],
        wanted: Wanted,
        clock: _Clock,
    ) -> None:
        self._source = source
        self._original = original
        self._converter = converter
        self._answerable = answerable(original)
        self._texts = texts.chosen(self._answerable)
        self._bundling = bundling
        self._shapes = shapes
        self._wanted = wanted
        self._clock = clock
        self._length = min(bundling.manifest.tokenizer.max_length or _JUDGED_LENGTH, _JUDGED_LENGTH)
        self._tunings: dict[str, Tuning] = {}
        # The graph in float32 that was made last, since every variant starts from one.
        self._graphs: dict[Form | None, onnx.ModelProto] = {}

    def make(self, name: str) -> None:
        """Write the variant `name`, in the fastest form where forms are to be timed."""
        forms, device = self._forms(name)
        # What is for CUDA can be timed on a GPU alone.
        if self._shapes and (device.kind == "cpu" or cuda_problem(device.index) is None):
            self._tunings[name] = self._tune(name, forms, device)
            forms = [trial.form for trial in self._tunings[name].trials]
        self._write(name, forms[0] if forms else None)

    def judge(self, variants: Sequence[str]) -> ExportReport:
        """Run the gate; a variant that fails is written in its next form, and judged again, until one passes."""
        verdicts = self._judge(variants)
        tried = dict.fromkeys(variants, 1)
        while again := [
            name
            for name, verdict in verdicts.items()
            if not verdict.passed and name in self._tunings and tried[name] < len(self._tunings[name].trials)
        ]:
            for name in again:
                self._write(name, self._tunings[name].trials[tried[name]].form)
                tried[name] += 1
            verdicts |= self._judge(again)
        for name, verdict in verdicts.items():
            self._bundling.judged(name, verdict.to_manifest())
        made = self._bundling.manifest.variants
        return ExportReport(
            checkpoint=self._source.name,
            bundle=None,
            task=self._source.task.name,
            architecture=self._source.architecture,
            converter=self._converter.name,
            variants={
                name: VariantReport(
                    size=self._bundling.size(name),
                    parity=verdicts[name],
                    quantization=made[name].quantization,
                    tuning=made[name].tuning,
                )
                for name in variants
            },
            seconds=self._clock.seconds,
        )

    def _forms(self, name: str) -> tuple[list[Form], Device]:
        """Return the forms worth timing for a variant, the default one first, and where; none: they mean nothing."""
        target: Target = "cuda" if name == "fp16" else "cpu"
        forms = candidates(target) if self._converter.tunable else ()
        if self._bundling.manifest.tokenizer.padding_side == "left":
            forms = tuple(dict.fromkeys(map(for_left_padding, forms)))
        if name == "int8" and self._wanted.batch_invariant:
            forms = tuple(dict.fromkeys(map(for_batch_invariance, forms)))
        return list(forms), Device(target)

    def _write(self, name: str, form: Form | None) -> None:
        graph, variant = self._variant(name, form, calibrated=True)
        tuned = self._tunings.get(name)
        if tuned is not None and form is not None:
            variant = replace(variant, tuning=tuned.to_manifest(form))
        self._bundling.put(name, graph, variant)

    def _variant(self, name: str, form: Form | None, *, calibrated: bool) -> tuple[onnx.ModelProto, Variant]:
        """Return the variant's graph in a form and its description."""
        graph = self._graph(form)
        if name == "fp32":
            return graph, self._bundling.describe(name, graph)
        if name == "fp16":
            rounded = to_float16(graph)
            return rounded, self._bundling.describe(name, rounded)
        with self._clock.step("quantize") as tell:
            if not calibrated:
                quantized = quantize_int8(graph, [])
                return quantized.model, self._bundling.describe(name, quantized.model, isa=quantized.isa)
            described = self._bundling.describe(name, graph)
            with self._bundling.scratch() as scratch:
                found = int8.make(graph, described, self._int8_source(), self._wanted, scratch=scratch, progress=tell)
            quantized = found.quantized
            record = quantized.saturation | {"embeddings": len(quantized.embeddings)} | dict(found.record)
            described = self._bundling.describe(name, quantized.model, isa=quantized.isa, quantization=record)
            return quantized.model, described

    @property
    def _vocabulary(self) -> int:
        # Unsaid, it is the architecture's own default, and every one of those is larger.
        return int(self._source.config.get("vocab_size", 1000))

    def _int8_source(self) -> int8.Source:
        tokenizer = self._bundling.manifest.tokenizer
        return int8.Source(
            calibrating=self._texts.calibrating,
            widening=self._texts.widening,
            answerable=self._answerable,
            encode=lambda texts: self._original.encode(texts, self._length),
            problem_type=self._source.problem_type if self._source.labels else None,
            pads=tokenizer.pad_id is not None and tokenizer.padding_side == "right",
            position_limit=tokenizer.position_limit,
            vocabulary=self._vocabulary,
        )

    def _graph(self, form: Form | None) -> onnx.ModelProto:
        if form not in self._graphs:
            self._graphs.clear()
            with self._clock.step("convert"), self._bundling.scratch() as scratch:
                self._graphs[form] = self._converter.convert(self._source, self._original, form, scratch)
        return self._graphs[form]

    def _tune(self, name: str, forms: Sequence[Form], device: Device) -> Tuning:
        with self._bundling.scratch() as scratch:
            paths = {}
            for number, form in enumerate(forms):
                graph, variant = self._variant(name, form, calibrated=False)
                paths[form] = scratch / f"{number}.onnx"
                save(graph, paths[form])
            with self._clock.step("tune") as tell:
                return tuning.tune(
                    paths, variant, self._shapes, vocabulary=self._vocabulary, device=device, progress=tell
                )

    def _judge(self, variants: Sequence[str]) -> dict[str, Parity]:
        self._graphs.clear()
        texts = self._texts.judging[: None if self._wanted.min_agreement or self._texts.labels else _UNPROMISED]
        with self._clock.step("compare") as tell, contextlib.ExitStack() as stack:
            return parity.judge(
                {name: stack.enter_context(self._bundling.open(name)) for name in variants},
                self._original,
                (*texts, over_long(texts, 8 * self._length)),
                source=self._texts.source,
                max_length=self._length,
                min_agreement=self._wanted.min_agreement,
                ids_only=list(filter(self._answerable, default_texts())),
                labels=self._texts.labels,
                batch_invariant=self._wanted.batch_invariant,
                progress=tell,
            )


def _check_variants(variants: Sequence[str]) -> list[str]:
    names = [variants] if isinstance(variants, str) else list(dict.fromkeys(variants))
    for name in names:
        if name not in VARIANTS:
            raise InputError(f"variant {name!r} is unknown, wanted some of {', '.join(VARIANTS)}")
    if not names:
        raise InputError(f"no variant asked for, wanted some of {', '.join(VARIANTS)}")
    return [name for name in VARIANTS if name in names]


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
