"""A report's document as one HTML file that needs nothing else: no script, no font, no image from anywhere."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from torchless_bench.plots import Plot, figures
from torchless_bench.summary import INTERVALS
from torchless_bench.table import (
    crossover_lines,
    device_rows,
    has_devices,
    limits_lines,
    limits_rows,
    notes,
    number,
    share_rows,
    target_rows,
)
from torchless_bench.workloads import counted

_STYLE = """
:root { color: #1a1a1a; background: #fff; font: 15px/1.5 system-ui, "Liberation Sans", Arial, sans-serif; }
body { max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
p, figcaption { max-width: 46rem; } .about, figcaption, .note { color: #555; } figcaption { margin-top: .2rem; }
figure { margin: 1.6rem 0 2.6rem; }
img { width: 100%; max-width: 52rem; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; vertical-align: top; }
td { white-space: nowrap; } th { vertical-align: bottom; }
th { border-bottom: 1.5px solid #1a1a1a; font-weight: 600; } td { border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child, .text { text-align: left; } .own td { font-weight: 600; }
.reason { white-space: normal; min-width: 14rem; text-align: left; }
.met { color: #00593f; font-weight: 600; } .not-met { color: #a33d00; font-weight: 600; }
code { font: .85em ui-monospace, "Liberation Mono", monospace; overflow-wrap: anywhere; }
"""

# The columns of the first table: a workload's name, what stands over it, and whether it is shown in a percentile too.
_OVERVIEW = (
    ("text16", "one text of 16 tokens, ms"),
    ("text128", "of 128, ms"),
    ("text512", "of 512, ms"),
    ("texts", "list of sentences, texts/s"),
    ("32x32", "32 × 32 tokens, forward, ms"),
    ("first", "first answer, s"),
    ("memory", "memory, MB"),
    ("installed", "installed, MB"),
    ("size", "model files, MB"),
)


def write(report: Mapping[str, Any], directory: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html` and the figures as PNG files into `directory`, which is made; returns their paths.

    Raises:
        InputError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    folder = Path(directory)
    drawn = figures(report)
    folder.mkdir(parents=True, exist_ok=True)
    for plot, png in drawn:
        (folder / f"{plot.name}.png").write_bytes(png)
    (folder / "report.html").write_text(html(report, drawn), encoding="utf-8")
    return [folder / "report.html", *(folder / f"{plot.name}.png" for plot, _ in drawn)]


def html(report: Mapping[str, Any], drawn: Iterable[tuple[Plot, bytes]]) -> str:
    """Return the page, with the figures in it."""
    parts = [_heading(report), _overview(report)]
    parts += [_figure(plot, png) for plot, png in drawn]
    parts += [_targets(report), _devices(report["devices"]), _limits(report["limits"])]
    parts += [_workload(workload) for workload in report["workloads"] if workload["results"]]
    parts += [_notes(report), _provenance(report)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>torchless, measured</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _heading(report: Mapping[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    memory = f", {machine['memory_bytes'] / 1e9:.0f} GB" if machine["memory_bytes"] else ""
    features = ", ".join(machine["features"]) or "no known features for int8"
    how = f"{counted(settings['threads'], 'thread')} and {counted(settings['rounds'], 'round')} of each"
    about = (
        f"{machine['cpu']} ({features}), {machine['usable_cpus']} CPUs{memory}, {machine['system']}. "
        f"{report['created']}; {how}."
    )
    return (
        f'<h1>torchless, measured</h1>\n<p class="about">{escape(about)}</p>\n'
        "<p>Every contender ran in a process of its own, all alive at once and one at work at a time, in turns whose "
        "order changed from round to round. Figures are medians; ratios are medians of the ratios within each round, "
        f"with {INTERVALS}.</p>"
    )


def _overview(report: Mapping[str, Any]) -> str:
    workloads = {workload["name"]: workload for workload in report["workloads"] if workload["results"]}
    columns = [(name, head) for name, head in _OVERVIEW if name in workloads]
    if not columns:
        return ""
    middle = {
        (name, result["contender"]): number(result["spread"]["p50"])
        for name, _ in columns
        for result in workloads[name]["results"]
    }
    names = dict.fromkeys(result["contender"] for name, _ in columns for result in workloads[name]["results"])
    rows = [[contender, *(middle.get((name, contender), "") for name, _ in columns)] for contender in names]
    return "<h2>At a glance</h2>\n" + _table(["contender", *(head for _, head in columns)], rows)


def _figure(plot: Plot, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<figure id="{plot.name}">\n'
        f'<img alt="{escape(plot.title)}: {escape(plot.caption)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _targets(report: Mapping[str, Any]) -> str:
    if not report["targets"]:
        return ""
    head, *rows = target_rows(report)
    return "<h2>Targets</h2>\n" + _table(head, rows, text=(1, 2, 3), reasons=(7,), verdict=6)


def _devices(devices: Mapping[str, Any]) -> str:
    if not has_devices(devices):
        return ""
    head, *rows = device_rows(devices)
    prices = "; ".join(f"{kind} at {price:g} an hour" for kind, price in devices["prices"].items())
    lines = [*crossover_lines(devices["crossover"]), *([f"Cost of a million texts with {prices}."] if prices else [])]
    return f"<h2>Device by device</h2>\n{_paragraphs(lines)}" + _table(head, rows)


def _limits(limits: Mapping[str, Any]) -> str:
    if not limits["reached"]:
        return ""
    about = (
        "The least time of a workload is that of its products at the rate of large products in ONNX Runtime, or of "
        "reading the weights once for each batch, whichever is longer. Padding, norms, tokenizing and Python have no "
        "part in it."
    )
    head, *rows = share_rows(limits["reached"])
    own = [row for row in limits["reached"] if row["contender"].startswith("torchless")]
    least_head, *least_rows = limits_rows(own)
    tables = _table(head, rows) + (f"<p></p>{_table(least_head, least_rows, text=(1, 3))}" if own else "")
    return f"<h2>What the machine allows</h2>\n{_paragraphs([about, *limits_lines(limits)])}{tables}"


def _workload(workload: Mapping[str, Any]) -> str:
    rate = workload["more_is_better"]
    keys = ("p50", "p5", "p95") if rate else ("p50", "p90", "p99")
    rows = []
    for result in workload["results"]:
        spread, ratio = result["spread"], result["ratio"]
        interval = "" if ratio["low"] == ratio["high"] else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
        shown = [number(spread[key]) for key in keys]
        rows.append([result["contender"], *shown, str(spread["count"]), f"{ratio['median']:.3g}{interval}"])
    against = "times smaller than" if workload["unit"] == "MB" else "times as fast as"
    head = [
        "contender",
        *("median" if key == "p50" else key for key in keys),
        "samples",
        f"{against} {workload['baseline']}",
    ]
    return f"<h2>{escape(workload['name'])}</h2>\n<p>{escape(workload['what'])}; {workload['unit']}</p>" + _table(
        head, rows
    )


def _notes(report: Mapping[str, Any]) -> str:
    lines = notes(report)
    return f"<h2>Left out, and doubtful</h2>\n{_paragraphs(lines)}" if lines else ""


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>\n" for line in lines)


def _provenance(report: Mapping[str, Any]) -> str:
    source = report["source"]
    commit = f"{source['commit']}{', changed since' if source['changed'] else ''}" if source else "no checkout"
    rows = [
        [row["name"], row["what"] or "", ", ".join(f"{name} {version}" for name, version in row["versions"].items())]
        for row in report["contenders"]
        if row["versions"]
    ]
    return (
        "<h2>How it was made</h2>\n"
        f"<p>torchless {escape(report['torchless'])}, commit {escape(commit)}</p>"
        f"<p><code>{escape(' '.join(report['command']))}</code></p>"
        + _table(["contender", "what", "versions"], rows, text=(1, 2), reasons=(1, 2))
    )


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Sequence[int] = (),
    reasons: Sequence[int] = (),
    verdict: int | None = None,
) -> str:
    """Return a table; columns `text` are set on the left, `reasons` may break, and `verdict` is coloured."""

    def cell(tag: str, value: str, i: int) -> str:
        classes = (["text"] if i in text else []) + (["reason"] if i in reasons else [])
        if i == verdict and tag == "td":
            classes += [value.replace(" ", "-"), "text"]
        marked = f' class="{" ".join(classes)}"' if classes else ""
        return f"<{tag}{marked}>{escape(value)}</{tag}>"

    lines = ["".join(cell("th", value, i) for i, value in enumerate(head))]
    body = []
    for row in rows:
        own = ' class="own"' if verdict is None and any(value.startswith("torchless-") for value in row[:2]) else ""
        body.append(f"<tr{own}>" + "".join(cell("td", value, i) for i, value in enumerate(row)) + "</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{lines[0]}</tr></thead>\n<tbody>'
        + "\n".join(body)
        + "</tbody></table></div>"
    )
