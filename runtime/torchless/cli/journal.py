"""The journal of a run that can be gone on with: how far it has come, and what shaped its answers."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchless import strict_json
from torchless.errors import InputError
from torchless.records import Record

__all__ = ["ANEW", "Journal", "canonical"]

ANEW = "leave out --resume to start anew"

_FORMAT = 1
_LARGEST = 1 << 20  # bytes; a column's name may be long
_TYPES = {"records": int, "size": int, "cut": int, "sha256": str, "settings": dict}

_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Journal:
    """How far a run has come.

    Attributes:
        records: the records done, from the first.
        size: the bytes of the partial file that hold their results.
        cut: how many of their texts were cut.
        sha256: SHA-256 of their `canonical` bytes, hexadecimal.
        settings: what shapes an answer or the file, by the name that a person knows it by; None where not given.
    """

    records: int
    size: int
    cut: int
    sha256: str
    settings: Mapping[str, str | None]

    @classmethod
    def read(cls, path: str) -> Journal | None:
        """Return the journal at `path`, or None where there is none.

        Raises:
            InputError: it cannot be read, or is none that this version writes.
        """
        try:
            with open(path, "rb") as file:
                data = file.read(_LARGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); mend that, or {ANEW}") from None
        try:
            fields = strict_json.loads(data)
        except strict_json.JSONError as error:
            raise InputError(f"{path}: a broken journal ({error}); {ANEW}") from None
        version = fields.pop("format", None) if isinstance(fields, dict) else None
        if version != _FORMAT:
            raise InputError(f"{path}: a journal of format {version!r}, this torchless reads {_FORMAT}; {ANEW}")
        if not _is_sound(fields):
            raise InputError(f"{path}: a broken journal, whose fields are not {', '.join(_TYPES)}; {ANEW}")
        return cls(**fields)

    def write(self, path: str) -> None:
        """Put the journal in the place of the one at `path`, in one step and for good.

        Raises:
            OSError: it cannot be written; the old one is as it was.
        """
        draft = f"{path}.new"
        with contextlib.suppress(FileNotFoundError):  # of a run that was killed here
            os.unlink(draft)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(draft, flags, 0o666)
        try:
            try:
                left = _json({"format": _FORMAT, **asdict(self)}).encode()
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the error on its way says more
                os.unlink(draft)
            raise

    def difference(self, settings: Mapping[str, str | None]) -> str | None:
        """Say what was set otherwise than in `settings`; None where nothing was."""
        names = [name for name in {**self.settings, **settings} if self.settings.get(name) != settings.get(name)]
        if not names:
            return None
        return f"were done with {_said(names, self.settings)}, and this run has {_said(names, settings)}"


def canonical(rows: Sequence[Record]) -> bytes:
    """Return what was asked for of each record, however the input spells it, for a digest of them.

    These are the items of one JSON array, `[text, text_pair, columns...]` each: the bytes of many records are those
    of some of them and then those of the rest.

    Raises:
        RecursionError: a column is nested too deeply.
    """
    text = _json([[row.text, row.text_pair, *row.columns.values()] for row in rows])
    return (text[1:-1] + ", ").encode("utf-8", "surrogatepass")


def _is_sound(fields: dict[str, Any]) -> bool:
    return (
        {name: type(value) for name, value in fields.items()} == _TYPES
        and min(fields["records"], fields["size"]) > 0 <= fields["cut"]
        and all(value is None or isinstance(value, str) for value in fields["settings"].values())
    )


def _said(names: Sequence[str], settings: Mapping[str, str | None]) -> str:
    given = ((name, settings.get(name)) for name in names)
    return " and ".join(f"no {name}" if value is None else f"{name} {value}".rstrip() for name, value in given)
