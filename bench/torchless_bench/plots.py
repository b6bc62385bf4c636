"""A report's document as figures: PNG files for a memo, and what the HTML page shows.

Drawn with matplotlib, of the extra `bench`. A family of contenders has one colour in all figures (of Okabe and Ito's
palette, told apart by colour-blind readers too), its precision a line style; names stand at the lines' ends.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchless.errors import InputError
from torchless_bench.workloads import counted

_DPI = 160
_LINE_HEIGHT = 11.5  # points
_INK, _PALE, _FAINT = "#1a1a1a", "#5a5a5a", "#d9d9d9"
_COLOURS = {
    "torchless": "#0072b2",
    "bare": "#e69f00",
    "optimum": "#009e73",
    "transformers": "#d55e00",
    "transformers5": "#a0522d",
    "openvino": "#cc79a7",
    "ctranslate2": "#6a6a6a",
}
_STYLES = {"fp32": "-", "int8": (0, (5, 2)), "bf16": (0, (1, 1.5)), "fp16": (0, (3, 1, 1, 1))}
_ROOFS = {"fp32": "#d55e00", "int8": "#0072b2", "fp16": "#009e73"}


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure.

    Attributes:
        name: of its PNG file.
        title: says what is to be seen.
        caption: says how to read it.
        draw: takes a report's document and an axes object to draw on; returns False where it has nothing to show.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Mapping[str, Any], Any], bool]


def check() -> None:
    """See that figures can be drawn.

    Raises:
        InputError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the figures need matplotlib: pip install 'torchless[bench]', or leave --report out")


def figures(report: Mapping[str, Any]) -> list[tuple[Plot, bytes]]:
    """Return each figure that the document has the measurements for, as a PNG file.

    Raises:
        InputError: matplotlib is not installed.
    """
    check()
    figure_class = importlib.import_module("matplotlib.figure").Figure
    rc_context = importlib.import_module("matplotlib").rc_context
    machine, settings = report["machine"], report["settings"]
    where = f"{machine['cpu']}, {counted(settings['threads'], 'thread')}, {report['created'][:10]}"
    found = []
    with rc_context(_STYLE):
        for plot in PLOTS:
            figure = figure_class(figsize=(8.2, 4.8), layout="constrained")
            axes = figure.add_subplot()
            if plot.draw(report, axes):
                axes.set_title(plot.title, loc="left", fontweight="bold", pad=22)
                axes.text(0, 1.03, where, transform=axes.transAxes, fontsize=8, color=_PALE)
                file = io.BytesIO()
                figure.savefig(file, format="png", dpi=_DPI)
                found.append((plot, file.getvalue()))
    return found


_STYLE = {
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}

Series = dict[str, list[tuple[float, float]]]


def _series(workloads: Iterable[Mapping[str, Any]], x: str, y: Callable[[Mapping[str, Any], float], float]) -> Series:
    """Return (x, y) by contender: x a key of the workload, y of the workload and the median seconds of a call."""
    found: Series = {}
    for workload in workloads:
        for result in workload["results"]:
            found.setdefault(result["contender"], []).append((workload[x], y(workload, result["seconds"])))
    return {name: sorted(points) for name, points in found.items()}


def _lines(axes: Any, series: Series) -> bool:
    """Draw a line for each contender on logarithmic axes, its name at the right end."""
    series = {name: points for name, points in series.items() if len(points) > 1}
    if not series:
        return False
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.set_yticks(*_round_ticks([y for points in series.values() for _, y in points]))
    for name, points in series.items():
        own = name.startswith("torchless")
        axes.plot(
            *zip(*points, strict=True), color=colour(name), linestyle=_STYLES.get(name.rpartition("-")[2], "-"),
            linewidth=2.6 if own else 1.3, marker="o", markersize=4.5 if own else 3, zorder=3 if own else 2,
        )  # fmt: skip
    _names_at_the_end(axes, {name: (*points[-1], colour(name)) for name, points in series.items()})
    return True


def colour(contender: str) -> str:
    """Return the colour of a contender's family."""
    return _COLOURS.get(contender.partition("-")[0], _INK)


def _round_ticks(values: Sequence[float]) -> tuple[list[float], list[str]]:
    """Return 1, 2 and 5 times powers of ten around these values, and how to write them."""
    low, high = min(values), max(values)
    ticks = [m * 10.0**e for e in range(-6, 9) for m in (1, 2, 5) if low / 2.5 <= m * 10.0**e <= high * 2.5]
    return ticks, [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks]


