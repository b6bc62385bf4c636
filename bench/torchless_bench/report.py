"""What a run found, as one JSON document: everything that is shown anywhere is in it.

Samples are seconds, or bytes where the workload's unit is MB. The keys are those that tests/bench/test_report.py
lists; a reader may rely on them within a major version of `format`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchless import __version__, strict_json
from torchless.bundle import Bundle
from torchless.devices import parse_device
from torchless.errors import InputError
from torchless.manifest import MANIFEST_NAME
from torchless_bench import crossover, limits
from torchless_bench.machine import describe_machine, load_average, source_commit
from torchless_bench.plan import Comparison, Plan
from torchless_bench.rounds import Measured, Outcome
from torchless_bench.summary import paired_ratio, spread
from torchless_bench.targets import Target, Verdict, judge
from torchless_bench.workloads import WORKLOADS, Workload

FORMAT = "1.1"

# Logits of one model in float32 differ by less whoever computes them.
_SAME_MODEL = 1e-3
# A contender that takes more of a CPU when it has nothing to do slows the others down.
_QUIET = 0.1
# From this share of the machine on, other processes are felt, and not by all contenders alike: those whose threads
# spin while they wait for each other lose most. A forward pass of PyTorch that takes 1 ms took 400 on 2 busy cores.
_ALONE = 0.1


def document(
    plan: Plan, outcome: Outcome, command: Sequence[str], prices: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the document of a run that has just been made.

    Args:
        plan: what was to be run.
        outcome: what came of it.
        command: the command line that asked for it.
        prices: per hour, by kind of device.
    """
    workloads = [_workload(each, plan, outcome) for each in plan.comparisons if each.workload.rounds != 0]
    contenders = _contenders(plan, outcome)
    reached = _limits(workloads, plan, outcome)
    found = {
        "format": FORMAT,
        "torchless": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "command": list(command),
        "source": source_commit(),
        "machine": describe_machine() | {"load_average": load_average()},
        "settings": asdict(plan.settings),
        "bundles": [{"path": str(bundle.path), "manifest_sha256": _digest(bundle)} for bundle in plan.bundles],
        "contenders": contenders,
        "workloads": workloads,
        "left_out": _left_out(plan, outcome),
        "limits": reached,
        "devices": crossover.summary(workloads, contenders, prices or {}),
        "targets": [_judged(target, plan, outcome, reached) for target in plan.targets],
        "warnings": _warnings(plan, outcome),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))  # as one who reads the file will have it
    return plain


