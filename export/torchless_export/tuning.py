"""Which form of a graph is fastest on this machine: what `torchless export --tune` times.

Every form gives the same answers, so that only time decides, and time differs between processors. Sessions are open
one at a time: two pools of threads in one process slow each other down. The candidates take turns in rounds, each round
in another order, and a candidate is compared with the default form within the same round, since what else runs on the
machine changes from round to round.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from torchless.bundle import ModelSource
from torchless.cpu import processor_name
from torchless.devices import Device
from torchless.errors import InputError
from torchless.manifest import Variant
from torchless.session import Session
from torchless_export.graph import Form

Shape = tuple[int, int]
Key = TypeVar("Key", bound=Hashable)

DEFAULT_SHAPES: tuple[Shape, ...] = ((1, 16), (32, 32))

_ROUNDS = 5
_WARM_UP = 3
# Seconds and runs for one shape in one round: a median of a few runs, or of many short ones.
_SECONDS, _RUNS = 0.15, 5
# Less than this is noise, and the default form stays.
_GAIN = 0.02
_CPU = Device("cpu")
_SHAPE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,4})")


@dataclass(frozen=True, slots=True)
class Trial:
    """One form, timed.

    Attributes:
        form: the form.
        milliseconds: shape, as "1x16", to the median time of a run.
        ratio: the geometric mean over the shapes of its time to the default form's, the median of the rounds.
    """

    form: Form
    milliseconds: Mapping[str, float]
    ratio: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was tried for one variant, the fastest first.

    Attributes:
        trials: every form that was timed.
        threads: of the session.
        processor: the machine's.
    """

    trials: tuple[Trial, ...]
    threads: int
    processor: str

    def to_manifest(self, chosen: Form) -> dict[str, Any]:
        """Return what the manifest records, `chosen` being the form that was kept."""
        return {
            "processor": self.processor,
            "threads": self.threads,
            "form": asdict(chosen),
            "tried": [
                {"form": asdict(trial.form), "milliseconds": dict(trial.milliseconds), "ratio": round(trial.ratio, 4)}
                for trial in self.trials
            ],
        }


def read_shapes(shapes: str | Sequence[str | Shape] | bool | None) -> tuple[Shape, ...]:
    """Return the shapes (batch, sequence) to time: of "1x16,32x32", of a sequence, or of True the default ones.

    None or False: none, there is nothing to tune.

    Raises:
        InputError: something else.
    """
    if shapes is None or shapes is False:
        return ()
    if shapes is True:
        return DEFAULT_SHAPES
    if not isinstance(shapes, str | Sequence):
        raise InputError(f"tune is {shapes!r}, wanted True, or shapes such as '1x16,32x32'")
    read = []
    for item in shapes.split(",") if isinstance(shapes, str) else shapes:
        pair = isinstance(item, Sequence) and not isinstance(item, str)
        text = "x".join(map(str, item)) if pair else str(item)
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            raise InputError(f"shapes: {text!r}, wanted batch times tokens, such as 1x16, with commas between them")
        read.append((int(match[1]), int(match[2])))
    if not read:
        raise InputError("shapes: none given, wanted some such as 1x16,32x32")
    return tuple(dict.fromkeys(read))


def tune(
    models: Mapping[Form, Path],
    variant: Variant,
    shapes: Sequence[Shape],
    *,
    vocabulary: int,
    device: Device = _CPU,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Time the same model in several forms.

    Args:
        models: form to ONNX file, the default form first.
        variant: what the manifest says of each of them.
        shapes: (batch, sequence), which the model's positions must allow.
        vocabulary: token ids are drawn from 0 to below this.
        device: where.
        progress: called with (sessions timed, all of them).

    Returns:
        the trials, the fastest first; a form no more than 2 % faster than the default one stands behind it.

    Raises:
        BundleError, InferenceError: ONNX Runtime cannot load or run one.
    """
    rounds, threads = time_in_turns(models, variant, shapes, vocabulary=vocabulary, device=device, progress=progress)
    default = next(iter(models))
    trials = [Trial(form, median_times(rounds, form), time_ratio(rounds, form, default)) for form in models]
    ranked = sorted(trials, key=lambda trial: trial.ratio if trial.ratio < 1 - _GAIN else max(trial.ratio, 1.0))
    return Tuning(tuple(ranked), threads, processor_name() if device.kind == "cpu" else str(device))


def median_times(rounds: Sequence[Mapping[Key, Mapping[str, float]]], key: Key) -> dict[str, float]:
    """Return shape to the median over rounds of a model's milliseconds; `rounds` as `time_in_turns` gives them."""
    return {s: round(statistics.median(times[key][s] for times in rounds), 4) for s in rounds[0][key]}


def time_ratio(rounds: Sequence[Mapping[Key, Mapping[str, float]]], key: Key, base: Key) -> float:
    """Return the geometric mean over the shapes of a model's time to another's, the median of the rounds."""
    return statistics.median(
        math.exp(statistics.fmean(math.log(times[key][s] / times[base][s]) for s in times[key])) for times in rounds
    )


def time_in_turns(
    models: Mapping[Key, Path],
    variant: Variant,
    shapes: Sequence[Shape],
    *,
    vocabulary: int,
    device: Device = _CPU,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[dict[Key, dict[str, float]]], int]:
    """Time models; args and errors as `tune`.

    Returns:
        round by round, model -> shape, as "1x16" -> the median milliseconds of a run; and the threads of a session.
    """
    rng = np.random.default_rng(0)
    batches = {
        f"{rows}x{tokens}": {
            name: rng.integers(0, vocabulary, (rows, tokens))
            if name == "input_ids"
            else np.full((rows, tokens), int(name == "attention_mask"), np.int64)
            for name in variant.inputs
        }
        for rows, tokens in shapes
    }
    order, shuffle = list(models), random.Random(0).shuffle
    rounds: list[dict[Key, dict[str, float]]] = []
    threads = 0
    for number in range(_ROUNDS):
        shuffle(order)
        times = {}
        for place, key in enumerate(order):
            times[key], threads = _time(models[key], variant, batches, device)
            progress(number * len(order) + place + 1, _ROUNDS * len(order))
        rounds.append(times)
    return rounds, threads


def _time(
    path: Path, variant: Variant, batches: Mapping[str, Mapping[str, Any]], device: Device
) -> tuple[dict[str, float], int]:
    """Return shape to the median milliseconds of a run, and the threads that ran it."""
    session = Session(
        ModelSource(str(path), name=path.name),
        device=device,
        inputs=variant.inputs,
        output=variant.output,
        disabled_optimizers=variant.disabled_optimizers,
    )
    medians = {}
    for shape, inputs in batches.items():
        for _ in range(_WARM_UP):
            session.run(inputs)
        seconds: list[float] = []
        start = time.perf_counter()
        while len(seconds) < _RUNS or time.perf_counter() - start < _SECONDS:
            before = time.perf_counter()
            session.run(inputs)
            seconds.append(time.perf_counter() - before)
        medians[shape] = statistics.median(seconds) * 1e3
    return medians, session.threads
