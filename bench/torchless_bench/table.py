"""A report's document as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchless_bench.summary import INTERVALS
from torchless_bench.workloads import counted

_HEAD = {
    False: ("contender", "p50", "p90", "p99", "middle half", "samples", "times as fast as {}"),
    True: ("contender", "median", "p5", "p95", "middle half", "samples", "times as fast as {}"),
}


def text_table(report: dict[str, Any]) -> str:
    """Return the whole document for a reader: the machine, a table for each workload, targets, what went wrong."""
    blocks = [_heading(report)]
    blocks += [_block(workload) for workload in report["workloads"] if workload["results"]]
    if has_devices(report["devices"]):
        devices = report["devices"]
        blocks.append("\n".join([_aligned(device_rows(devices)), *crossover_lines(devices["crossover"])]))
    if report["limits"]["reached"]:
        blocks.append(_limits(report["limits"]))
    if report["targets"]:
        blocks.append(_targets(report))
    said = notes(report)
    return "\n\n".join([*blocks, *(["\n".join(said)] if said else [])])


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return who and what was left out, and what makes the figures doubtful."""
    lines = [f"{row['status']}: {row['name']}: {row['reason']}" for row in report["contenders"] if row["reason"]]
    lines += [f"left out: {_whose(row)}: {row['reason']}" for row in report["left_out"]]
    return lines + [f"warning: {line}" for line in report["warnings"]]


def _whose(row: Mapping[str, Any]) -> str:
    return str(row["workload"]) if row["contender"] is None else f"{row['workload']} of {row['contender']}"


def has_devices(devices: Mapping[str, Any]) -> bool:
    """Tell whether there is anything to compare: two devices, or a price."""
    return bool(devices["prices"]) or any(cell["fastest"] for cell in devices["grid"])


def listing(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and what they stand for, one a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name.ljust(width)}  {what}" for name, what in rows)


def _heading(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    features = ", ".join(machine["features"]) or "no known features for int8"
    machine_line = f"{machine['cpu']} ({features}), {machine['usable_cpus']} CPUs"
    how = f"{counted(settings['threads'], 'thread')} each, {counted(settings['rounds'], 'round')}"
    return f"{machine_line}; {how}; ratios with {INTERVALS}"


def _block(workload: dict[str, Any]) -> str:
    rate = workload["more_is_better"]
    head = [cell.format(workload["baseline"]) for cell in _HEAD[rate]]
    if workload["unit"] == "MB":
        head[-1] = head[-1].replace("times as fast as", "times smaller than")
    rows = [head]
    for result in workload["results"]:
        spread, ratio = result["spread"], result["ratio"]
        shown = ("p50", "p5", "p95") if rate else ("p50", "p90", "p99")
        cells = [number(spread[key]) for key in shown]
        half = f"{number(spread['p25'])} to {number(spread['p75'])}"
        rows.append([result["contender"], *cells, half, str(spread["count"]), _ratio(ratio)])
    return f"{workload['name']}: {workload['what']}; {workload['unit']}\n{_aligned(rows)}"


def _targets(report: dict[str, Any]) -> str:
    rows = target_rows(report)
    named = [[f"{row[0]}: {row[1]} against {row[2]}", *row[3:]] for row in rows[1:]]
    rows = [["target", *rows[0][3:]], *named]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), _verdict(row)])
        for row in rows
    )


def _verdict(row: Sequence[str]) -> str:
    verdict, note = row[4:]
    return f"{verdict}: {note}" if note and verdict != "verdict" else verdict


