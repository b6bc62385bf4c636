"""What is measured, as a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """How samples are shown.

    Attributes:
        name: of the unit shown.
        scale: the value shown is the sample times `scale`, or `scale` over the sample times the texts for a rate.
        measure: "time" where a sample is the seconds that a call took, "value" where it is what the call returned.
        rate: whether it counts texts in a second, of which more are better.
    """

    name: str
    scale: float
    measure: str = "time"
    rate: bool = False

    def show(self, sample: float, texts: int = 1) -> float:
        """Return `sample`, of a call that did `texts` texts, in this unit."""
        return texts * self.scale / sample if self.rate else sample * self.scale


MILLISECONDS = Unit("ms", 1e3)
SECONDS = Unit("s", 1)
TEXTS_PER_SECOND = Unit("texts/s", 1, rate=True)
MEGABYTES = Unit("MB", 1e-6, measure="value")


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to do, of any contender that does this kind.

    Attributes:
        name: unique; what `--workloads` takes.
        what: one line for people.
        kind: the engines' method that does it (`engines/__init__.py`); `inputs` knows what that is given.
        unit: how it is shown.
        rows: texts in a batch: exactly for `forward`, at most for `answer`.
        tokens: of each row, special ones included; None: as the texts have it.
        rounds: the most rounds, for what takes long or does not vary; None: as many as asked for.
        default: whether it is measured where no workloads are named.
    """

    name: str
    what: str
    kind: str
    unit: Unit
    rows: int = 1
    tokens: int | None = None
    rounds: int | None = None
    default: bool = False


def counted(count: int, noun: str) -> str:
    """Return "1 round", "2 rounds"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _forward(rows: int, tokens: int, *, default: bool = False) -> Workload:
    what = f"forward pass alone: {counted(rows, 'row')} of {tokens} token ids to logits"
    return Workload(f"{rows}x{tokens}", what, "forward", MILLISECONDS, rows, tokens, default=default)


def _text(tokens: int, *, default: bool = False) -> Workload:
    what = f"end to end: one text of {tokens} tokens to its label"
    return Workload(f"text{tokens}", what, "answer", MILLISECONDS, 1, tokens, default=default)


WORKLOADS = (
    _forward(1, 8),
    _forward(1, 16, default=True),
    _forward(1, 32),
    _forward(1, 128),
    _forward(1, 512),
    _forward(8, 128),
    _forward(32, 32, default=True),
    _forward(32, 128),
    _text(8),
    _text(16, default=True),
    _text(32),
    _text(128),
    _text(512),
    Workload(
        "texts", "end to end: a list of sentences, at most 32 at once", "answer", TEXTS_PER_SECOND, 32, default=True
    ),
    Workload("export", "a checkpoint to fp32 and int8 graphs, in fresh processes", "export", SECONDS, rounds=3),
    Workload("installed", "all files in the environment's site-packages", "installed", MEGABYTES, rounds=1),
)
