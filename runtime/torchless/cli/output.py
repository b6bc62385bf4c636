r"""Writes the results of `torchless run`: to a stream, or to a file that appears whole or not at all.

`resume.py` is the file of a run that can be gone on with; the others are removed where the run fails.

| format  | a result is                                                                           |
|---------|---------------------------------------------------------------------------------------|
| `jsonl` | `{"text": ..., ["text_pair": ...,] [columns,] "label": ..., "score": ...}`            |
|         | top-k: `"scores": [{"label": ..., "score": ...}, ...]` in place of the last two       |
| `csv`   | a row after RFC 4180 under a header with the same names; rows end at `\n`             |
|         | top-k: `label_1`, `score_1`, `label_2`, ... in place of the last two                  |
| `tsv`   | the same between tabs, without quotes: a tab, `\n` or `\r` in a cell becomes a space  |

A score is written with the digits that read back as the same float. In `csv` and `tsv` a column that is not a string
is its JSON, and a NUL, which other programs choke on, becomes a space. Output is UTF-8; a lone surrogate, which UTF-8
cannot hold, is written as its escape `\udxxx`, from which JSON gets it back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring
from types import TracebackType
from typing import Any, BinaryIO, Self

from torchless.cli.atomic import reported, whole_file
from torchless.cli.resume import ResumableFile
from torchless.errors import InputError
from torchless.records import Record

__all__ = ["FORMATS", "ResultWriter", "is_replaceable", "whole_file"]

FORMATS = ("jsonl", "csv", "tsv")

_RESERVED = {"text", "text_pair", "label", "score", "scores"}
_STDOUT_NAME = "standard output"
_json = json.JSONEncoder(ensure_ascii=False).encode
_CSV_QUOTED = re.compile(r'[",\r\n]')
_CSV_SPACES = str.maketrans("\0", " ")
_TSV_SPACES = str.maketrans("\0\t\r\n", "    ")


Result = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class ResultWriter:
    """Writes one result a line; a context manager, open inside its `with` statement.

    A file appears under its name when the statement is left normally; when an exception leaves it, there is no new
    file and what was there stays. Standard output, and what is no regular file, gets each line as it is written.
    """

    def __init__(
        self,
        target: str | None,
        format_name: str = "jsonl",
        *,
        columns: Sequence[str] = (),
        pair: bool = False,
        top_k: int | None = None,
        stdout: BinaryIO | None = None,
        file: ResumableFile | None = None,
    ) -> None:
        """Say what is to be written; nothing is opened yet.

        Args:
            target: the file to write; None for standard output.
            format_name: one of `FORMATS`.
            columns: the extra columns, as they were asked of `open_records`.
            pair: whether the records have a second text.
            top_k: the most labels that a result, then a list, can have; None where a result is one label.
            stdout: written instead of `sys.stdout.buffer`.
            file: `target` opened already, and closed by whoever opened it; where it holds results, these go after them.

        Raises:
            InputError: the format is unknown, or a column's name is taken by the output itself or given twice.
        """
        if format_name not in FORMATS:
            raise InputError(f"format {format_name!r}; wanted one of {', '.join(FORMATS)}")
        scored = [f"{name}_{rank}" for rank in range(1, 1 + (top_k or 0)) for name in ("label", "score")]
        taken = _RESERVED.union(scored)
        for name in columns:
            if name in taken:
                why = "the output has a column of that name; rename it in the input, or ask for it by its number"
                raise InputError(f"column {name!r} cannot be added: {why}")
            taken.add(name)
        self._target = target
        self._columns = tuple(columns)
        self._keys = tuple((name, f", {encode_basestring(name)}: ") for name in columns)
        self._pair = pair
        self._top_k = top_k
        self._header = ["text", *["text_pair"] * pair, *columns, *(scored or ["label", "score"])]
        self._row = {"csv": _csv_row, "tsv": _tsv_row}.get(format_name)
        self._stdout = stdout
        self._file = file
        self._stream: BinaryIO | ResumableFile | None = None
        self._by_line = False
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Open the output and write the header, where the format has one.

        Raises:
            InputError: the output cannot be written.
        """
        with contextlib.ExitStack() as stack:
            self._by_line = self._file is None and not is_replaceable(self._target)
            if self._file is not None:
                self._stream = self._file
            elif self._target is None or _is_stdout(self._target):
                self._stream = _unbuffered_stdout(self._stdout)
            elif self._by_line:
                self._stream = stack.enter_context(_special_file(self._target))
            else:
                self._stream = stack.enter_context(whole_file(self._target))
            if self._row is not None and not (self._file and self._file.records):
                self._write(self._row(self._header))
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the file, or remove what was written of it if there is an exception.

        Raises:
            InputError: the file cannot be finished; what was there before is unchanged.
        """
        self._stream = None
        self._exit.__exit__(kind, error, traceback)

    def write(self, record: Record, result: Result) -> None:
        """Write one result.

        Args:
            record: what it is the result of.
            result: a `{"label": str, "score": float}`, or with `top_k` a list of at most so many, best first.

        Raises:
            InputError: the output cannot be written, or an extra column is nested too deeply for JSON.
            BrokenPipeError: whoever reads the output has stopped.
        """
        self.write_all((record,), (result,))

    def write_all(self, records: Iterable[Record], results: Iterable[Result]) -> None:
        """Write a result for each record, to a file in one piece.

        Raises:
            InputError, BrokenPipeError: as `write`.
        """
        lines = (self._line(record, result) for record, result in zip(records, results, strict=True))
        if self._by_line:  # so that programs that share a pipe never break into each other's lines
            for line in lines:
                self._write(line)
        elif text := "".join(lines):
            self._write(text)

    def _line(self, record: Record, result: Result) -> str:
        scores = [result] if isinstance(result, Mapping) else result
        if len(scores) > (self._top_k or 1):
            raise ValueError(f"a result of {len(scores)} labels; wanted at most {self._top_k or 1}")
        try:
            return self._object(record, scores) if self._row is None else self._row(self._cells(record, scores))
        except RecursionError:
            raise InputError(f"line {record.line}: a column is nested too deeply; leave it out of --columns") from None

    def _object(self, record: Record, scores: Sequence[Mapping[str, Any]]) -> str:
        # Put together by hand: the encoder sets itself up for each object, which takes longer than writing one.
        line = '{"text": ' + encode_basestring(record.text)
        if self._pair:
            line += ', "text_pair": ' + _json(record.text_pair)
        for name, key in self._keys:
            line += key + _json(record.columns[name])
        if self._top_k is None:
            return f"{line}, {_score(scores[0])}}}\n"
        return f'{line}, "scores": [{", ".join("{" + _score(score) + "}" for score in scores)}]}}\n'

    def _cells(self, record: Record, scores: Sequence[Mapping[str, Any]]) -> list[str]:
        columns = (record.columns[name] for name in self._columns)
        cells = [record.text, *[record.text_pair or ""] * self._pair]
        cells += (value if isinstance(value, str) else _json(value) for value in columns)
        for score in scores:
            cells += (score["label"], repr(float(score["score"])))
        return cells + [""] * (len(self._header) - len(cells))

    def _write(self, text: str) -> None:
        if self._stream is None:
            raise ValueError("the output is not open; write inside its `with` statement")
        # A lone surrogate can stand in strings alone, and there its backslash escape is JSON's own.
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        with reported(self._target or _STDOUT_NAME):
            while left:  # an unbuffered stream may take a part
                left = left[self._stream.write(left) :]


def is_replaceable(target: str | None) -> bool:
    """Tell whether the output `target` is written as a new file, not into a stream that is there already."""
    return target is not None and not _is_stdout(target) and not _is_special(target)


def _score(score: Mapping[str, Any]) -> str:
    return f'"label": {encode_basestring(score["label"])}, "score": {float(score["score"])!r}'


def _unbuffered_stdout(stdout: BinaryIO | None) -> BinaryIO:
    """Return standard output without its buffer: a line is out once it is written, none is left to fail later."""
    if stdout is None and sys.stdout is None:  # so it is where the process was started with it closed
        raise InputError(f"{_STDOUT_NAME} is closed; give --output")
    buffered = sys.stdout.buffer if stdout is None else stdout
    with reported(_STDOUT_NAME):
        buffered.flush()
    raw: BinaryIO = getattr(buffered, "raw", buffered)
    return raw


def _is_stdout(target: str) -> bool:
    """Tell whether `target` is what standard output is already, as /dev/stdout is."""
    try:
        return os.path.samestat(os.stat(target), os.fstat(1))
    except (OSError, ValueError):
        return False


def _is_special(target: str) -> bool:
    """Tell whether `target` is a device, a pipe or the like, which cannot be replaced by a file."""
    try:
        mode = os.stat(target).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def _special_file(target: str) -> Iterator[BinaryIO]:
    with reported(target):
        stream = open(target, "wb", buffering=0)  # noqa: SIM115 - closed below
    with stream:
        yield stream


def _csv_row(cells: Iterable[str]) -> str:
    # The csv module quotes a lone \r only in newer Pythons, and readers take it for the end of a row.
    quoted = ('"' + cell.replace('"', '""') + '"' if _CSV_QUOTED.search(cell) else cell for cell in cells)
    return ",".join(quoted).translate(_CSV_SPACES) + "\n"


def _tsv_row(cells: Iterable[str]) -> str:
    return "\t".join(cell.translate(_TSV_SPACES) for cell in cells) + "\n"
