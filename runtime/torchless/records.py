r"""Reads the input of `torchless run`, a record at a time, in constant memory.

| name        | a record is                                                  | skipped     |
|-------------|--------------------------------------------------------------|-------------|
| `.txt`, `-` | a line: the text (`-` is standard input); a blank one too    | nothing     |
| `.jsonl`    | a line: an object whose fields are the columns, or a string  | blank lines |
| `.csv`      | a row after RFC 4180: quoted cells may hold commas, newlines | blank lines |
| `.tsv`      | a line: cells between tabs; quotes are plain characters      | blank lines |

The extension decides, in any case of letters; each may be followed by `.gz`. Everything is UTF-8, with or without a
byte order mark. Lines end at `\n` or `\r\n` and nowhere else; a NUL byte is refused, being a sign of UTF-16.

The text is in the column asked for by name or by number from 1, else in `text`, else `sentence`, else `inputs`.
In `.csv` and `.tsv` the first line is a header where any column is asked for by something that is not a number, or
where one of its cells is `text`, `sentence` or `inputs`; else it is the first record, and the text is in column 1.
The first line also says how many cells a row may have: more would mean that a text was torn apart.
In `.jsonl` a column is always the name of a field, and the first object decides which default name counts.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import reprlib
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from torchless.errors import InputError
from torchless.lines import Lines

__all__ = [
    "DEFAULT_COLUMNS",
    "MAX_CELL",
    "MAX_TAKEN",
    "Record",
    "RecordReader",
    "check_columns",
    "format_of",
    "open_records",
]

DEFAULT_COLUMNS = ("text", "sentence", "inputs")  # where the text is looked for, best first
MAX_TAKEN = (
    2**20
)  # bytes of the lines of records taken together, but for the last; tokenized, a text takes 70 times as much
MAX_CELL = 16 * 2**20  # characters of a .csv cell: a quote that is never closed swallows no more

_STDIN_NAME = "standard input"


@dataclass(frozen=True, slots=True)
class Record:
    """One input of the pipeline, with what is to be written beside its result.

    Attributes:
        text: the text.
        text_pair: the second text, where a pair column was asked for.
        columns: the extra columns asked for, in that order, each under the name or number it was asked for by.
        line: the line of the file where the record starts, counted from 1.
    """

    text: str
    text_pair: str | None
    columns: dict[str, Any]
    line: int


class RecordReader:
    """The records of one input, read once and in order; a context manager. Made by `open_records`.

    Attributes:
        name: the path, or "standard input".
        total_bytes: the size of the file, compressed if it is; None where it is not a regular file.
    """

    def __init__(self, source: BinaryIO, lines: Lines, records: Iterator[Record], total_bytes: int | None) -> None:
        """Read `records` out of `lines`, which come from `source`."""
        self.name = lines.name
        self.total_bytes = total_bytes
        self._source = source
        self._lines = lines
        self._records = records

    @property
    def bytes_read(self) -> int:
        """The position in the open file, compressed if it is; without `total_bytes`, the bytes of the lines so far."""
        return self._lines.bytes_read if self.total_bytes is None else self._source.tell()

    def __iter__(self) -> Iterator[Record]:
        """Return the records not read yet: a second loop goes on where the first stopped.

        Raises:
            InputError: while iterating, where a record is broken (the message gives the line, `index` the record's
                position from 0), the file cannot be read further, or there is no record at all.
        """
        return self._records

    def take(self, count: int, *, multiple: int = 1) -> list[Record]:
        """Return the next records, at most `count`; none at the end.

        Fewer where their lines together pass `MAX_TAKEN` bytes, but a multiple of `multiple` even then. What is taken
        where depends only on the records and on the counts asked for, not on what was read before.

        Raises:
            InputError: as iterating.
        """
        first = self._lines.bytes_read
        taken: list[Record] = []
        for record in itertools.islice(self._records, count):
            taken.append(record)
            if self._lines.bytes_read - first >= MAX_TAKEN and len(taken) % multiple == 0:
                break
        return taken

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.name != _STDIN_NAME:
            self._source.close()

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the file."""
        self.close()


