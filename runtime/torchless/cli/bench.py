"""`torchless bench`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import click

from torchless.cli import options
from torchless.cli.output import whole_file
from torchless.errors import InputError


def _names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name for name in (value or "").split(",") if name)


@click.command()
@click.argument("bundles", nargs=-1, metavar="BUNDLE...")
@click.option("--contenders", callback=_names, metavar="NAME,...", help="[default: all whose models are given]")
@click.option(
    "--workloads", callback=_names, metavar="NAME,...", help="Or sets of them.  [default: a few; `all` for every one]"
)
@click.option(
    "--devices", callback=_names, metavar="cpu,cuda,...", help="Compare these on a grid of batches and lengths."
)
@click.option("--baseline", metavar="NAME", help="Whom the others are compared with.  [default: the first]")
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The peers' models, made by `python -m torchless_bench.prepare`.",
)
@click.option("--onnx", multiple=True, metavar="NAME=FILE", help="Another graph, run by a bare script.")
@click.option("--python", "pythons", multiple=True, metavar="NAME=PATH", help="A contender's own interpreter.")
@click.option("--texts", metavar="FILE", help="For the workload `texts`.  [default: made-up sentences]")
@click.option(
    "--price", "prices", multiple=True, metavar="DEVICE=P", help="Per hour: adds the cost of a million texts."
)
@click.option("--targets", is_flag=True, help="Measure what the project's targets speak of, and judge them.")
@options.threads
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="Turns of each contender.  [default: 5]")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), metavar="S", help="Of a turn.  [default: 0.05]")
@click.option("--time-limit", type=click.FloatRange(1), metavar="S", help="For one answer.  [default: 300]")
@click.option("--seed", type=int, metavar="N", help="Of texts, ids and turns.  [default: 0]")
@click.option("--output", type=click.Path(dir_okay=False), metavar="FILE", help="Everything measured, as JSON.")
@click.option(
    "--report",
    "pages",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="An HTML page and figures.",
)
@click.option(
    "--read",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show what --output wrote; nothing is measured.",
)
@click.option("--list", "show_list", is_flag=True, help="Show the contenders, workloads and targets there are.")
@options.debug
def command(
    bundles: tuple[str, ...],
    contenders: tuple[str, ...],
    workloads: tuple[str, ...],
    devices: tuple[str, ...],
    baseline: str | None,
    peers: Path | None,
    onnx: tuple[str, ...],
    pythons: tuple[str, ...],
    texts: str | None,
    prices: tuple[str, ...],
    targets: bool,
    output: str | None,
    pages: Path | None,
    read: Path | None,
    show_list: bool,
    **settings: Any,
) -> None:
    """Measure BUNDLE: variant against variant, CPU against GPU, and against the peers installed.

    Each contender has a process of its own and works while the others wait, in turns whose order changes from round
    to round; ratios are taken within a round. What is not installed is skipped, with the reason.

    \b
    Examples:
      torchless bench sst2
      torchless bench sst2 sst2-by-graph --workloads 1x16,32x32 --rounds 15 --output bench.json
      torchless bench peers/bundle --peers peers --python transformers5=other/bin/python
      torchless bench peers/bundle --peers peers --targets
      torchless bench sst2 --devices cpu,cuda --price cpu=0.10 --price cuda=2.50
    """
    bench = _benchmark()
    if show_list:
        _show_list(bench)
        return
    if not bundles and read is None:
        raise click.UsageError("nothing to measure: give a bundle, --read or --list")
    if bundles and read is not None:
        raise click.UsageError("--read shows what was measured before: give it no bundle")
    try:
        interpreters, files = bench.named(pythons, "--python"), bench.named(onnx, "--onnx")
        if not files:  # else the contenders' names are learned from the disk
            rows = bench.table_of([Path(bundle) for bundle in bundles])
            bench.choose(rows, [*contenders, *([baseline] if baseline else [])], "the contender")
        bench.choose_workloads(workloads)
        bench.check_devices(devices)
        per_hour = bench.read_prices(bench.named(prices, "--price"))
    except InputError as error:
        raise click.UsageError(str(error)) from None
    if pages is not None:
        bench.check_figures()  # before the measuring, not after it
    if read is not None:
        _show(bench, bench.read(read, per_hour), pages)
        return
    with contextlib.ExitStack() as stack:
        # Before the measuring, not after it, is the time to learn that it cannot be written.
        stream = stack.enter_context(whole_file(output)) if output is not None else None
        plan = bench.make_plan(
            bundles,
            peers=peers,
            contenders=contenders,
            workloads=workloads,
            devices=devices,
            baseline=baseline,
            pythons=interpreters,
            onnx=files,
            texts=texts,
            targets=targets,
            settings=bench.Settings(**{name: value for name, value in settings.items() if value is not None}),
        )
        outcome = bench.run(plan, lambda line: click.echo(line, err=True))
        report = bench.document(plan, outcome, ["torchless", *sys.argv[1:]], per_hour)
        if stream is not None:
            stream.write(bench.to_json(report).encode())
    _show(bench, report, pages)
    if any(row["status"] == "failed" for row in report["contenders"]):
        raise click.exceptions.Exit(1)


def _show(bench: Any, report: dict[str, Any], pages: Path | None) -> None:
    click.echo(bench.text_table(report))
    if pages is not None:
        page, *_ = bench.write_page(report, pages)
        click.echo(f"wrote {page}, its figures beside it", err=True)


def _benchmark() -> Any:
    if importlib.util.find_spec("torchless_bench") is None:
        raise InputError("the benchmark is not installed: pip install torchless again, whole")
    return importlib.import_module("torchless_bench")


def _show_list(bench: Any) -> None:
    click.echo("contenders\n" + bench.listing([(row.name, row.what) for row in bench.CONTENDERS]))
    click.echo("workloads\n" + bench.listing([(row.name, row.what) for row in bench.WORKLOADS]))
    click.echo("sets of workloads\n" + bench.listing(list(bench.SETS.items())))
    click.echo("targets\n" + bench.listing([(str(row), row.wanted) for row in bench.TARGETS]))
