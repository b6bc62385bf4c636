"""A report's document as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchless_bench.workloads import counted

_HEAD = {
    False: ("contender", "p50", "p90", "p99", "middle half", "samples", "times as fast as {}"),
    True: ("contender", "median", "p5", "p95", "middle half", "samples", "times as fast as {}"),
}


def text_table(report: dict[str, Any]) -> str:
    """Return the whole document for a reader: the machine, a table for each workload, targets, what went wrong."""
    blocks = [_heading(report)]
    blocks += [_block(workload) for workload in report["workloads"] if workload["results"]]
    if report["targets"]:
        blocks.append(_targets(report))
    notes = [f"{row['status']}: {row['name']}: {row['reason']}" for row in report["contenders"] if row["reason"]]
    notes += [f"left out: {_whose(row)}: {row['reason']}" for row in report["left_out"]]
    notes += [f"warning: {line}" for line in report["warnings"]]
    return "\n\n".join([*blocks, *(["\n".join(notes)] if notes else [])])


def listing(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and what they stand for, one a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name.ljust(width)}  {what}" for name, what in rows)


def _heading(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    features = ", ".join(machine["features"]) or "no known features for int8"
    machine_line = f"{machine['cpu']} ({features}), {machine['usable_cpus']} CPUs"
    how = f"{counted(settings['threads'], 'thread')} each, {counted(settings['rounds'], 'round')}"
    return f"{machine_line}; {how}; ratios with 95 % intervals"


def _block(workload: dict[str, Any]) -> str:
    rate = workload["more_is_better"]
    head = [cell.format(workload["baseline"]) for cell in _HEAD[rate]]
    if workload["unit"] == "MB":
        head[-1] = head[-1].replace("times as fast as", "times smaller than")
    rows = [head]
    for result in workload["results"]:
        spread, ratio = result["spread"], result["ratio"]
        shown = ("p50", "p5", "p95") if rate else ("p50", "p90", "p99")
        cells = [_number(spread[key]) for key in shown]
        half = f"{_number(spread['p25'])} to {_number(spread['p75'])}"
        rows.append([result["contender"], *cells, half, str(spread["count"]), _ratio(ratio)])
    return f"{workload['name']}: {workload['what']}; {workload['unit']}\n{_aligned(rows)}"


def _targets(report: dict[str, Any]) -> str:
    rows = [["target", "wanted", "measured", "95 % interval", "verdict"]]
    units = {workload["name"]: workload["unit"] for workload in report["workloads"]}
    for target in report["targets"]:
        unit = units.get(target["workload"], "")
        bound = target["wanted"]
        name = f"{target['workload']}: {target['contender']} against {target['against']}"
        measured, interval = "", ""
        if target["ratio"] is not None:
            value = f", {_number(target['value'])} {unit}" if target["value"] is not None else ""
            measured = f"{target['ratio']:.2f}x{value}"
            interval = f"{target['low']:.2f} to {target['high']:.2f}" if target["low"] != target["high"] else "none"
        verdict = target["verdict"] + (f": {target['reason']}" if target["reason"] else "")
        rows.append([name, bound, measured, interval, verdict])
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]) for row in rows
    )


def _whose(row: dict[str, Any]) -> str:
    return row["workload"] if row["contender"] is None else f"{row['workload']} of {row['contender']}"


def _ratio(ratio: dict[str, Any]) -> str:
    """Return the ratio with its interval; alone where there is none, as of the baseline or of one round."""
    median, low, high = (_factor(ratio[key]) for key in ("median", "low", "high"))
    return median if ratio["low"] == ratio["high"] else f"{median} ({low} to {high})"


def _factor(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _number(value: float) -> str:
    """Return `value` with three significant digits, and no fewer before the point than it has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