def open_records(
    path: str,
    *,
    column: str | None = None,
    pair_column: str | None = None,
    columns: Sequence[str] = (),
    gaps: bool = False,
    stdin: BinaryIO | None = None,
) -> RecordReader:
    """Open an input; whatever the first record of a regular file shows to be wrong is raised here.

    Args:
        path: a file of a known extension, or `-` for standard input.
        column: where the text is, a name or a number from 1; None looks for the default names (see the module).
        pair_column: where the second text is, if there is one.
        columns: the extra columns, names or numbers.
        gaps: a record without one of them is read, and has less of them; else it is an error.
        stdin: read for `-` instead of `sys.stdin.buffer`.

    Raises:
        InputError: the extension or a column is unknown, the file cannot be read, or its first record is broken.
    """
    name = _STDIN_NAME if path == "-" else path
    format_name = format_of(path)
    check_columns(path, column, pair_column, columns)
    selection = _Selection(column, pair_column, tuple(columns), gaps)
    source = _open(path, stdin)
    lines = Lines(name, gzip.GzipFile(fileobj=source) if path.lower().endswith(".gz") else source)
    records = _counted(lines, _READERS[format_name](lines, selection))
    status = None if path == "-" else os.fstat(source.fileno())
    if status is None or not stat.S_ISREG(status.st_mode):  # reading ahead would wait for whoever writes into a pipe
        return RecordReader(source, lines, records, None)
    try:
        first = next(records)
    except BaseException:
        source.close()
        raise
    return RecordReader(source, lines, itertools.chain((first,), records), status.st_size)


def format_of(path: str) -> str:
    """Return the format of the input of this name: txt, jsonl, csv or tsv.

    Raises:
        InputError: the extension is none of these.
    """
    extension = ".txt" if path == "-" else os.path.splitext(path.lower().removesuffix(".gz"))[1]
    if extension[1:] not in _READERS:
        wanted = "wanted .txt, .jsonl, .csv or .tsv, each also with .gz, or `-` for standard input"
        raise InputError(f"{path}: extension {extension!r}; {wanted}")
    return extension[1:]


def check_columns(path: str, column: str | None, pair_column: str | None, columns: Sequence[str]) -> None:
    """Check that an input of this name can have the columns asked for, without a look into it.

    Raises:
        InputError: it cannot; or the extension is unknown.
    """
    name, format_name = _STDIN_NAME if path == "-" else path, format_of(path)
    asked = _Selection(column, pair_column, tuple(columns), gaps=False).asked
    if format_name == "txt" and (column not in (None, "1") or pair_column is not None or columns):
        raise InputError(f"{name}: no column {', '.join(asked)}; a line is a text; wanted .csv or the like")
    if format_name != "jsonl" and any(_number(spec) == 0 for spec in asked):
        raise InputError(f"{name}: column 0 asked for; columns are counted from 1")


def _open(path: str, stdin: BinaryIO | None) -> BinaryIO:
    if path == "-":
        if stdin is None and sys.stdin is None:  # so it is where the process was started with it closed
            raise InputError(f"{_STDIN_NAME} is closed; give a file to read")
        return sys.stdin.buffer if stdin is None else stdin
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be opened ({reason}); wanted a readable file") from None


@dataclass(frozen=True, slots=True)
class _Selection:
    """The columns asked for."""

    column: str | None
    pair_column: str | None
    columns: tuple[str, ...]
    gaps: bool

    @property
    def asked(self) -> list[str]:
        return [spec for spec in (self.column, self.pair_column, *self.columns) if spec is not None]


