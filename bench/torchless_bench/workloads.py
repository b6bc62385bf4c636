"""What is measured, as a table, and sets of its rows by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """How samples are shown.

    Attributes:
        name: of the unit shown.
        scale: the value shown is the sample times `scale`, or `scale` over the sample times the work of a call for a
            rate.
        measure: "time" where a sample is the seconds that a call took, "loop" where calls come from several threads
            at once, "value" where it is what one call returned, "part" where each returned a part of its seconds.
        rate: whether it counts work in a second, of which more is better.
    """

    name: str
    scale: float
    measure: str = "time"
    rate: bool = False

    def show(self, sample: float, work: float = 1) -> float:
        """Return `sample`, of a call that did so much `work`, in this unit."""
        return work * self.scale / sample if self.rate else sample * self.scale


MILLISECONDS = Unit("ms", 1e3)
SECONDS = Unit("s", 1)
TEXTS_PER_SECOND = Unit("texts/s", 1, rate=True)
MEGABYTES = Unit("MB", 1e-6, measure="value")
PART_MICROSECONDS = Unit("us", 1e6, measure="part")
LOOP_MILLISECONDS = Unit("ms", 1e3, measure="loop")
GIGAOPERATIONS = Unit("Gop/s", 1e-9, rate=True)
GIGABYTES_PER_SECOND = Unit("GB/s", 1e-9, rate=True)


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to do, of any contender that does this kind.

    Attributes:
        name: unique; what `--workloads` takes.
        what: one line for people.
        kind: how it is done: the engines' method of that name (`engines/__init__.py`), or one of the worker's own
            (`worker.OWN_KINDS`); `inputs` knows what it is given.
        unit: how it is shown.
        rows: texts in a batch: exactly for `forward`, at most for `answer` and `memory`.
        tokens: of each row, special ones included; None: as the texts have it.
        threads: that call at once, of a `loop`.
        rate: what `rate` is to reach: "fp32", "int8", "fp16" matrix products, or "memory".
        rounds: the most rounds, for what takes long or does not vary; None: as many as asked for. 0: there are no
            samples, only what its first call returns.
        seconds: the least length of a turn; None: as long as asked for.
        sets: the names that stand for this row among others.
    """

    name: str
    what: str
    kind: str
    unit: Unit
    rows: int = 1
    tokens: int | None = None
    threads: int = 1
    rate: str | None = None
    rounds: int | None = None
    seconds: float | None = None
    sets: tuple[str, ...] = ()


DEFAULT, STANDARD, LATENCY, BATCHES, GRID, LIMITS = "default", "standard", "latency", "batches", "grid", "limits"

SETS = {
    DEFAULT: "what is measured where no workloads are named",
    STANDARD: "what `make bench` measures",
    LATENCY: "one text, by its length",
    BATCHES: "forward passes of 32 tokens, by the batch",
    GRID: "forward passes by batch and length, from which `--devices` learns who wins where",
    LIMITS: "what this machine can do, and how much of it the arithmetic needs",
}


def counted(count: int, noun: str) -> str:
    """Return "1 round", "2 rounds"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _forward(rows: int, tokens: int, *sets: str) -> Workload:
    what = f"forward pass alone: {counted(rows, 'row')} of {tokens} token ids to logits"
    return Workload(f"{rows}x{tokens}", what, "forward", MILLISECONDS, rows, tokens, sets=sets)


def _text(tokens: int, *sets: str) -> Workload:
    what = f"end to end: one text of {tokens} tokens to its label"
    return Workload(f"text{tokens}", what, "answer", MILLISECONDS, 1, tokens, sets=(LATENCY, *sets))


def _loop(threads: int, *sets: str) -> Workload:
    what = f"closed loop: {counted(threads, 'thread')}, each with one text of 16 tokens after the other"
    return Workload(f"loop{threads}", what, "loop", LOOP_MILLISECONDS, 1, 16, threads, rounds=3, seconds=0.3, sets=sets)


def _beside(name: str, what: str) -> Workload:
    return Workload(name, what, "beside", PART_MICROSECONDS, 1, 16, sets=(STANDARD,))


def _product(rate: str, what: str) -> Workload:
    return Workload(f"rate-{rate}", what, "rate", GIGAOPERATIONS, rate=rate, sets=(STANDARD, LIMITS))


WORKLOADS = (
    _forward(1, 8, GRID),
    _forward(1, 16, DEFAULT, STANDARD),
    _forward(1, 32, GRID, BATCHES, STANDARD),
    _forward(1, 128, GRID),
    _forward(1, 512, GRID),
    _forward(2, 32, BATCHES),
    _forward(4, 32, GRID, BATCHES, STANDARD),
    _forward(8, 8, GRID),
    _forward(8, 32, GRID, BATCHES),
    _forward(8, 128, GRID),
    _forward(8, 512, GRID),
    _forward(16, 32, BATCHES, STANDARD),
    _forward(32, 8, GRID),
    _forward(32, 32, DEFAULT, GRID, BATCHES, STANDARD),
    _forward(32, 128, GRID),
    _forward(32, 512, GRID),
    _forward(64, 32, BATCHES),
    _forward(64, 512),
    _text(8, STANDARD),
    _text(16, DEFAULT, STANDARD),
    _text(32),
    _text(128, STANDARD),
    _text(512, STANDARD),
    Workload(
        "texts", "end to end: a list of sentences, at most 32 at once", "answer", TEXTS_PER_SECOND, 32,
        sets=(DEFAULT, STANDARD, GRID),
    ),
    _beside("beside16", "of one text of 16 tokens to its label, all but ONNX Runtime's run"),
    _beside("python16", "of one text of 16 tokens to its label, all but ONNX Runtime's run and the tokenizers library"),
    _loop(1, STANDARD),
    _loop(2),
    _loop(4, STANDARD),
    _loop(8),
    _loop(16, STANDARD),
    Workload(
        "first", "a fresh process from its start to the first label, of a text of 16 tokens", "first", SECONDS,
        tokens=16, rounds=3, sets=(STANDARD,),
    ),
    Workload(
        "memory", "resident memory of a fresh process after the list of sentences", "memory", MEGABYTES, 32, rounds=1,
        sets=(STANDARD,),
    ),
    Workload(
        "size", "the files that it opens: model, tokenizer, settings", "size", MEGABYTES, rounds=1, sets=(STANDARD,)
    ),
    Workload(
        "installed", "the libraries that it needs, and theirs, as pip installs them", "installed", MEGABYTES, rounds=1,
        sets=(STANDARD,),
    ),
    Workload("export", "a checkpoint to fp32 and int8 graphs, in fresh processes", "export", SECONDS, rounds=3),
    _product("fp32", "float32 products of large square matrices in ONNX Runtime"),
    _product("int8", "8-bit integer products of large square matrices in ONNX Runtime"),
    _product("fp16", "float16 products of large square matrices in ONNX Runtime"),
    Workload(
        "rate-memory", "weights read by ONNX Runtime, in the product of a row and a large matrix", "rate",
        GIGABYTES_PER_SECOND, rate="memory", sets=(STANDARD, LIMITS),
    ),
    Workload(
        "arithmetic", "the products that the bundle's graph computes, counted in a profile", "arithmetic", SECONDS,
        rounds=0, sets=(STANDARD, LIMITS),
    ),
)  # fmt: skip
