"""Makes a run: every contender in a process of its own, all alive at once, one of them working at a time.

In each round every contender has one turn, in an order that is shuffled anew. A contender that fails is out, with one
line that says why, and the others go on.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchless_bench.contenders import ENGINES, Contender
from torchless_bench.plan import Comparison, Plan
from torchless_bench.processes import ContenderError, WorkerProcess
from torchless_bench.workloads import counted


@dataclass(slots=True)
class Standing:
    """How a contender fared.

    Attributes:
        status: "ready", "skipped" (something that it needs is not here) or "failed".
        reason: one line, where it is not ready.
        versions: of Python and the libraries that it runs on.
        load_seconds: to import the libraries and open the model, its first time in this run.
        idle: the largest share of a CPU that it took while it had nothing to do.
    """

    status: str = "ready"
    reason: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    load_seconds: float | None = None
    idle: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one contender on one workload.

    Attributes:
        rounds: the samples of each round, seconds or bytes.
        answer: what its first call returned, the first rows of it.
        others: the share of the machine's CPU time that other processes took during its turns; None: not known.
    """

    rounds: tuple[tuple[float, ...], ...]
    answer: Any = None
    others: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a run gave.

    Attributes:
        standings: by contender.
        measured: by (workload, contender).
        unable: why a contender that is in the run did not do a workload, by (workload, contender).
    """

    standings: dict[str, Standing]
    measured: dict[tuple[str, str], Measured]
    unable: dict[tuple[str, str], str] = field(default_factory=dict)


def turns(names: Sequence[str], rounds: int, seed: str) -> list[list[str]]:
    """Return the order of each round: every name once, shuffled anew, the same for the same `seed`."""
    draw = random.Random(seed)
    return [draw.sample(names, len(names)) for _ in range(rounds)]


def run(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> Outcome:
    """Make the run; `progress` is told each step in a line.

    However this ends, all processes that it started have ended.
    """
    outcome = Outcome({name: Standing("skipped", reason) for name, reason in plan.skipped.items()}, {})
    with contextlib.ExitStack() as stack:
        workers: dict[str, WorkerProcess] = {}
        for contender in plan.contenders:
            progress(f"{contender.name}: loading ...")
            standing = outcome.standings[contender.name] = Standing()
            try:
                worker = stack.enter_context(WorkerProcess(contender.python, plan.settings.threads))
            except ContenderError as error:
                _fail(standing, "failed", str(error))
                continue
            _load(worker, contender, plan, standing)
            if standing.status == "ready":
                workers[contender.name] = worker
            else:
                worker.kill()  # it may be at work still, and would be in the others' way
        for comparison in plan.comparisons:
            _compare(comparison, plan, workers, outcome, progress)
    return outcome


def _load(worker: WorkerProcess, contender: Contender, plan: Plan, standing: Standing) -> None:
    request = {
        "op": "load",
        "engine": str(ENGINES / contender.engine),
        "needs": contender.needs,
        "options": {**contender.options, "model": str(contender.model)},
        "installs": contender.installs,
        "threads": plan.settings.threads,
    }
    try:
        answer = worker.ask(request, plan.settings.time_limit)
    except ContenderError as error:
        _fail(standing, "failed", str(error))
        return
    if "skip" in answer:
        _fail(standing, "skipped", answer["skip"])
        return
    standing.versions, standing.load_seconds = answer["versions"], answer["seconds"]


def _compare(
    comparison: Comparison,
    plan: Plan,
    workers: dict[str, WorkerProcess],
    outcome: Outcome,
    progress: Callable[[str], None],
) -> None:
    """Measure one workload of all its contenders that are still in the run."""
    workload, settings = comparison.workload, plan.settings
    rounds = settings.rounds if workload.rounds is None else min(settings.rounds, workload.rounds)
    present = [name for name in comparison.contenders if name in workers]
    progress(f"{workload.name}: {counted(rounds, 'round')} of {counted(len(present), 'contender')} ...")

    def ask(name: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Ask a contender that still does this workload; None: it does not, or no more."""
        if name not in workers or (workload.name, name) in outcome.unable:
            return None
        standing = outcome.standings[name]
        try:
            answer = workers[name].ask(request, settings.time_limit)
        except ContenderError as error:
            workers.pop(name).kill()
            _fail(standing, "failed", f"{workload.name}: {error}")
            progress(f"{name}: failed: {standing.reason}")
            return None
        if "unable" in answer:
            outcome.unable[workload.name, name] = answer["unable"]
            return None
        standing.idle = max(standing.idle, answer["idle"])
        return answer

    prepare = {"op": "prepare", "kind": workload.kind, "arguments": plan.inputs.arguments(workload),
               "warmup": settings.warmup}  # fmt: skip
    answers = {name: answer for name in present if (answer := ask(name, dict(prepare))) is not None}
    given: dict[str, list[dict[str, Any]]] = {name: [] for name in answers}
    seconds = max(settings.seconds, workload.seconds or 0)
    turn = {"op": "turn", "seconds": seconds, "calls": settings.calls, "measure": workload.unit.measure}
    for order in turns(tuple(given), rounds, f"{settings.seed} {workload.name}"):
        for name in order:
            if (answer := ask(name, dict(turn))) is not None:
                given[name].append(answer)
    for name, all_turns in given.items():
        if len(all_turns) == rounds:
            rounds_of = tuple(tuple(answer["samples"]) for answer in all_turns)
            outcome.measured[workload.name, name] = Measured(rounds_of, answers[name]["result"], _others(all_turns))


def _others(answers: Sequence[dict[str, Any]]) -> float | None:
    """Return the share of the CPU time of these turns that was neither idle nor the contender's own."""
    known = [answer["cpu"] for answer in answers if answer["cpu"] is not None]
    there, busy, own = (sum(column) for column in zip(*known, strict=True)) if known else (0, 0, 0)
    return max(0.0, busy - own) / there if there else None


def _fail(standing: Standing, status: str, reason: str) -> None:
    standing.status, standing.reason = status, reason