def _counted(lines: Lines, records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        yield record
        lines.index += 1
    if not lines.index:
        raise InputError(f"{lines.name}: no record found; wanted at least one text")


def _read_txt(lines: Lines, _selection: _Selection) -> Iterator[Record]:
    for line in lines:
        yield Record(_without_break(line), None, {}, lines.number)


def _read_jsonl(lines: Lines, selection: _Selection) -> Iterator[Record]:
    column = selection.column
    for line in lines:
        if not line.strip(" \t\r\n"):
            continue
        value = _json(lines, line)
        if isinstance(value, str) and not selection.asked:
            yield Record(value, None, {}, lines.number)
            continue
        if not isinstance(value, dict):
            raise lines.error(f"found {_short(value)}; wanted an object with the fields asked for, or a string")
        if column is None:
            column = next((name for name in DEFAULT_COLUMNS if name in value), None)
            if column is None:
                raise lines.error(_no_default(value))
        pair = None if selection.pair_column is None else _string(lines, value, selection.pair_column)
        there = [name for name in selection.columns if name in value or not selection.gaps]
        columns = {name: _field(lines, value, name) for name in there}
        yield Record(_string(lines, value, column), pair, columns, lines.number)


def _json(lines: Lines, line: str) -> object:
    try:
        return json.loads(line)
    except RecursionError:
        raise lines.error("JSON nested too deeply; wanted flat fields, of which one is the text") from None
    except ValueError as error:  # also a number of more digits than Python converts, which is no JSONDecodeError
        found = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise lines.error(f"not JSON ({found}); wanted one whole object, or string, a line") from None


def _field(lines: Lines, fields: dict[str, object], name: str) -> object:
    if name not in fields:
        raise lines.error(f"no field {_short(name)}; found {_listed(fields)}")
    return fields[name]


def _string(lines: Lines, fields: dict[str, object], name: str) -> str:
    value = _field(lines, fields, name)
    if not isinstance(value, str):
        raise lines.error(f"field {_short(name)} is {_short(value)}; wanted a string")
    return value


def _read_csv(lines: Lines, selection: _Selection) -> Iterator[Record]:
    return _read_table(lines, selection, _csv_rows(lines))


def _read_tsv(lines: Lines, selection: _Selection) -> Iterator[Record]:
    rows = ((lines.number, _without_break(line).split("\t")) for line in lines)
    return _read_table(lines, selection, ((number, cells) for number, cells in rows if cells != [""]))


def _csv_rows(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    start = size = 0

    def row_lines() -> Iterator[str]:
        nonlocal size
        for line in lines:
            size += len(line)
            if size > lines.limit:
                raise lines.error(f"a row of over {lines.limit} characters; is a quote not closed?", start)
            yield line

    csv.field_size_limit(MAX_CELL)  # of the whole process: the module has no other
    rows = csv.reader(row_lines(), strict=True)
    while True:
        start, size = lines.number + 1, 0
        try:
            cells = next(rows, None)
        except csv.Error as error:
            wanted = 'cells with commas, quotes or newlines in "", quotes within them doubled'
            raise lines.error(f"broken csv ({error}); wanted {wanted}", start) from None
        if cells is None:
            return
        if cells:
            yield start, cells


def _read_table(lines: Lines, selection: _Selection, rows: Iterator[tuple[int, list[str]]]) -> Iterator[Record]:
    """Yield the records of `rows`, each of which is the number of its first line and its cells."""
    first = next(rows, None)
    if first is None:
        return
    line, names = first
    width = len(names)
    default = next((name for name in DEFAULT_COLUMNS if name in names), None)
    has_header = default is not None or any(_number(spec) is None for spec in selection.asked)
    if selection.column is None and default is None and has_header:
        raise lines.error(_no_default(names), line)
    text = _position(lines, line, names, (default or "1") if selection.column is None else selection.column)
    pair = None if selection.pair_column is None else _position(lines, line, names, selection.pair_column)
    extra = {spec: _position(lines, line, names, spec) for spec in selection.columns}
    needed = 1 + max(text, pair or 0, *(() if selection.gaps else extra.values()))
    for line, cells in rows if has_header else itertools.chain((first,), rows):
        if len(cells) < needed:
            raise lines.error(f"cells found: {len(cells)}; wanted {needed} to reach the columns asked for", line)
        if len(cells) > width and any(cells[width:]):
            raise lines.error(f"cells found: {len(cells)}; wanted {width} as in the first line; check the quotes", line)
        columns = {spec: cells[index] for spec, index in extra.items() if index < len(cells)}
        yield Record(cells[text], None if pair is None else cells[pair], columns, line)


def _position(lines: Lines, line: int, names: list[str], spec: str) -> int:
    number = _number(spec)
    if number is not None:
        return number - 1
    if spec not in names:
        raise lines.error(f"no column {_short(spec)}; found {_listed(names)}", line)
    if names.count(spec) > 1:
        raise lines.error(f"column {_short(spec)} found {names.count(spec)} times; ask for it by its number", line)
    return names.index(spec)


def _number(spec: str) -> int | None:
    """Return the number that `spec` is, or None where it is a name."""
    return int(spec) if spec.isascii() and spec.isdigit() and len(spec) < 10 else None


def _without_break(line: str) -> str:
    return line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")


def _no_default(names: Iterable[str]) -> str:
    return f"no column {', '.join(DEFAULT_COLUMNS)}; found {_listed(names)}; say which has the text with --column"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_short(name) for name in itertools.islice(names, 20)) or "none"


def _short(value: object) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    return short.repr(value)


_READERS: dict[str, Callable[[Lines, _Selection], Iterator[Record]]] = {
    "txt": _read_txt,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_tsv,
}
