"""`torchless export`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from torchless.cli import options
from torchless.errors import CheckpointError, InputError, ParityError
from torchless.pipelines.tasks import TASKS

_STEPS = {
    "read": "reading the checkpoint",
    "load": "loading the reference",
    "convert": "writing the graph",
    "quantize": "quantizing to int8",
    "tune": "timing the forms of the graph",
    "compare": "comparing with the original",
    "write": "writing the bundle",
}

_SHAPE = re.compile(r"[1-9]\d{0,3}x[1-9]\d{0,4}")


@click.command()
@click.argument("checkpoint")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(["fp32", "int8", "fp16"]),
    help="Repeat for several; fp16 is for CUDA.  [default: fp32 and int8]",
)
@click.option(
    "--task",
    type=click.Choice([n for t in TASKS for n in (t.name, *t.aliases)]),
    help="[default: what the config says]",
)
@click.option(
    "--converter",
    type=click.Choice(["auto", "graph", "optimum"]),
    default="auto",
    show_default=True,
    help="graph writes it from the weights, optimum has PyTorch trace the model; auto prefers the first.",
)
@click.option(
    "--calibration",
    metavar="FILE",
    help="Texts that choose and, others of them, judge: .txt, .jsonl, .csv, .tsv; labels in a column `label` or the "
    "second give the accuracy.  [default: a set that comes along]",
)
@click.option(
    "--min-agreement", type=click.FloatRange(0, 1), default=0.99, show_default=True,
    help="The share of answers that int8 must keep; 0 asks for none.",
)  # fmt: skip
@click.option("--tune", is_flag=True, help="Time the forms a graph can have on this machine, and keep the fastest.")
@click.option(
    "--batch-invariant",
    is_flag=True,
    help="Make int8 whose answer to a text does not change with the texts beside it.",
)
@click.option(
    "--shapes",
    metavar="BxT,...",
    help="Where to time forms and int8 recipes: batch times tokens.  [default: 1x16,32x32]",
)
@click.option("--force", is_flag=True, help="Replace an existing bundle; it stays whole if the export fails.")
@click.option("--revision", metavar="R", help="Branch, tag or commit, for a hub id.")
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write report.json, report.txt and charts (.svg) there, with what each product does in int8.",
)
@options.debug
def command(
    checkpoint: str,
    bundle: Path,
    variants: tuple[str, ...],
    task: str | None,
    converter: str,
    calibration: str | None,
    min_agreement: float,
    tune: bool,
    batch_invariant: bool,
    shapes: str | None,
    force: bool,
    revision: str | None,
    report: Path | None,
) -> None:
    """Export CHECKPOINT, a directory or a hub id, into the directory BUNDLE.

    Every variant is compared with the original on real texts: token ids, logits, labels. One that does
    not keep its tolerance fails the export, and nothing is written.

    \b
    Examples:
      torchless export distilbert-base-uncased-finetuned-sst-2-english sst2
      torchless export ./checkpoint ./bundle --variant int8 --calibration texts.tsv
      torchless export ./checkpoint ./bundle --min-agreement 0.97 --report ./report --force
      torchless export ./checkpoint ./bundle --tune --shapes 1x16,8x128
    """
    if shapes is not None and not all(_SHAPE.fullmatch(shape.strip()) for shape in shapes.split(",")):
        raise click.UsageError(f"--shapes: {shapes!r} is not batch times tokens, such as 1x16,32x32")
    export = _exporter()
    if report is not None:
        _check_report(report)
    with _Progress() as progress:
        try:
            result = export(
                checkpoint,
                bundle,
                variants=variants or ("fp32", "int8"),
                task=task,
                converter=converter,
                calibration=calibration,
                min_agreement=min_agreement,
                tune=(shapes or True) if tune else None,
                shapes=shapes,
                batch_invariant=batch_invariant,
                sensitivity=report is not None,
                force=force,
                revision=revision,
                progress=progress.update,
            )
        except ParityError as error:
            result = error.report
            progress.close()
            click.echo(str(result), err=True)
            if report is not None:
                _write_report(report, result)
            raise
    click.echo(str(result))
    if report is not None:
        _write_report(report, result)
    click.echo(f'wrote {bundle} in {sum(result.seconds.values()):.1f} s; try: torchless run {bundle} "..."', err=True)


def _exporter() -> Any:
    missing = [name for name in ("onnx", "safetensors") if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("torchless_export") is None or missing:
        lacks = f" ({', '.join(missing)} not installed)" if missing else ""
        raise CheckpointError(f"exporting needs more than running{lacks}: pip install 'torchless[cpu,export]'")
    return importlib.import_module("torchless_export").export


def _check_report(folder: Path) -> None:
    """See that the report's directory can be written to, or made, before minutes of work are done for it.

    It is not made yet: it may lie in the bundle's, which must not be there.
    """
    above = (folder.absolute(), *folder.absolute().parents)
    there = next((path for path in above if os.path.lexists(path)), folder)  # none: of a drive that is not there
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _report_refused(folder, error) from error


def _report_refused(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder}: the report cannot be written: {error.strerror}")


def _write_report(folder: Path, result: Any) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(result.to_json(), encoding="utf-8")
        (folder / "report.txt").write_text(f"{result.details()}\n", encoding="utf-8")
        for name, chart in result.charts().items():
            (folder / name).write_text(chart, encoding="utf-8")
    except OSError as error:
        raise _report_refused(folder, error) from error


class _Progress:
    """One line a step on standard error, with a bar for the steps that can tell how far they are."""

    def __init__(self) -> None:
        self._step = ""
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self.close()
            self._step = step
            click.echo(f"{_STEPS.get(step, step)} ...", err=True)
        if total and sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, leave=False, unit="", file=sys.stderr)
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
