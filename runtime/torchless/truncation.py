"""How an over-long text is cut: the tokenizers library's rule, on tokens that it has given already.

The library itself tokenizes again and keeps what it cuts off, in pieces: for a pair the product of both texts' pieces
(two texts of 100 KB: 3.1 s and 2.7 GB, against 0.05 s and nothing to speak of). Here what is cut off is let go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


class Encoding(Protocol):
    """One tokenized text, as `tokenizers.Encoding` has it; `tokens` and `offsets` only where they were asked for."""

    ids: list[int]
    type_ids: list[int]
    special_tokens_mask: list[int]
    sequence_ids: list[int | None]
    tokens: list[str]
    offsets: list[tuple[int, int]]

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Truncation:
    """Where and how an over-long text is cut: `max_length` tokens, special ones included."""

    max_length: int
    strategy: str = "longest_first"


@dataclass(slots=True, eq=False)
class CutEncoding:
    """What is left of an `Encoding`; the attributes are its."""

    ids: list[int]
    type_ids: list[int]
    special_tokens_mask: list[int]
    sequence_ids: list[int | None]
    tokens: list[str] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def cut(encoding: Encoding, truncation: Truncation, *, side: str = "right", offsets: bool = False) -> CutEncoding:
    """Return `encoding`, which is longer than `truncation.max_length`, without what is too much of its texts.

    `side` is where tokens are taken away. The special tokens around the texts all stay.

    Raises:
        ValueError: it cannot be cut so; the message says what was wanted.
    """
    sequences = encoding.sequence_ids
    lengths = sequences.count(0), sequences.count(1)
    room = truncation.max_length - (len(sequences) - sum(lengths))
    if room < 0:
        raise ValueError("there is less room than for the special tokens around it")
    # Without any room the library asks for no strategy.
    kept = _SHARES[truncation.strategy](*lengths, room) if room else (0, 0)
    # Each the library's copy, ours to shorten.
    columns: list[Any] = [encoding.ids, encoding.type_ids, encoding.special_tokens_mask, sequences]
    if offsets:
        columns += [encoding.tokens, encoding.offsets]
    for sequence, (length, share) in enumerate(zip(lengths, kept, strict=True)):
        if length:
            start = sequences.index(sequence)
            end = start + length
            gap = slice(start + share, end) if side == "right" else slice(start, end - share)
            for column in columns:
                del column[gap]
    return CutEncoding(*columns)


# `truncate_encodings` of tokenizers 0.22.2 (utils/truncation.rs): how many tokens of the two texts stay.


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def _only_first(first: int, second: int, room: int) -> tuple[int, int]:
    return _rest(room - second, "the first text"), second


def _only_second(first: int, second: int, room: int) -> tuple[int, int]:
    return first, _rest(room - first, "the second text" if second else "a second text, which it has not")


def _rest(room: int, text: str) -> int:
    if room < 1:
        raise ValueError(f"only {text} may be cut, and nothing would be left of it")
    return room


_SHARES: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    "longest_first": _longest_first,
    "only_first": _only_first,
    "only_second": _only_second,
}
