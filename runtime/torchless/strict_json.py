"""JSON read without the parts of Python's reader that a hostile or broken file could use.

Standard `json` takes duplicate keys (the last one wins), `NaN`, `Infinity` and numbers that become
one, integers of any length, halves of surrogate pairs, and nesting down to the interpreter's stack.
A file that two readers can understand differently is refused here instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

# transformers writes int(1e30), 31 digits, for "no maximum".
_MAX_DIGITS = 40
# No file here goes below ten; what walks a document later may do so recursively.
_MAX_DEPTH = 100
# A vocabulary of 256,000 words with its merges has 2 million. Each takes up to 100 bytes of memory.
_MAX_VALUES = 4_000_000
_TOO_DEEP = f"nested more than {_MAX_DEPTH} levels deep"


class JSONError(ValueError):
    """The text is not the strict JSON that is read here; the message says why, without naming the file."""


def loads(data: bytes) -> Any:
    """Parse UTF-8 JSON; objects become dicts in the order of the file.

    Raises:
        JSONError: not UTF-8, not JSON, a duplicate key, NaN, an infinity or a number that becomes one,
            an integer of more than 40 digits, a lone surrogate, nesting of more than 100 levels, or more than about
            4 million values.
    """
    # Those in strings are counted too: it is a wall, and counted before anything is made of them.
    if sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise JSONError(f"more than {_MAX_VALUES} values")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONError(f"byte {error.start} is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_short_int,
            parse_float=_finite_float,
        )
    except json.JSONDecodeError as error:
        raise JSONError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise JSONError(_TOO_DEEP) from None
    _check_depth(value)
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value)
    return value


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


def _finite_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise JSONError(f"{digits[:20]} is too large a number")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for item in level for child in _children(item) if isinstance(child, dict | list)]
        if not level:
            return
    raise JSONError(_TOO_DEEP)


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise JSONError("a string holds a lone surrogate") from None
