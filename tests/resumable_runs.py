"""What `torchless run` does, with other answers: stopped after some windows, and gone on with."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from torchless.cli.output import ResultWriter
from torchless.cli.resume import ResumableFile
from torchless.errors import InputError
from torchless.records import Record, open_records

SETTINGS = {"variant": "int8", "--top-k": None}
WINDOW = 3
RECORDS = 11
FOUND_BESIDE = [".out.jsonl.journal", ".out.jsonl.partial"]


def write_source(path: Path, texts: list[str] | None = None) -> Path:
    """Write texts, or `RECORDS` of them, with ids."""
    texts = [f"text {i}, é\ud800" for i in range(RECORDS)] if texts is None else texts
    data = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def answers(rows: list[Record]) -> list[dict[str, Any]]:
    """Scores that depend on the whole window, as those of int8 do: a shifted window would show."""
    company = hashlib.sha256("".join(row.text for row in rows).encode("utf-8", "surrogatepass")).digest()
    return [{"label": "x", "score": int.from_bytes(company[:6], "big") / 2**48 + i} for i in range(len(rows))]


class StopError(Exception):
    """Something that is wrong after some windows."""


def go(
    source: Path,
    target: Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    error: BaseException | None = None,
    given: dict[str, str | None] | None = None,
    format_name: str = "jsonl",
    torn: bytes = b"",
) -> ResumableFile:
    """What `torchless run` does, with other answers; raises `error` after the window numbered `stop_after`."""
    with (
        open_records(str(source), columns=["id"]) as reader,
        ResumableFile(str(target), SETTINGS if given is None else given, resume=resume) as file,
        ResultWriter(str(target), format_name, columns=["id"], file=file) as writer,
    ):
        file.skip(reader)
        count = 0
        while rows := reader.take(WINDOW):
            if count == stop_after:
                file.write(torn)
                raise error or StopError()
            file.save()
            writer.write_all(rows, answers(rows))
            file.mark(rows, cut=1)
            count += 1
    return file


def stopped(source: Path, target: Path, windows: int, **options: Any) -> BaseException:
    """Run `windows` windows and stop."""
    with pytest.raises((StopError, KeyboardInterrupt, SystemExit)) as caught:
        go(source, target, stop_after=windows, **options)
    return caught.value


def wanted(source: Path, folder: Path, format_name: str = "jsonl") -> bytes:
    """Return what an uninterrupted run writes."""
    target = folder / "uninterrupted"
    go(source, target, format_name=format_name)
    data = target.read_bytes()
    target.unlink()
    return data


def refused(*arguments: Any, **options: Any) -> str:
    """Run, which must fail with one line; it is returned."""
    with pytest.raises(InputError) as caught:
        go(*arguments, **options)
    assert "\n" not in caught.value.args[0]
    return str(caught.value)
