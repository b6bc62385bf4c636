"""`torchless run`."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torchless.cli import options
from torchless.cli.output import FORMATS, ResultWriter, is_replaceable
from torchless.cli.progress import Progress
from torchless.cli.resume import ResumableFile, discard
from torchless.devices import CUDA_PROVIDER
from torchless.errors import InputError
from torchless.records import Record, RecordReader, check_columns, open_records

if TYPE_CHECKING:
    from torchless.pipelines.base import Pipeline

# Records read, sorted by length and answered together. What is read from a pipe is answered sooner.
_WINDOW, _PIPE_WINDOW = 4096, 32


def _top_k(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "all":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a whole number from 1 nor 'all'", ctx, parameter)
    return int(value)


def _output(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value == "-" else value


@click.command()
@click.argument("bundle")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--input", "source", metavar="FILE|-", help=".txt, .jsonl, .csv, .tsv, each also .gz; - is standard input."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE|-",
    callback=_output,
    help="Written whole or not at all; - is standard output.  [default: -]",
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
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of the same command stopped.")
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
    resume: bool,
    format_name: str | None,
) -> None:
    """Classify TEXTs, or the texts of a file, with BUNDLE.

    One JSON object a line, or csv or tsv. Texts over the model's maximum are cut, and counted at the end.

    A file is read and written as it goes, in constant memory. Where that is interrupted, the same command with
    --resume goes on with what is done, and the file is the same in the end.

    \b
    Examples:
      torchless run sst2 "I love this." "I hate this."
      torchless run sst2 --input reviews.csv --column review --columns id --output labels.csv
      torchless run sst2 --input texts.txt.gz --output labels.jsonl --resume
      zcat texts.gz | torchless run sst2 --input - --top-k all > scores.jsonl
    """
    extra = [name for name in (columns or "").split(",") if name]
    _check_usage(texts, source, column, pair_column, extra)
    _check_output(source, output)
    if resume:
        _check_resume(source, output)
    from torchless.cli.settings import settings_of
    from torchless.pipelines.factory import pipeline
    from torchless.pipelines.tasks import find_task

    format_name = format_name or _format_of(output)
    with contextlib.ExitStack() as stack:
        reader = None
        if source is not None:
            reader = stack.enter_context(open_records(source, column=column, pair_column=pair_column, columns=extra))
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
        if "labels" not in find_task(classify.task).axes:
            raise InputError(f"{bundle}: a bundle for {classify.task}, whose answers are no labels; use it from Python")
        labels = len(classify.labels)
        count = None if top_k is None else labels if top_k == "all" else min(int(top_k), labels)
        file = None
        if output is not None and is_replaceable(output):
            if reader is not None and reader.total_bytes is not None:
                given = {
                    "--column": column,
                    "--pair-column": pair_column,
                    "--columns": ",".join(extra) or None,
                    "--top-k": None if count is None else str(count),
                    "--batch-size": None if batch_size is None else str(batch_size),
                    "--no-truncation": "" if no_truncation else None,
                    "--format": format_name,
                }
                file = ResumableFile(output, settings_of(classify, given), resume=resume)
                stack.enter_context(file)
            else:
                discard(output)
        writer = stack.enter_context(
            ResultWriter(output, format_name, columns=extra, pair=pair_column is not None, top_k=count, file=file)
        )
        progress = None
        if reader is not None and not (output is None and sys.stdout.isatty()):  # there the answers are the progress
            progress = stack.enter_context(Progress(reader))
        arguments: dict[str, Any] = {} if count is None else {"top_k": count}
        first = cut = 0
        if file is not None and reader is not None:
            _say_start(file, output, resume=resume)
            file.skip(reader, progress.again if progress else lambda: None)
            first, cut = file.records, file.cut
        done = first
        start = time.perf_counter()
        if progress:
            progress.start(done)
        for rows in windows(reader, texts, classify, batch_size):
            if file:
                file.save()
            answers, cut_here = _classify(classify, rows, reader, truncate=not no_truncation, **arguments)
            writer.write_all(rows, answers)
            if file:
                file.mark(rows, cut_here)
            done += len(rows)
            cut += cut_here
            if progress:
                progress.update(done)
    if source is not None:
        seconds = time.perf_counter() - start
        limit = f", {cut} cut at {classify.max_length} tokens" if not no_truncation and classify.max_length else ""
        where = f" to {output}" if output else ""
        last = f", the last {done - first}" if first else ""
        rate = (done - first) / seconds
        # On a CPU the two share their cores.
        slower = f", the {classify.limit} is the limit" if classify.provider == CUDA_PROVIDER and classify.limit else ""
        click.echo(
            f"{done} texts{where}{last} in {seconds:.1f} s ({rate:.0f}/s), {classify.variant}{limit}{slower}", err=True
        )
    elif cut:
        click.echo(f"{cut} of {done} texts cut at {classify.max_length} tokens", err=True)


def _check_usage(
    texts: Sequence[str],
    source: str | None,
    column: str | None,
    pair_column: str | None,
    extra: Sequence[str],
) -> None:
    if texts and source is not None:
        raise click.UsageError("give texts or --input, not both")
    if not texts and source is None:
        raise click.UsageError("nothing to classify: give a text, or --input FILE (- for standard input)")
    if source is None and (column or pair_column or extra):
        raise click.UsageError("--column, --pair-column and --columns speak of a file: give --input")
    try:
        if source is not None:
            check_columns(source, column, pair_column, extra)
        ResultWriter(None, columns=extra)  # refuses names that the output itself uses
    except InputError as error:
        raise click.UsageError(str(error)) from None


def _check_output(source: str | None, output: str | None) -> None:
    if output is None or not is_replaceable(output):
        return
    if output.lower().endswith(".gz"):
        raise click.UsageError(f"--output: {output!r} would not be compressed; leave out .gz, or pipe into gzip")
    with contextlib.suppress(OSError, ValueError):  # what is wrong with either is said where it is opened
        if source not in (None, "-") and os.path.samefile(source, output):
            raise click.UsageError(f"--output: {output!r} is the input, which would be lost; give another file")


def _check_resume(source: str | None, output: str | None) -> None:
    if source is None or source == "-" or not _may_be_regular(source):
        raise click.UsageError("--resume reads what is done once more: give --input a file that can be")
    if output is None or not is_replaceable(output):
        raise click.UsageError("--resume goes on with a file: give --output one")


def _may_be_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):  # what is wrong with it is said where it is opened
        return True


def _say_start(file: ResumableFile, output: str | None, *, resume: bool) -> None:
    if file.records:
        click.echo(f"{output}: going on after {file.records} texts", err=True)
    elif resume:
        click.echo(f"{output}: nothing to resume, starting from the beginning", err=True)
    elif file.discarded:
        click.echo(f"{output}: starting anew; {file.discarded} texts done earlier are thrown away", err=True)


def windows(
    reader: RecordReader | None, texts: Sequence[str], classify: Pipeline, batch_size: int | None
) -> Iterator[list[Record]]:
    """Return the lists of records that are answered together, each read when it is asked for."""
    # A model padded on the left answers by its batches, so no window may end within one.
    multiple = batch_size or 1 if classify.tokenizer_spec.padding_side == "left" else 1
    # No word to the reader of a pipe should wait for the next one to be written.
    most = _PIPE_WINDOW if reader is not None and reader.total_bytes is None else _WINDOW
    count = max(most // multiple, 1) * multiple
    if reader is not None:
        return iter(lambda: reader.take(count, multiple=multiple), [])
    given = (Record(text, None, {}, i) for i, text in enumerate(texts, 1))
    return iter(lambda: list(itertools.islice(given, count)), [])


def _classify(
    classify: Pipeline, rows: Sequence[Record], reader: RecordReader | None, *, truncate: bool, **arguments: Any
) -> tuple[list[Any], int]:
    """Return the answers to `rows`, and how many of their texts were cut."""
    cut = 0

    def count(_position: int) -> None:
        nonlocal cut
        cut += 1

    if truncate:
        arguments |= {"truncation": True, "on_truncation": count}
    inputs = [r.text if r.text_pair is None else {"text": r.text, "text_pair": r.text_pair} for r in rows]
    try:
        return classify(inputs, **arguments), cut
    except InputError as error:
        if reader is None or error.index is None:
            raise
        # It counts the texts of this window and speaks of Python; a person has the lines of the file, and options.
        message = str(error).replace(f"text {error.index}", "this text", 1)
        message = message.replace("pass truncation=True", "leave out --no-truncation")
        raise type(error)(f"{reader.name}: line {rows[error.index].line}: {message}", error.index) from error


def _format_of(output: str | None) -> str:
    extension = Path(output or "").suffix.lower().lstrip(".")
    return extension if extension in FORMATS else "jsonl"
