r"""Writes the results of `torchless run`: to a stream, or to a file that appears whole or not at all.

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
import errno
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from torchless.errors import InputError
from torchless.records import Record

__all__ = ["FORMATS", "ResultWriter", "whole_file"]

FORMATS = ("jsonl", "csv", "tsv")

_RESERVED = {"text", "text_pair", "label", "score", "scores"}
_STDOUT_NAME = "standard output"
_json = json.JSONEncoder(ensure_ascii=False).encode
_CSV_QUOTED = re.compile(r'[",\r\n]')
_CSV_SPACES = str.maketrans("\0", " ")
_TSV_SPACES = str.maketrans("\0\t\r\n", "    ")


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
    ) -> None:
        """Say what is to be written; nothing is opened yet.

        Args:
            target: the file to write; None for standard output.
            format_name: one of `FORMATS`.
            columns: the extra columns, as they were asked of `open_records`.
            pair: whether the records have a second text.
            top_k: the most labels that a result, then a list, can have; None where a result is one label.
            stdout: written instead of `sys.stdout.buffer`.

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
        self._pair = pair
        self._top_k = top_k
        self._header = ["text", *["text_pair"] * pair, *columns, *(scored or ["label", "score"])]
        self._row = {"csv": _csv_row, "tsv": _tsv_row}.get(format_name)
        self._stdout = stdout
        self._stream: BinaryIO | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Open the output and write the header, where the format has one.

        Raises:
            InputError: the output cannot be written.
        """
        with contextlib.ExitStack() as stack:
            if self._target is None or _is_stdout(self._target):
                self._stream = _unbuffered_stdout(self._stdout)
            elif _is_special(self._target):
                self._stream = stack.enter_context(_special_file(self._target))
            else:
                self._stream = stack.enter_context(whole_file(self._target))
            if self._row is not None:
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

    def write(self, record: Record, result: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Write one result.

        Args:
            record: what it is the result of.
            result: a `{"label": str, "score": float}`, or with `top_k` a list of at most so many, best first.

        Raises:
            InputError: the output cannot be written, or an extra column is nested too deeply for JSON.
            BrokenPipeError: whoever reads the output has stopped.
        """
        scores = [result] if isinstance(result, Mapping) else result
        if len(scores) > (self._top_k or 1):
            raise ValueError(f"a result of {len(scores)} labels; wanted at most {self._top_k or 1}")
        try:
            line = self._object(record, scores) if self._row is None else self._row(self._cells(record, scores))
        except RecursionError:
            raise InputError(f"line {record.line}: a column is nested too deeply; leave it out of --columns") from None
        self._write(line)

    def _object(self, record: Record, scores: Sequence[Mapping[str, Any]]) -> str:
        pair = {"text_pair": record.text_pair} if self._pair else {}
        columns = {name: record.columns[name] for name in self._columns}
        best = [{"label": score["label"], "score": float(score["score"])} for score in scores]
        fields = {"text": record.text} | pair | columns | (best[0] if self._top_k is None else {"scores": best})
        return _json(fields) + "\n"

    def _cells(self, record: Record, scores: Sequence[Mapping[str, Any]]) -> list[str]:
        columns = (record.columns[name] for name in self._columns)
        cells = [record.text, *[record.text_pair or ""] * self._pair]
        cells += (value if isinstance(value, str) else _json(value) for value in columns)
        for score in scores:
            cells += (score["label"], repr(float(score["score"])))
        return cells + [""] * (len(self._header) - len(cells))

    def _write(self, line: str) -> None:
        if self._stream is None:
            raise ValueError("the output is not open; write inside its `with` statement")
        # A lone surrogate can stand in strings alone, and there its backslash escape is JSON's own.
        left = memoryview(line.encode("utf-8", "backslashreplace"))
        with _reported(self._target or _STDOUT_NAME):
            while left:  # an unbuffered stream may take a part
                left = left[self._stream.write(left) :]


@contextlib.contextmanager
def whole_file(target: str) -> Iterator[BinaryIO]:
    """Open a file that appears at `target` whole or not at all; a context manager.

    It is written beside `target`, synced and renamed when the `with` statement is left normally, and removed when an
    exception leaves it; `target` is then as it was. A symbolic link stays, and the file it leads to is replaced. The
    new file has the permission bits of the old one, or those that the umask gives.

    Raises:
        InputError: `target` is there and no regular file, or the new file cannot be created, written or renamed.
    """
    with _reported(target):
        path, mode = _destination(target)
        folder, name = os.path.split(path)
        # 50 characters are at most 200 bytes, which leaves room for the rest within the 255 that file systems allow.
        # The process id alone would not make the name new: in containers it is often the same in every run.
        partial = os.path.join(folder, f".{name[:50]}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        stream = open(partial, "xb")  # noqa: SIM115 - closed below, before it is renamed
    try:
        with _reported(target):
            if mode is not None:
                os.chmod(partial, mode)
        yield stream
        with _reported(target):
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            os.replace(partial, path)
            _sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):  # what it could not write is to be thrown away anyway
            stream.close()
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _destination(target: str) -> tuple[str, int | None]:
    """Return the path of the file to replace, with links followed, and its permission bits, if there is one."""
    if not os.path.basename(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    path = os.path.realpath(target)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return path, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):  # renaming over a device would destroy it, and root may
        raise OSError(errno.EINVAL, "not a regular file")
    if not os.access(path, os.W_OK):  # renaming would replace a write-protected file without asking
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return path, stat.S_IMODE(mode)


def _sync_folder(folder: str) -> None:
    """Make the rename last, where a directory can be opened for that; the file itself is complete either way."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _unbuffered_stdout(stdout: BinaryIO | None) -> BinaryIO:
    """Return standard output without its buffer: a line is out once it is written, none is left to fail later."""
    if stdout is None and sys.stdout is None:  # so it is where the process was started with it closed
        raise InputError(f"{_STDOUT_NAME} is closed; give --output")
    buffered = sys.stdout.buffer if stdout is None else stdout
    with _reported(_STDOUT_NAME):
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
    with _reported(target):
        stream = open(target, "wb", buffering=0)  # noqa: SIM115 - closed below
    with stream:
        yield stream


@contextlib.contextmanager
def _reported(target: str) -> Iterator[None]:
    """Turn the system's refusal to write into an InputError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}); mend that, or give another --output") from None


def _csv_row(cells: Iterable[str]) -> str:
    # The csv module quotes a lone \r only in newer Pythons, and readers take it for the end of a row.
    quoted = ('"' + cell.replace('"', '""') + '"' if _CSV_QUOTED.search(cell) else cell for cell in cells)
    return ",".join(quoted).translate(_CSV_SPACES) + "\n"


def _tsv_row(cells: Iterable[str]) -> str:
    return "\t".join(cell.translate(_TSV_SPACES) for cell in cells) + "\n"
