"""What is to be reached, as a table, and whether it was.

Each row is a ratio within one run, so that it says the same on a fast machine and on a slow one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchless_bench.limits import LEAST
from torchless_bench.summary import paired_ratio, spread
from torchless_bench.workloads import WORKLOADS, Workload

Rounds = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Target:
    """`contender` is to take at most the `at_least`-th part of what `against` takes on `workload`.

    Attributes:
        against: another contender, or `limits.LEAST`.
        at_most: a bound on the contender's own median as well, in the workload's unit; alone where `at_least` is 0.
        more: it may also take this much more than `against`, in the workload's unit; `at_least` is then 0.
    """

    contender: str
    workload: str
    against: str
    at_least: float
    at_most: float | None = None
    more: float | None = None

    @property
    def wanted(self) -> str:
        """What is wanted, in a few words."""
        unit = next(row.unit.name for row in WORKLOADS if row.name == self.workload)
        if self.against == LEAST:
            return f"at least {self.at_least:g} of it"
        if self.more is not None:
            return f"at most {self.more:g} {unit} more"
        bounds = [f"at least {self.at_least:g}x"] if self.at_least else []
        return ", ".join([*bounds, *([f"at most {self.at_most:g} {unit}"] if self.at_most else [])])

    def __str__(self) -> str:
        return f"{self.workload}: {self.contender} against {self.against}"


# One text is for the profile "latency", a list for "throughput". Of a DistilBERT shape on 2 cores with AVX512-VNNI;
# random weights will do, since only time and size count.
TARGETS = (
    Target("torchless-int8", "text16", "transformers-fp32", 10.0),
    Target("torchless-int8", "text16", "optimum-int8", 1.9),
    Target("torchless-int8", "text16", "bare-optimum-int8", 1.25),
    Target("torchless-throughput-int8", "texts", "transformers-fp32", 14.0),
    Target("torchless-throughput-int8", "texts", "optimum-int8", 3.0),
    Target("torchless-throughput-int8", "texts", "bare-optimum-int8", 2.6),
    Target("torchless-fp32", "text16", "transformers-fp32", 2.8),
    Target("torchless-throughput-fp32", "texts", "transformers-fp32", 4.5),
    Target("torchless-int8", "python16", "bare-int8", 0.0, at_most=60),
    Target("torchless-int8", "first", "transformers-fp32", 12.0),
    Target("torchless-int8", "first", "optimum-int8", 12.0),
    Target("torchless-int8", "first", "bare-optimum-int8", 0.8),
    Target("torchless-int8", "memory", "transformers-fp32", 3.0),
    Target("torchless-int8", "memory", "optimum-int8", 2.5),
    Target("torchless-int8", "memory", "bare-optimum-int8", 0.87),
    Target("torchless-int8", "installed", "transformers-fp32", 6.0),
    Target("torchless-int8", "installed", "optimum-int8", 6.0),
    Target("torchless-int8", "installed", "bare-optimum-int8", 0.0, more=2),
    Target("torchless-throughput-int8", "texts", LEAST, 0.6),
    Target("torchless-int8", "1x16", "bare-optimum-int8", 1.3),
    Target("torchless-throughput-int8", "32x32", "bare-optimum-int8", 1.45),
    Target("torchless-int8", "1x128", "bare-optimum-int8", 1.35),
    Target("torchless-throughput-fp32", "32x32", "bare-optimum-fp32", 1.25),
    Target("torchless-fp32", "1x16", "transformers-fp32", 2.5),
    Target("torchless-export", "export", "optimum-export", 2.0, at_most=10),
    Target("torchless-export", "installed", "optimum-export", 4.0),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a target.

    Attributes:
        verdict: "met", "not met", or "not measured".
        reason: why it was not measured, or why the verdict is doubtful; None: neither.
        ratio, low, high: as `summary.Ratio` has them; None: not measured.
        value: where the target bounds it, the contender's own median in the workload's unit, or by how much it is
            over the other's.
    """

    verdict: str
    reason: str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    value: float | None = None


def judge(target: Target, workload: Workload, contender: Rounds, against: Rounds, *, seed: int = 0) -> Verdict:
    """Judge `target` by the samples of both, round by round.

    The median ratio decides, and the interval stands beside it: where that spans the target, more rounds are needed.

    Raises:
        ValueError: as `paired_ratio`.
    """
    found = paired_ratio(against, contender, seed=seed)
    value, bound = None, target.at_most
    if target.at_most is not None or target.more is not None:
        value = workload.unit.show(spread(contender).p50)
    if value is not None and target.more is not None:
        value, bound = value - workload.unit.show(spread(against).p50), target.more
    met = found.median >= target.at_least and (value is None or bound is None or value <= bound)
    return Verdict("met" if met else "not met", None, found.median, found.low, found.high, value)
