"""From a checkpoint to a graph in float32: the ways there are, and which is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from torchless.errors import CheckpointError, InputError
from torchless_export import graph, optimum_converter
from torchless_export.checkpoint import Checkpoint
from torchless_export.graph import Form
from torchless_export.originals import Original
from torchless_export.pytorch_reference import PyTorchReference
from torchless_export.weights import Weights


@dataclass(frozen=True, slots=True)
class Converter:
    """One way.

    Attributes:
        name: as the manifest has it.
        check: refuses a checkpoint that it cannot convert, before anything heavy is loaded.
        convert: (checkpoint, its original, a form, an empty directory for what it writes meanwhile) -> the graph.
        tunable: whether a form means something to it.
    """

    name: str
    check: Callable[[Checkpoint], None]
    convert: Callable[[Checkpoint, Original, Form | None, Path], onnx.ModelProto]
    tunable: bool = False


def _write(checkpoint: Checkpoint, original: Original, form: Form | None, scratch: Path) -> onnx.ModelProto:
    with Weights(checkpoint) as weights:
        return graph.build(checkpoint, weights, form=form)


def _trace(checkpoint: Checkpoint, original: Original, form: Form | None, scratch: Path) -> onnx.ModelProto:
    if not isinstance(original, PyTorchReference):  # `check` looks for PyTorch
        raise CheckpointError(f"{checkpoint.path}: optimum converts what PyTorch has loaded, and that is not installed")
    return onnx.load(optimum_converter.convert(original, checkpoint, scratch))


CONVERTERS = {
    converter.name: converter
    for converter in (
        Converter(graph.NAME, graph.check_supported, _write, tunable=True),
        Converter(optimum_converter.NAME, optimum_converter.check_supported, _trace),
    )
}
NAMES = ("auto", *CONVERTERS)


def choose_converter(name: str, checkpoint: Checkpoint) -> Converter:
    """Return the converter called `name`; of "auto" the one that writes the graph itself, else optimum if installed.

    Raises:
        InputError: no such converter.
        CheckpointError: it cannot convert this checkpoint.
    """
    if name not in NAMES:
        raise InputError(f"converter is {name!r}, wanted one of {', '.join(NAMES)}")
    if name != "auto":
        CONVERTERS[name].check(checkpoint)
        return CONVERTERS[name]
    first, second = CONVERTERS.values()
    try:
        first.check(checkpoint)
    except CheckpointError:
        if not optimum_converter.AVAILABLE:
            raise
        second.check(checkpoint)
        return second
    return first