def _names_at_the_end(axes: Any, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write each name right of its line's end (x, y, colour), moved apart where they would lie on each other."""
    axes.figure.draw_without_rendering()  # the transforms are final only then
    gap = _LINE_HEIGHT * axes.figure.dpi / 72 / axes.get_window_extent().height
    into_axes = axes.transData + axes.transAxes.inverted()
    spots = sorted((*into_axes.transform((x, y))[::-1], name, hue) for name, (x, y, hue) in ends.items())
    for place, (y, x, name, hue) in zip(spread_apart([spot[0] for spot in spots], gap), spots, strict=True):
        axes.annotate(
            name, (x, y), (1.04, place), "axes fraction", "axes fraction", color=hue, va="center", fontsize=8.5,
            fontweight="bold" if name.startswith("torchless") else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": hue, "linewidth": 0.5, "alpha": 0.5, "shrinkA": 2, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """Return sorted places moved as little as it takes (least squares) so that each is `gap` above the one before.

    Pool-adjacent-violators: with `gap` taken out they must not fall, and blocks that do are given their mean.
    """
    blocks: list[tuple[float, int]] = []  # mean, and how many
    for i, place in enumerate(places):
        mean, count = place - i * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, many = blocks.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    return [mean + i * gap for i, mean in enumerate(flat)]


def _bars(axes: Any, values: Sequence[tuple[str, float]], label: str, show: str) -> bool:
    """Draw a horizontal bar for each contender, best on top, its value at the end."""
    if not values:
        return False
    names = [name for name, _ in values][::-1]
    sizes = [value for _, value in values][::-1]
    axes.grid(visible=False)
    axes.barh(names, sizes, color=[colour(name) for name in names], height=0.66)
    for i, size in enumerate(sizes):
        axes.annotate(f" {show.format(size)}", (size, i), va="center", fontsize=9)
    for text, name in zip(axes.get_yticklabels(), names, strict=True):
        text.set_fontweight("bold" if name.startswith("torchless") else "normal")
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(sizes) * 1.13)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    return True


def _of_kind(report: Mapping[str, Any], *kinds: str) -> list[Mapping[str, Any]]:
    return [workload for workload in report["workloads"] if workload["kind"] in kinds]


def _latency(report: Mapping[str, Any], axes: Any) -> bool:
    texts = [workload for workload in _of_kind(report, "answer") if workload["tokens"] is not None]
    axes.set(xlabel="tokens of the text", ylabel="median time to its label, ms")
    return _lines(axes, _series(texts, "tokens", lambda _, seconds: 1e3 * seconds))


def _throughput(report: Mapping[str, Any], axes: Any) -> bool:
    forward = [workload for workload in _of_kind(report, "forward") if workload["tokens"] == 32]
    axes.set(xlabel="texts in a batch, of 32 tokens each", ylabel="texts per second, forward pass")
    return _lines(axes, _series(forward, "rows", lambda workload, seconds: workload["work"] / seconds))


def _sentences(report: Mapping[str, Any], axes: Any) -> bool:
    found = [
        (result["contender"], workload["work"] / result["seconds"])
        for workload in _of_kind(report, "answer")
        if workload["tokens"] is None
        for result in workload["results"]
    ]
    return _bars(axes, sorted(found, key=lambda item: -item[1]), "sentences per second, text to label", "{:,.0f}")


def _measured(kind: str, scale: float, label: str, show: str) -> Callable[[Mapping[str, Any], Any], bool]:
    def draw(report: Mapping[str, Any], axes: Any) -> bool:
        found = [
            (result["contender"], scale * result["seconds"])
            for workload in _of_kind(report, kind)
            for result in workload["results"]
        ]
        return _bars(axes, sorted(found, key=lambda item: item[1]), label, show)

    return draw


def _threads(report: Mapping[str, Any], axes: Any) -> bool:
    axes.set(xlabel="threads that call at once", ylabel="texts per second, 16 tokens each")
    found: Series = {}
    for workload in _of_kind(report, "loop"):
        for result in workload["results"]:
            samples = [sample for turn in result["samples"] for sample in turn]
            # Little's law: so many are always under way, each for its mean latency.
            rate = workload["threads"] * len(samples) / sum(samples)
            found.setdefault(result["contender"], []).append((workload["threads"], rate))
    return _lines(axes, {name: sorted(points) for name, points in found.items()})


# Few enough to be told apart.
_ON_THE_ROOFLINE = ("text16", "text128", "texts", "32x32")


def _roofline(report: Mapping[str, Any], axes: Any) -> bool:
    """Operations a second against operations for each byte of weights: the roofs, and the most torchless reaches."""
    limits = report["limits"]
    rates = limits["rates"].get("cpu", {})
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in sorted(limits["reached"], key=lambda row: row["share"]):
        if row["contender"].startswith("torchless-") and row["workload"] in _ON_THE_ROOFLINE:
            best[row["workload"], row["precision"]] = row
    points = list(best.values())
    if "memory" not in rates or not points:
        return False
    intensities = [sum(row["operations"].values()) / row["bytes"] for row in points]
    ends = (min(intensities) / 2, max(intensities) * 2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    reached = []
    for row, x in zip(points, intensities, strict=True):
        y = 1e-9 * sum(row["operations"].values()) / row["seconds"]
        reached.append(y)
        axes.plot(x, y, "o", color=_ROOFS[row["precision"]], markersize=5.5, zorder=3)
        # A list lies beside a batch of its size, and is named on the other side.
        offset, side = ((-7, -3), "right") if row["workload"] == "texts" else ((6, -9), "left")
        axes.annotate(
            f"{row['workload']} {row['share']:.0%}", (x, y), offset, ha=side,
            textcoords="offset points", fontsize=8, color=_ROOFS[row["precision"]],
        )  # fmt: skip
    for precision in sorted({row["precision"] for row in points} & set(rates)):
        corner = rates[precision] / rates["memory"]
        xs = [ends[0], *([corner] if ends[0] < corner < ends[1] else []), ends[1]]
        ys = [1e-9 * min(rates[precision], rates["memory"] * x) for x in xs]
        axes.plot(xs, ys, color=_ROOFS[precision], linewidth=1.8)
        axes.annotate(
            f"{precision}: {1e-9 * rates[precision]:,.0f} Gop/s", (xs[-1], ys[-1]), (0, 5), textcoords="offset points",
            ha="right", color=_ROOFS[precision], fontweight="bold",
        )  # fmt: skip
        reached += ys
    tens = [tick for tick in _round_ticks(ends)[0] if math.log10(tick).is_integer()]
    axes.set_xticks(tens, [f"{tick:,.0f}" for tick in tens])
    axes.set_yticks(*_round_ticks(reached))
    axes.minorticks_off()
    axes.set(
        xlabel=f"operations for each byte of weights, which are read at {1e-9 * rates['memory']:.0f} GB/s",
        ylabel="operations that the answer needs, Gop/s",
    )
    return True


def _devices(report: Mapping[str, Any], axes: Any) -> bool:
    cells = [cell for cell in report["devices"]["grid"] if cell["kind"] == "forward" and cell["fastest"] is not None]
    colours = {"cpu": _COLOURS["torchless"], "cuda": _COLOURS["optimum"]}
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for cell in cells:
        for kind, best in cell["devices"].items():
            found.setdefault((kind, cell["tokens"]), []).append((cell["rows"], best["texts_per_second"]))
    if not found:
        return False
    names = {"cpu": "CPU", "cuda": "GPU"}
    lines = {f"{names[kind]}, {tokens} tokens": points for (kind, tokens), points in sorted(found.items())}
    hues = {f"{names[kind]}, {tokens} tokens": colours[kind] for kind, tokens in found}
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({rows for points in lines.values() for rows, _ in points})
    axes.set_xticks(ticks, [f"{rows:g}" for rows in ticks])
    axes.set_yticks(*_round_ticks([rate for points in lines.values() for _, rate in points]))
    axes.minorticks_off()
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), color=hues[name], marker="o", markersize=4)
    _names_at_the_end(axes, {name: (*max(points), hues[name]) for name, points in lines.items()})
    axes.set(xlabel="texts in a batch", ylabel="texts per second, forward pass")
    return True


PLOTS = (
    Plot(
        "sentences", "A list of sentences, text to label",
        "Sentences per second on a list of mixed lengths, at most 32 at once. Longer bars are better.", _sentences,
    ),
    Plot(
        "latency", "One text, by its length",
        "Median time from one text to its label. Lower is better. Both axes are logarithmic.", _latency,
    ),
    Plot(
        "throughput", "Batches, forward pass alone",
        "Texts of 32 tokens per second, by the size of the batch. Higher is better. Both axes are logarithmic.",
        _throughput,
    ),
    Plot(
        "threads", "Called from several threads",
        "Closed loop: each thread asks for one text of 16 tokens after the other. Higher is better.", _threads,
    ),
    Plot(
        "first", "From nothing to the first answer",
        "A fresh process: imports, opening the model, one text. Shorter is better.",
        _measured("first", 1, "seconds from the start of the process to the first label", "{:.2f}"),
    ),
    Plot(
        "memory", "Memory", "Resident memory of a process that has answered the list of sentences. Shorter is better.",
        _measured("memory", 1e-6, "resident memory, MB", "{:,.0f}"),
    ),
    Plot(
        "installed", "Installed size", "The libraries that it needs and theirs, without the model. Shorter is better.",
        _measured("installed", 1e-6, "installed, MB", "{:,.0f}"),
    ),
    Plot(
        "devices", "CPU against GPU",
        "The fastest way on either, by batch and length. Where a GPU line lies above the CPU line of its length, the "
        "GPU wins.", _devices,
    ),
    Plot(
        "roofline", "What the machine allows",
        "Lines: what ONNX Runtime reaches on this machine, limited by reading weights (rising) or by products (level). "
        "Points: what torchless makes of it, and the share of the least time, counting only the arithmetic that the "
        "answer needs.", _roofline,
    ),
)  # fmt: skip
"""The figures, in their order on the page."""
