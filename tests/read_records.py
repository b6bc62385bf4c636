"""Input files that are written for a test, and what reading them gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from torchless.errors import InputError
from torchless.records import Record, open_records

Written = Callable[[str, bytes | str], str]


def read(path: str, **options: Any) -> list[Record]:
    """Return all records."""
    with open_records(path, **options) as reader:
        return list(reader)


def texts(path: str, **options: Any) -> list[str]:
    """Return the texts of all records."""
    return [record.text for record in read(path, **options)]


def failure(path: str, **options: Any) -> InputError:
    """Return the error of reading `path`, once it is known to be one line that names the file."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = caught.value.args[0]
    assert "\n" not in message
    assert message.startswith("standard input" if path == "-" else path)
    return caught.value