def read(path: str | os.PathLike[str], prices: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return a document that `to_json` wrote, its costs made anew where `prices` are given.

    Raises:
        InputError: it is none, or of another major version of `format`.
        OSError: it cannot be read.
    """
    try:
        found = strict_json.loads(Path(path).read_bytes())
    except strict_json.JSONError as error:
        raise InputError(f"{path}: {error}") from None
    version = found.get("format") if isinstance(found, dict) else None
    wanted = FORMAT.partition(".")[0]
    if not isinstance(found, dict) or not isinstance(version, str) or version.partition(".")[0] != wanted:
        raise InputError(f"{path}: format is {version!r}, wanted {FORMAT}; give what `torchless bench --output` wrote")
    if prices:
        found["devices"] = crossover.summary(found["workloads"], found["contenders"], prices)
    return found


def to_json(report: dict[str, Any]) -> str:
    """Return the document as indented JSON, each list of numbers on one line."""
    lines = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    # A raw line break never stands within a JSON string, so this only finds what `indent` has set apart.
    return _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", lines) + "\n"


_NUMBERS = re.compile(r"\[\n([-+0-9.eE,\s]+)\n *\]")


def _limits(workloads: Sequence[Mapping[str, Any]], plan: Plan, outcome: Outcome) -> dict[str, Any]:
    profiles = {
        str(row.options["variant"]): measured.answer
        for row in plan.contenders
        if (measured := outcome.measured.get(("arithmetic", row.name))) is not None
    }
    # On a GPU the bundle's fp16 is what is chosen where it has one.
    chosen = "fp16" if "fp16" in plan.bundles[0].manifest.variants else "fp32"
    rows = [
        (row.name, parse_device(row.device).kind, row.precision or (chosen if row.device != "cpu" else None))
        for row in plan.contenders
    ]
    return limits.summary(workloads, profiles, rows)


def _contenders(plan: Plan, outcome: Outcome) -> list[dict[str, Any]]:
    rows = {row.name: row for row in plan.contenders}
    found = []
    for name, standing in outcome.standings.items():
        row = rows.get(name)
        about = {
            "name": name,
            "what": row.what if row else None,
            "family": row.family if row else None,
            "device": row.device if row else None,
            "model": str(row.model) if row else None,
            "options": dict(row.options) if row else None,
            "python": row.python or sys.executable if row else None,
        }
        found.append(about | asdict(standing))
    return found


def _left_out(plan: Plan, outcome: Outcome) -> list[dict[str, Any]]:
    """Return the workloads that nobody did, then those that some contender could not do.

    A precision that a device computes no products in is its nature: that its rate was not measured is no news.
    """
    rates = {row.name for row in WORKLOADS if row.kind == "rate"}
    nobody = [{"workload": name, "contender": None, "reason": reason} for name, reason in plan.left_out.items()]
    unable = [
        {"workload": workload, "contender": name, "reason": reason}
        for (workload, name), reason in outcome.unable.items()
        if workload not in rates
    ]
    return nobody + unable


def _workload(comparison: Comparison, plan: Plan, outcome: Outcome) -> dict[str, Any]:
    workload = comparison.workload
    work = plan.inputs.work(workload)
    found = {
        name: measured for name in comparison.contenders if (measured := outcome.measured.get((workload.name, name)))
    }
    # The one that was to be the baseline may have failed.
    baseline = comparison.baseline if comparison.baseline in found else next(iter(found), None)
    against = found[baseline].rounds if baseline is not None else ()
    results = []
    for name, measured in found.items():
        shown = [[workload.unit.show(sample, work) for sample in samples] for samples in measured.rounds]
        results.append(
            {
                "contender": name,
                "seconds": float(np.median(np.concatenate(measured.rounds))),
                "spread": asdict(spread(shown)),
                "ratio": asdict(paired_ratio(against, measured.rounds, seed=plan.settings.seed)),
                "others": measured.others,
                "samples": [[round(sample, 8) for sample in samples] for samples in measured.rounds],
            }
        )
    return {
        "name": workload.name,
        "what": workload.what,
        "kind": workload.kind,
        "unit": workload.unit.name,
        "more_is_better": workload.unit.rate,
        "rows": workload.rows,
        "tokens": workload.tokens,
        "threads": workload.threads,
        "work": work,
        "lengths": _lengths(plan, workload),
        "baseline": baseline,
        "results": results,
    }


def _lengths(plan: Plan, workload: Workload) -> list[int] | None:
    """Return the tokens of each text of a call; None where it is not texts that count."""
    return plan.inputs.lengths(workload) if workload.kind in ("forward", "answer", "loop", "first") else None


def _judged(target: Target, plan: Plan, outcome: Outcome, reached: Mapping[str, Any]) -> dict[str, Any]:
    if target.against == limits.LEAST:
        verdict = _share(target, plan, outcome, reached)
    else:
        verdict = _verdict(target, plan, outcome)
    return asdict(target) | {"wanted": target.wanted} | asdict(verdict)


def _share(target: Target, plan: Plan, outcome: Outcome, reached: Mapping[str, Any]) -> Verdict:
    """Judge the share of the least time that is reached."""
    key = (target.workload, target.contender)
    found = [row for row in reached["reached"] if (row["workload"], row["contender"]) == key]
    if not found:
        missing = (*reached["problems"], "the limits of this machine were not measured: --workloads limits")
        return Verdict("not measured", missing[0])
    measured = outcome.measured[key]
    lowest = [[found[0]["least_seconds"]]] * len(measured.rounds)
    workload = next(row for row in WORKLOADS if row.name == target.workload)
    return _doubted(judge(target, workload, measured.rounds, lowest, seed=plan.settings.seed), [measured])


def _verdict(target: Target, plan: Plan, outcome: Outcome) -> Verdict:
    both = []
    for name in (target.contender, target.against):
        measured = outcome.measured.get((target.workload, name))
        if measured is None:
            return Verdict("not measured", _why(name, target.workload, plan, outcome))
        both.append(measured)
    workload = next(row for row in WORKLOADS if row.name == target.workload)
    verdict = judge(target, workload, both[0].rounds, both[1].rounds, seed=plan.settings.seed)
    return verdict if workload.unit.measure == "value" else _doubted(verdict, both)


def _doubted(verdict: Verdict, measured: Sequence[Measured]) -> Verdict:
    """Return the verdict with its reason for doubt, where other processes were busy meanwhile."""
    share = max(one.others or 0.0 for one in measured)
    if share > _ALONE:
        return replace(verdict, reason=f"doubtful, other processes took {share:.0%} of the machine")
    return verdict


def _why(name: str, workload: str, plan: Plan, outcome: Outcome) -> str:
    standing = outcome.standings.get(name)
    if standing is not None and standing.reason is not None:
        return f"{name}: {standing.reason}"
    if (workload, name) in outcome.unable:
        return f"{name}: {outcome.unable[workload, name]}"
    return plan.left_out.get(workload, f"{name} took no part")


def _warnings(plan: Plan, outcome: Outcome) -> list[str]:
    """Say what makes figures of this run doubtful."""
    found = [
        f"{name}: its threads take {standing.idle:.0%} of a CPU while it has nothing to do, which slows the others down"
        for name, standing in outcome.standings.items()
        if standing.idle > _QUIET
    ]
    timed = [c.workload.name for c in plan.comparisons if c.workload.unit.measure != "value"]
    shares = [m.others for (name, _), m in outcome.measured.items() if name in timed and m.others is not None]
    if shares and (share := sum(shares) / len(shares)) > _ALONE:
        found.append(
            f"other processes took {share:.0%} of the machine meanwhile, which costs contenders whose threads spin "
            "(PyTorch, ONNX Runtime's defaults) the most: measure again on a quiet machine"
        )
    exact = [row.name for row in plan.contenders if row.exact]
    for comparison in plan.comparisons:
        if comparison.workload.kind != "forward":
            continue
        answers = {name: outcome.measured[comparison.workload.name, name].answer for name in exact
                   if (comparison.workload.name, name) in outcome.measured}  # fmt: skip
        for name in list(answers)[1:]:
            first = next(iter(answers))
            if not (apart := _distance(answers[first], answers[name])) <= _SAME_MODEL:  # nor if it is not a number
                found.append(
                    f"{comparison.workload.name}: the logits of {name} differ from those of {first} by {apart:.2g}: "
                    "are they of one model?"
                )
    return found


def _distance(a: Any, b: Any) -> float:
    """Return the largest difference of two arrays of logits; infinity where they are not of one shape."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(first - second).max(initial=0)) if first.shape == second.shape else float("inf")


def _digest(bundle: Bundle) -> str | None:
    return hashlib.sha256((bundle.path / MANIFEST_NAME).read_bytes()).hexdigest() if bundle.verified else None
