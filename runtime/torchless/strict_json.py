"""JSON read without the parts of Python's reader that a hostile or broken file could use.

Standard `json` takes duplicate keys (the last one wins), `NaN` and `Infinity`, integers of any
length and nesting down to the interpreter's stack. A file that two readers can understand
differently is refused here instead.
"""

from __future__ import annotations

import json
from typing import Any

# Every integer of a manifest or a config fits a signed 64-bit one with room to spare.
_MAX_DIGITS = 19


class JSONError(ValueError):
    """The text is not the strict JSON that is read here; the message says why, without naming the file."""


def loads(data: bytes) -> Any:
    """Parse UTF-8 JSON; objects become dicts in the order of the file.

    Raises:
        JSONError: not UTF-8, not JSON, a duplicate key, NaN or Infinity, an integer of more than
            19 digits, or nesting too deep for the parser.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONError(f"byte {error.start} is not UTF-8") from None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_short_int)
    except json.JSONDecodeError as error:
        raise JSONError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise JSONError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        key = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise JSONError(f"the key {key!r} stands twice in one object")
    return result


def _no_constant(name: str) -> Any:
    raise JSONError(f"{name} is not JSON")


def _short_int(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise JSONError(f"an integer of {len(digits)} digits")
    return int(digits)
