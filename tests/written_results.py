"""Records and results for the tests of what `torchless run` writes, and their ways to write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from torchless.cli.output import ResultWriter
from torchless.errors import InputError
from torchless.records import Record

NICE = {"label": "POSITIVE", "score": 0.99}
POOR = {"label": "NEGATIVE", "score": 0.01}
LINE = '{"text": "a", "label": "POSITIVE", "score": 0.99}\n'


def record(text: str, text_pair: str | None = None, **columns: Any) -> Record:
    """Return a record of line 1."""
    return Record(text, text_pair, columns, 1)


def written(records: list[Record], results: list[Any], format_name: str = "jsonl", **options: Any) -> str:
    """Return what is written to standard output."""
    stdout = io.BytesIO()
    with ResultWriter(None, format_name, stdout=stdout, **options) as writer:
        for item, result in zip(records, results, strict=True):
            writer.write(item, result)
    assert not stdout.closed
    return stdout.getvalue().decode()


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    """Return the message, once it is known to be one line."""
    message: str = error.value.args[0]
    assert "\n" not in message
    return message


def write_one(target: Path | str, **options: Any) -> None:
    """Write one result, which is `LINE` in the default format."""
    with ResultWriter(str(target), **options) as writer:
        writer.write(record("a"), NICE)


def write_many(target: Path, count: int, error: BaseException | None = None, **options: Any) -> None:
    """Write `count` results, then raise `error`."""
    with ResultWriter(str(target), **options) as writer:
        for _ in range(count):
            writer.write(record("a"), NICE)
        if error:
            raise error
