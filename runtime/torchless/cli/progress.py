"""How far a run is, on standard error: a bar where that is a terminal, else a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Self

import click
from tqdm import tqdm

from torchless.errors import one_line
from torchless.records import RecordReader

__all__ = ["Progress", "describe"]

_EVERY = 30.0  # seconds between two lines, and before the first


class Progress:
    """The texts done, their rate and the time that is left, as far as the input's bytes tell it; a context manager."""

    def __init__(
        self, reader: RecordReader, *, bar: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Say what is read.

        Args:
            reader: the input.
            bar: draw a bar, else give lines; None: where standard error is a terminal.
            clock: gives the time in seconds.
        """
        self._reader = reader
        self._clock = clock
        self._name = one_line(os.path.basename(reader.name), 40)
        self._bar: tqdm[None] | None = None
        if bar is None:
            bar = sys.stderr is not None and sys.stderr.isatty()
        if bar:
            self._bar = tqdm(
                total=reader.total_bytes, desc=self._name, leave=False, file=sys.stderr, miniters=1,
                bar_format="{l_bar}{bar}|" if reader.total_bytes else "{desc}",
            )  # fmt: skip
        self._said = clock()
        self.start(0)

    def start(self, done: int) -> None:
        """Measure from here, where `done` texts are done already."""
        self._start = self._clock()
        self._first = done, self._reader.bytes_read

    def again(self) -> None:
        """Show that what an earlier run did is read once more."""
        self._show("reading again what is done")

    def update(self, done: int) -> None:
        """Show that `done` texts are done now."""
        texts, read = self._first
        seconds = max(self._clock() - self._start, 1e-9)
        left = None
        if self._reader.total_bytes is not None and (fresh := self._reader.bytes_read - read) > 0:
            left = (self._reader.total_bytes - self._reader.bytes_read) / fresh * seconds
        self._show(describe(done, (done - texts) / seconds, left))

    def _show(self, said: str) -> None:
        total, read = self._reader.total_bytes, self._reader.bytes_read
        if self._bar is not None:
            self._bar.bar_format = f"{{l_bar}}{{bar}}| {said}" if total else f"{{desc}}: {said}"
            self._bar.update(read - self._bar.n)
        elif (now := self._clock()) - self._said >= _EVERY:
            self._said = now
            share = f"{100 * read // total} %, " if total else ""
            click.echo(f"{self._name}: {share}{said}", err=True)

    def __enter__(self) -> Self:
        """Return the progress itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def describe(done: int, rate: float, left: float | None) -> str:
    """Return "40960 texts, 28281/s, 00:34 left": texts, texts a second, and the seconds left, where they are known."""
    # Two digits at least: of a slow model "0/s" would be no rate.
    shown = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
    remaining = "" if left is None else f", {tqdm.format_interval(left)} left"
    return f"{done} texts, {shown}/s{remaining}"
