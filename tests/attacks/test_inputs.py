"""Input files of `torchless run` that were made to harm it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from attempts import attempt, check_refused


def bomb() -> bytes:
    """256 MiB of one line in a few hundred KiB."""
    return gzip.compress(b"a" * (256 << 20), compresslevel=9)


INPUTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nothing": ("x.txt", lambda: b""),
    "a line without end": ("x.txt", lambda: b"a" * ((64 << 20) + 1)),
    "a gzip bomb": ("x.txt.gz", bomb),
    "a gzip bomb of jsonl": ("x.jsonl.gz", bomb),
    "cut gzip": ("x.txt.gz", lambda: gzip.compress(b"a\n" * 1000)[:-9]),
    "no gzip": ("x.txt.gz", lambda: b"a\n"),
    "gzip without its name": ("x.txt", lambda: gzip.compress(b"a\n")),
    "UTF-16": ("x.txt", lambda: "ä\n".encode("utf-16")),
    "latin-1": ("x.csv", lambda: b"text\n\xe4\n"),
    "NUL bytes": ("x.tsv", lambda: b"a\0b\n"),
    "nested JSON": ("x.jsonl", lambda: b"[" * 1_000_000 + b"\n"),
    "nested objects": ("x.jsonl", lambda: b'{"text":' * 100_000 + b"\n"),
    "a number of a million digits": ("x.jsonl", lambda: b'{"text": "a", "n": ' + b"9" * 1_000_000 + b"}\n"),
    "a quote that never ends": ("x.csv", lambda: b'text\n"' + b"a,\n" * (8 << 20)),
    "a million columns": ("x.csv", lambda: b"text\n" + b"a," * 1_000_000 + b"\n"),
    "text that is a list": ("x.jsonl", lambda: b'{"text": ["a"]}\n'),
    "no text": ("x.jsonl", lambda: b'{"a": 1}\n'),
}


@pytest.mark.parametrize("what", INPUTS)
def test_refused(tmp_path: Path, what: str) -> None:
    name, make = INPUTS[what]
    (tmp_path / name).write_bytes(make())
    check_refused(attempt("records", str(tmp_path / name), watch=[tmp_path]), "InputError", rf"{name}: ")


def test_a_million_empty_texts_are_read_in_constant_memory(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\n" * 1_000_000)
    outcome = attempt("records", str(tmp_path / "x.txt"), watch=[tmp_path])
    assert (outcome.error, outcome.answer) == (None, "1000000")
    assert outcome.resident < 100 << 20
