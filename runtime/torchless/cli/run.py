"""`torchless run`."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from torchless.cli import options
from torchless.cli.output import FORMATS, ResultWriter
from torchless.errors import InputError
from torchless.records import Record, RecordReader, format_of, open_records

# Records read, sorted by length and answered together. What is read from a pipe is answered sooner.
_WINDOW, _PIPE_WINDOW = 4096, 32


def _top_k(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "all":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a whole number from 1 nor 'all'", ctx, parameter)
    return int(value)


@click.command()
@click.argument("bundle")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--input", "source", metavar="FILE|-", help=".txt, .jsonl, .csv, .tsv, each also .gz; - is standard input."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Written whole or not at all.  [default: standard output]",
)
@click.option("--column", metavar="NAME|N", help="Where the text is.  [default: text, sentence, inputs, or the first]")
@click.option("--pair-column", metavar="NAME|N", help="Where the second text of a pair is.")
@click.option("--columns", metavar="NAME,...", help="Columns of the input to write beside the text.")
@options.variant
@options.device
@click.option("--top-k", callback=_top_k, metavar="N|all", help="Labels for each text.  [default: the best]")
@click.option(
    "--batch-size", type=click.IntRange(1), metavar="N", help="The most texts in a batch.  [default: by length]"
)
@options.threads
@click.option("--no-truncation", is_flag=True, help="Refuse texts over the model's maximum instead of cutting them.")
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="[default: by the output's name, else jsonl]")
@options.debug
def command(
    bundle: str,
    texts: tuple[str, ...],
    source: str | None,
    output: str | None,
    column: str | None,
    pair_column: str | None,
    columns: str | None,
    variant: str | None,
    device: str,
    top_k: int | str | None,
    batch_size: int | None,
    threads: int | None,
    no_truncation: bool,
    format_name: str | None,
) -> None:
    """Classify TEXTs, or the texts of a file, with BUNDLE.

    One JSON object a line, or csv or tsv. Texts over the model's maximum are cut, and counted at the end.

    \b
    Examples:
      torchless run sst2 "I love this." "I hate this."
      torchless run sst2 --input reviews.csv --column review --columns id --output labels.csv
      zcat texts.gz | torchless run sst2 --input - --top-k all > scores.jsonl
    """
    extra = [name for name in (columns or "").split(",") if name]
    _check_usage(texts, source, column, pair_column, extra)
    from torchless.pipelines.factory import pipeline

    with contextlib.ExitStack() as stack:
        reader = None
        records: Iterator[Record]
        if source is not None:
            reader = stack.enter_context(open_records(source, column=column, pair_column=pair_column, columns=extra))
            records = iter(reader)
        else:
            records = (Record(text, None, {}, i) for i, text in enumerate(texts, 1))
        classify = stack.enter_context(
            pipeline(
                model=bundle,
                device=device,
                variant=variant,
                batch_size=batch_size,
                threads=threads,
                profile="throughput",
            )
        )
        labels = len(classify.labels)
        count = None if top_k is None else labels if top_k == "all" else min(int(top_k), labels)
        writer = stack.enter_context(
            ResultWriter(
                output, format_name or _format_of(output), columns=extra, pair=pair_column is not None, top_k=count
            )
        )
        start = time.perf_counter()
        bar = stack.enter_context(_Bar(reader)) if reader else None
        done = 0
        cut: list[int] = []
        arguments: dict[str, Any] = {} if no_truncation else {"truncation": True, "on_truncation": cut.append}
        if count is not None:
            arguments["top_k"] = count
        # No word to the reader of a pipe should wait for the next one to be written.
        window = _PIPE_WINDOW if reader is not None and reader.total_bytes is None else _WINDOW
        while rows := list(itertools.islice(records, window)):
            for record, answer in zip(rows, classify(_inputs(rows), **arguments), strict=True):
                writer.write(record, answer)
            done += len(rows)
            if bar:
                bar.update(done)
    if source is not None:
        seconds = time.perf_counter() - start
        limit = f", {len(cut)} cut at {classify.max_length} tokens" if not no_truncation and classify.max_length else ""
        where = f" to {output}" if output else ""
        click.echo(
            f"{done} texts{where} in {seconds:.1f} s ({done / seconds:.0f}/s), {classify.variant}{limit}", err=True
        )
    elif cut:
        click.echo(f"{len(cut)} of {done} texts cut at {classify.max_length} tokens", err=True)


def _check_usage(
    texts: Sequence[str], source: str | None, column: str | None, pair_column: str | None, extra: Sequence[str]
) -> None:
    if texts and source is not None:
        raise click.UsageError("give texts or --input, not both")
    if not texts and source is None:
        raise click.UsageError("nothing to classify: give a text, or --input FILE (- for standard input)")
    if source is None and (column or pair_column or extra):
        raise click.UsageError("--column, --pair-column and --columns speak of a file: give --input")
    try:
        if source is not None:
            format_of(source)
        ResultWriter(None, columns=extra)  # refuses names that the output itself uses
    except InputError as error:
        raise click.UsageError(str(error)) from None


def _inputs(rows: Sequence[Record]) -> list[Any]:
    return [r.text if r.text_pair is None else {"text": r.text, "text_pair": r.text_pair} for r in rows]


def _format_of(output: str | None) -> str:
    extension = Path(output or "").suffix.lower().lstrip(".")
    return extension if extension in FORMATS else "jsonl"


class _Bar:
    """Progress over a file's bytes on standard error, where that is a terminal."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        name = os.path.basename(reader.name)
        self._bar = tqdm(
            total=reader.total_bytes, desc=name, unit="B", unit_scale=True, leave=False,
            file=sys.stderr, disable=not sys.stderr.isatty(),
        )  # fmt: skip

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, done: int) -> None:
        self._bar.set_postfix_str(f"{done} texts", refresh=False)
        self._bar.update(self._reader.bytes_read - self._bar.n)
