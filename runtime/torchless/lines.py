"""The lines of a text file, decoded, each of bounded length: where the input of `torchless run` enters."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from torchless.errors import InputError

__all__ = ["MAX_LINE", "Lines"]

MAX_LINE = 64 * 2**20  # bytes of a line, or characters of a .csv row of several: the most memory a broken file costs


class Lines:
    """The lines of a stream, decoded, each of bounded length; knows where it is, so that errors can say it.

    Attributes:
        number: of the line read last, from 1.
        index: of the record being read, from 0; kept by the caller.
        bytes_read: the bytes of the lines so far.
        limit: the most bytes of a line.
    """

    def __init__(self, name: str, stream: BinaryIO | gzip.GzipFile) -> None:
        """Read `stream`, which messages call `name`."""
        self.name = name
        self.number = 0
        self.index = 0
        self.bytes_read = 0
        self.limit = MAX_LINE
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        r"""Yield each line with its line break, `\n` and nothing else.

        Raises:
            InputError: while iterating, where the stream cannot be read, a line is too long or no UTF-8.
        """
        while line := self._read():
            if text := self._decoded(line):  # not so of a file that is a byte order mark alone
                yield text

    def error(self, what: str, line: int | None = None) -> InputError:
        """Return the error of the record being read, at `line` if that is not the one read last."""
        return InputError(f"{self.name}: line {line or self.number}: {what}", self.index)

    def _read(self) -> bytes:
        self.number += 1
        try:
            line = self._stream.readline(self.limit + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise self.error(f"broken or cut gzip data ({error}); check it with `gzip -t` or make it again") from None
        except OSError as error:
            raise self.error(f"cannot be read further ({error.strerror or error}); try again from a copy") from None
        if len(line) > self.limit:
            raise self.error(f"over {self.limit} bytes without a line break; wanted a text file of shorter lines")
        self.bytes_read += len(line)
        return line

    def _decoded(self, line: bytes) -> str:
        if self.number == 1:
            if line.startswith(b"\x1f\x8b"):
                raise self.error("gzip data; wanted text; let the name end in .gz, or decompress it with `gzip -dc`")
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise self._not_utf8("a UTF-16 byte order mark", "UTF-16")
            line = line.removeprefix(codecs.BOM_UTF8)
        if b"\0" in line:
            raise self._not_utf8("a NUL byte, as in UTF-16 or binary data", "UTF-16")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            byte = f"byte 0x{line[error.start]:02x} at position {error.start + 1}, which is not UTF-8"
            raise self._not_utf8(byte, "WINDOWS-1252") from None

    def _not_utf8(self, found: str, encoding: str) -> InputError:
        return self.error(f"{found}; wanted UTF-8 text; convert it, for example `iconv -f {encoding} -t UTF-8`")