def target_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of the targets, its head first."""
    rows = [["workload", "contender", "against", "wanted", "measured", "interval", "verdict", "note"]]
    units = {workload["name"]: workload["unit"] for workload in report["workloads"]}
    for target in report["targets"]:
        measured, interval = "", ""
        if target["ratio"] is not None:
            value = f", {number(target['value'])} {units[target['workload']]}" if target["value"] is not None else ""
            measured = f"{target['ratio']:.2f}x{value}"
            interval = f"{target['low']:.2f} to {target['high']:.2f}" if target["low"] != target["high"] else "none"
        where = [target["workload"], target["contender"], target["against"]]
        rows.append([*where, target["wanted"], measured, interval, target["verdict"], target["reason"] or ""])
    return rows


def _limits(limits: dict[str, Any]) -> str:
    """Return torchless's own shares; the page has the peers' too."""
    own = [row for row in limits["reached"] if row["contender"].startswith("torchless")]
    return "\n".join([*limits_lines(limits), *([_aligned(limits_rows(own))] if own else [])])


def limits_lines(limits: Mapping[str, Any]) -> list[str]:
    """Return what the machine reaches, and what takes the graphs' time, in sentences."""
    lines = [f"what ONNX Runtime reaches on {device}: {rates_line(rates)}" for device, rates in limits["rates"].items()]
    for variant, graph in limits["graphs"].items():
        for shape, shares in graph["shares"].items():
            most = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01)
            lines.append(f"time of the {variant} graph at {shape}: {most}")
    return [*lines, *limits["problems"]]


def limits_rows(reached: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of the least times and the shares reached, its head first."""
    rows = [["least time of", "by", "least ms", "bound by", "measured ms", "share reached"]]
    for row in reached:
        times = [number(1e3 * row["least_seconds"]), row["bound"], number(1e3 * row["seconds"])]
        rows.append([row["workload"], row["contender"], *times, f"{row['share']:.0%}"])
    return rows


def share_rows(reached: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of the shares reached, a column for each contender, its head first."""
    contenders = list(dict.fromkeys(row["contender"] for row in reached))
    shares = {(row["workload"], row["contender"]): f"{row['share']:.0%}" for row in reached}
    workloads = dict.fromkeys(row["workload"] for row in reached)
    rows = [[name, *(shares.get((name, contender), "") for contender in contenders)] for name in workloads]
    return [["share of the least time", *contenders], *rows]


def rates_line(rates: dict[str, float]) -> str:
    """Return a device's rates in words."""
    named = [f"{rates[name] * 1e-9:,.0f} Gop/s in {name}" for name in rates if name != "memory"]
    return ", ".join([*named, *([f"weights read at {rates['memory'] * 1e-9:.3g} GB/s"] if "memory" in rates else [])])


def device_rows(devices: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of the fastest of each device on each workload and what a million texts cost, its head first."""
    kinds = sorted({kind for cell in devices["grid"] for kind in cell["devices"]})
    priced = [kind for kind in kinds if kind in devices["prices"]]
    head = ["device by device", *(f"{kind} texts/s" for kind in kinds), "fastest"]
    rows = [head + [f"{kind} per million" for kind in priced] + (["cheapest"] if priced else [])]
    for cell in devices["grid"]:
        found = cell["devices"]
        rates = [number(found[kind]["texts_per_second"]) if kind in found else "" for kind in kinds]
        costs = [f"{found[kind]['cost']:.3g}" if kind in found else "" for kind in priced]
        last = [cell["cheapest"] or ""] if priced else []
        rows.append([cell["workload"], *rates, cell["fastest"] or "", *costs, *last])
    return rows


def crossover_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for each length: from which batch on the GPU wins."""
    lines = []
    for row in found:
        where = f"from batches of {row['rows']} on" if row["rows"] is not None else "at no batch measured"
        lines.append(f"{row['tokens']} tokens: the GPU wins {where} (measured: {', '.join(map(str, row['measured']))})")
    return lines


def _ratio(ratio: dict[str, Any]) -> str:
    """Return the ratio with its interval; alone where there is none, as of the baseline or of one round."""
    median, low, high = (_factor(ratio[key]) for key in ("median", "low", "high"))
    return median if ratio["low"] == ratio["high"] else f"{median} ({low} to {high})"


def _factor(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def number(value: float) -> str:
    """Return `value` with three significant digits, and no fewer before the point than it has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
